"""What both kits share: classes of checks that pytest collects, and that run without it.

A check is a method called ``test_…``. It raises AssertionError with what was expected and what was
found, so nothing depends on pytest's rewriting of assertions, nor on ``assert`` itself, which
``python -O`` leaves out. ``unittest.SkipTest``, which pytest knows, tells that a check does not
apply.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar
from unittest import SkipTest

from qsearch.errors import InputError


class ConformanceError(AssertionError):
    """A plugin failed checks.

    Args:
        subject: What was checked.
        failures: What was found, by the name of each failed check.
        checks: How many checks there are.
    """

    def __init__(self, subject: str, failures: Mapping[str, str], checks: int) -> None:
        self.failures = dict(failures)
        lines = [f"{subject} fails {len(failures)} of {checks} checks"]
        lines += [f"  {name}: {found}" for name, found in failures.items()]
        super().__init__("\n".join(lines))


class Conformance:
    """A class of checks; pytest collects its subclasses, wherever they are, but not itself."""

    __test__: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # A subclass that other classes share sets __test__ to False itself.
        if "__test__" not in vars(cls):
            cls.__test__ = True

    @classmethod
    def checks(cls) -> tuple[str, ...]:
        """Return the names of the checks, those of a subclass before those of its bases."""
        names = [name for base in cls.__mro__ for name in vars(base)]
        return tuple(dict.fromkeys(name for name in names if name.startswith("test_")))

    def setup_method(self) -> None:
        """Do what is needed before each check; pytest calls it too."""

    def teardown_method(self) -> None:
        """Undo what :meth:`setup_method` did; pytest calls it too."""

    def run(self, subject: str) -> None:
        """Run all checks, those after a failed one too.

        Args:
            subject: What is checked, for the message.

        Raises:
            ConformanceError: If a check fails, or the plugin raises what it may not.
        """
        failures: dict[str, str] = {}
        for name in self.checks():
            self.setup_method()
            try:
                getattr(self, name)()
            except SkipTest:
                continue
            except AssertionError as error:
                failures[name] = str(error)
            except Exception as error:
                failures[name] = f"raised {described(error)}"
            finally:
                self.teardown_method()
        if failures:
            raise ConformanceError(subject, failures, len(self.checks()))


def described(error: BaseException) -> str:
    """Return an exception's type and message."""
    return f"{type(error).__name__}: {error}"


def refuse_class(what: str, given: object) -> None:
    """Refuse a class in place of what is made of it, which would fail nearly every check.

    Args:
        what: What is expected, for the message.
        given: What a caller gave.

    Raises:
        TypeError: If it is a class.
    """
    if isinstance(given, type):
        name = given.__name__
        raise TypeError(
            f"expected a {what}, found the class {name}; make one, such as {name}({name}.Options())"
        )


def require(holds: bool, message: str) -> None:
    """Raise AssertionError with a message unless something holds."""
    if not holds:
        raise AssertionError(message)


def require_equal(what: str, found: object, expected: object) -> None:
    """Raise AssertionError that names both unless what was found equals what was expected."""
    require(found == expected, f"{what}: expected {expected!r}, found {found!r}")


def require_refusal(
    what: str, call: Callable[[], object], expected: type[Exception] = InputError
) -> None:
    """Check that bad input is refused.

    Args:
        what: The input, for the message.
        call: Hands it to the plugin.
        expected: The exception that refuses it.

    Raises:
        AssertionError: If the call returns, or raises another exception.
    """
    try:
        call()
    except expected:
        return
    except Exception as error:
        raise AssertionError(
            f"{what}: expected {expected.__name__}, found {described(error)}"
        ) from error
    raise AssertionError(f"{what}: expected {expected.__name__}, found that it is taken")
