"""``qsearch``, and ``python -m qsearch``: the command line, where its packages are installed."""

import sys

from qsearch._distribution import install_extra


def main() -> None:
    """Run the command line; without a package that it needs, say how to install it."""
    try:
        from qsearch.cli.main import main as run
    except ModuleNotFoundError as error:
        print(
            f"qsearch needs the package {error.name}: {install_extra('llm')}"
            " (without it, packed exports can be loaded)",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
