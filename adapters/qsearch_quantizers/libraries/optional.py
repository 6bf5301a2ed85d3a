"""Packages that are imported when they are first needed, and not with this package."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from qsearch._distribution import install_extra
from qsearch.errors import InputError


def optional_module(module: str, extra: str, needed_by: str | None = None) -> Any:
    """Import a module of an optional package.

    Args:
        module: Import path.
        extra: Name of the extra that installs it.
        needed_by: What needs it, for the message; the quantizer of the extra's name if None.

    Raises:
        InputError: If the package cannot be imported; the message names the extra.
    """
    package = module.partition(".")[0]
    try:
        with contextlib.nullcontext() if module in sys.modules else _quiet():
            # The package first: a module that is loaded already does not look for its package.
            importlib.import_module(package)
            return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{needed_by or f'quantizer {extra!r}'} needs the package {package}; install the extra:"
            f" {install_extra(extra)} ({error})"
        ) from error


def is_importable(package: str) -> bool:
    """Return whether an optional package can be imported here, by importing it.

    One that is installed may still not be: where its CUDA library does not fit the machine's,
    bitsandbytes raises what it happens to meet.
    """
    try:
        with contextlib.nullcontext() if package in sys.modules else _quiet():
            importlib.import_module(package)
    except Exception:
        return False
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what packages say of accelerators that they miss, but not errors."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
