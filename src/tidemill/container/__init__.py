"""Builds everything out of settings, by plain constructor calls: the only room that knows all.

A module for each role, and one for each ground that roles stand on. Each imports what it builds and
nothing else, so that a process loads neither the drivers of servers that it does not use nor the
web framework of an API that it is not (docs/adr/0039).
"""
