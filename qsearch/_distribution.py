"""The distribution that pip installs: the name of the package is taken on the index."""

DISTRIBUTION = "qsearch-llm"


def install_extra(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
