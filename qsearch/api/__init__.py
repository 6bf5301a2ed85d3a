"""The Python API: what ``import qsearch`` offers, by these names alone."""
