"""Measurements of qsearch: each module is one benchmark, or what several of them share."""
