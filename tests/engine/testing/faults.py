"""Plugins with a fault each, and whether a kit's check finds it."""

import inspect

import pytest


def replaced(plugin, /, **methods):
    """A class with other methods."""
    return type("Faulty", (plugin,), methods)


def altered(plugin, /, **changes):
    """A class whose methods return what changes make of the right results, and the arguments."""

    def method(name, change):
        right = getattr(plugin, name)
        return lambda self, *arguments: change(right(self, *arguments), *arguments)

    return replaced(plugin, **{name: method(name, change) for name, change in changes.items()})


def checks(kit):
    return {name.removeprefix("test_") for name in dir(kit) if name.startswith("test_")}


def run(kit, check, tmp_path):
    """Run a check as pytest does: with each of its parameters."""
    method = getattr(kit, f"test_{check}")
    arguments = {"tmp_path": tmp_path} if "tmp_path" in inspect.signature(method).parameters else {}
    marks = [mark for mark in getattr(method, "pytestmark", ()) if mark.name == "parametrize"]
    for value in marks[0].args[1] if marks else [None]:
        method(**arguments, **({marks[0].args[0]: value} if marks else {}))


def each(faults):
    """A test for each fault of a table by check and what the check then says."""
    table = [(check, says, plugin) for check in faults for says, plugin in faults[check].items()]
    names = [f"{check}: {says}" for check, says, _ in table]
    return pytest.mark.parametrize(("check", "says", "plugin"), table, ids=names)


def assert_found(kit, check, says, tmp_path):
    with pytest.raises((Exception, pytest.fail.Exception), match=says):
        run(kit, check, tmp_path)
