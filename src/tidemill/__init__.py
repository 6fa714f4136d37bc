"""Tidemill: a distributed task scheduler."""

__version__ = "0.1.0"
