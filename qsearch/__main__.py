"""``python -m qsearch``: the command line."""

from qsearch.cli.main import main

main()
