"""The ready studies, as a package so that `qsearch init` finds them."""
