"""Installed plugins, found by entry point."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from qsearch.errors import InputError

Group = Literal["quantizers", "trainers", "tasks", "reports", "loggers"]


@dataclass(frozen=True)
class Plugin:
    """An installed plugin: its entry point's name and target, and its package with the version."""

    group: Group
    name: str
    target: str
    distribution: str


def installed_plugins(group: Group) -> tuple[Plugin, ...]:
    """Return the installed plugins of a group, by name."""
    plugins = [
        Plugin(group, point.name, point.value, _distribution(point))
        for point in metadata.entry_points(group=f"qsearch.{group}")
    ]
    return tuple(sorted(plugins, key=lambda plugin: plugin.name))


def load_plugin(group: Group, name: str) -> Any:
    """Import the class of a plugin.

    Raises:
        InputError: If no plugin has that name (the message lists what is installed), two packages
            have one (the message names them), or its package cannot be imported.
    """
    points = metadata.entry_points(group=f"qsearch.{group}", name=name)
    if not points:
        names = [plugin.name for plugin in installed_plugins(group)]
        raise InputError(f"no {group[:-1]} is called {name!r}; installed: {names}")
    packages = sorted({f"{_distribution(point)} ({point.value})" for point in points})
    if len(packages) > 1:
        raise InputError(
            f"the {group[:-1]} {name!r} comes from {len(packages)} packages,"
            f" {' and '.join(packages)}; uninstall one of them, or rename its entry point"
        )
    point = next(iter(points))
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{group[:-1]} {name!r} ({point.value}) cannot be imported: {error}"
        ) from error


def _distribution(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
