"""Installed plugins, found by entry point."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from qsearch.errors import InputError
from qsearch.plugins.contract import require_contract

Group = Literal["quantizers", "trainers", "tasks", "exporters", "reports", "loggers"]


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its entry point's name and target, and its package with the version."""

    group: Group
    name: str
    target: str
    distribution: str


def installed_plugins(group: Group) -> tuple[Plugin, ...]:
    """Return the installed plugins of a group, by name."""
    return tuple(plugin for plugin, _ in _installed(group, _search_path()))


def load_plugin(group: Group, name: str) -> Any:
    """Import the class of a plugin.

    Raises:
        InputError: If no plugin has that name (the message lists what is installed), two packages
            have one (the message names them), its package cannot be imported, or it is written for
            another version of the contracts.
    """
    found = [each for each in _installed(group, _search_path()) if each[0].name == name]
    if not found:
        names = [plugin.name for plugin in installed_plugins(group)]
        raise InputError(f"no {group[:-1]} is called {name!r}; installed: {names}")
    packages = sorted({f"{plugin.distribution} ({plugin.target})" for plugin, _ in found})
    if len(packages) > 1:
        raise InputError(
            f"the {group[:-1]} {name!r} comes from {len(packages)} packages,"
            f" {' and '.join(packages)}; uninstall one of them, or rename its entry point"
        )
    point = found[0][1]
    try:
        plugin = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{group[:-1]} {name!r} ({point.value}) cannot be imported: {error}"
        ) from error
    require_contract(plugin, f"{group[:-1]} {name!r} of {found[0][0].distribution}")
    return plugin


_SearchPath = tuple[tuple[str, float], ...]


def _search_path() -> _SearchPath:
    """Return the folders of packages, each with when a package in it last came or went."""
    return tuple((place, _changed(Path(place))) for place in sys.path)


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # Python ignores what it cannot look into.
        return 0.0


@cache
def _installed(group: Group, _: _SearchPath) -> tuple[tuple[Plugin, metadata.EntryPoint], ...]:
    """Return a group's plugins with their entry points, by name.

    All packages are looked through, which may be hundreds, so once for each state of the path.
    """
    found = [
        (Plugin(group, point.name, point.value, _distribution(point)), point)
        for point in metadata.entry_points(group=f"qsearch.{group}")
    ]
    return tuple(sorted(found, key=lambda each: each[0].name))


def _distribution(point: metadata.EntryPoint) -> str:
    if not point.dist:
        return "unknown"
    package = point.dist.metadata
    return f"{package['Name']} {package['Version']}"
