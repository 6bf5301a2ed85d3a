"""Plugins with a fault each, and the check of a kit that has to find it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Fault:
    """A check that a plugin fails, a pattern of what that says, and the plugin.

    ``arguments`` are those of a check that pytest makes a test of for each of several.
    """

    check: str
    told: str
    plugin: type
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.check}: {self.told}"


def altered(plugin: type, **changes: Callable[..., Any]) -> type:
    """Return a class whose methods return what the changes make of the right results.

    A change is called with the right result and the method's arguments.
    """

    def method(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def called(self: Any, *arguments: Any) -> Any:
            return change(getattr(super(faulty, self), name)(*arguments), *arguments)

        return called

    methods = {name: method(name, change) for name, change in changes.items()}
    faulty = type("Faulty", (plugin,), methods)
    return faulty


def checks(kit: type) -> set[str]:
    return {name.removeprefix("test_") for name in dir(kit) if name.startswith("test_")}


def assert_found(fault: Fault, kit: Any, tmp_path: Path) -> None:
    """Assert that the kit of the fault's plugin fails its check, and says what is told."""
    check = getattr(kit, f"test_{fault.check}")
    arguments = dict(fault.arguments)
    if "tmp_path" in inspect.signature(check).parameters:
        arguments["tmp_path"] = tmp_path
    with pytest.raises((Exception, pytest.fail.Exception), match=fault.told):
        check(**arguments)
