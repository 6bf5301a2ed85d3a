"""The ready studies that ship with qsearch."""

from __future__ import annotations

from importlib import resources

from qsearch.errors import InputError


def template_names() -> list[str]:
    """Return the names of the ready studies."""
    folder = resources.files("qsearch_studies")
    names = [entry.name for entry in folder.iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_template(name: str) -> str:
    """Return the YAML text of a ready study.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in template_names():
        raise InputError(f"no ready study is called {name!r}; there are: {template_names()}")
    return (resources.files("qsearch_studies") / f"{name}.yaml").read_text(encoding="utf-8")
