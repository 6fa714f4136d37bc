"""The figures that the README and the notes quote, measured from outside on real servers."""
