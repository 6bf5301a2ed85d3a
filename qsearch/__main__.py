"""``qsearch``, and ``python -m qsearch``: the command line, where the search is installed."""

import sys
from importlib.util import find_spec

from qsearch._distribution import install_extra


def main() -> None:
    """Run the command line; without the packages of a search, say how to install them."""
    if find_spec("ax") is None:
        print(
            f"qsearch: a search needs more packages: {install_extra('llm')}"
            " (without them, packed exports can be loaded)",
            file=sys.stderr,
        )
        sys.exit(2)
    from qsearch.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
