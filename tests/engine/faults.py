"""Plugins with a fault each, and the check of a kit that is to find it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Fault = tuple[str, str, type]
"""The check that a plugin fails, a pattern of what that says, and the plugin."""


def listing(faults: list[Fault]) -> Callable[[str, str], Callable[[type], type]]:
    """Return a decorator factory, called with check and pattern, that lists a faulty plugin."""

    def fails(check: str, told: str) -> Callable[[type], type]:
        def listed(plugin: type) -> type:
            faults.append((f"test_{check}", told, plugin))
            return plugin

        return listed

    return fails


def assert_found(fault: Fault, failures: Mapping[str, str]) -> None:
    """Assert that a kit's failures, by check, have the one for a fault."""
    check, told, _ = fault
    assert check in failures
    assert re.search(told, failures[check]), failures[check]
