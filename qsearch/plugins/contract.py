"""The version of the contracts between the engine and its plugins.

It rises when a plugin that keeps the contracts of :mod:`qsearch.plugins.protocols` and
:mod:`qsearch.plugins.capabilities` as they were would fail or give other results: a method is
required that was not, or has other arguments, or what it must return means something else. It stays
when optional capabilities, fields with a default, or checks of the conformance kit are added. A
version is never taken up again, and the changelog says what a plugin must change.
"""

from __future__ import annotations

from typing import Any

from qsearch._distribution import DISTRIBUTION
from qsearch.errors import InputError

CONTRACT = 2


def require_contract(plugin: Any, title: str) -> None:
    """Refuse a plugin that states another version; one that states none is taken as it is.

    Raises:
        InputError: If it does; the title, such as ``quantizer 'x' of package 1.0``, begins the
            message.
    """
    stated = getattr(plugin, "contract", CONTRACT)
    if stated != CONTRACT:
        raise InputError(
            f"{title} is written for version {stated!r} of qsearch's plugin contracts; this"
            f" {DISTRIBUTION} supports version {CONTRACT}: install versions of both packages that"
            " agree"
        )
