"""The ``quantization_config`` of a packed export's ``config.json``.

It has the quantizer's name and options, ``layers`` with layer configurations by module path,
``adapter_rank``, the rank of every layer's adapter, or ranks by module path where they differ (0 is
none; embeddings and output heads never have one), ``adapter_bits``, 8 where it is in codes, and
``sha256``, the digests of the weight files by name, and of the other fields under
``quantization_config``; nothing is checked if it is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qsearch.errors import InputError
from qsearch_quantizers.packed.layers import FORMAT_VERSION, SETTINGS

_Check = Callable[[Any], bool]


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0


_FIELDS: dict[str, tuple[_Check, str]] = {
    "format_version": (
        lambda value: type(value) is int and value == FORMAT_VERSION,
        f"must be {FORMAT_VERSION} for this version of qsearch (export again)",
    ),
    "quantizer": (lambda value: isinstance(value, str), "must be a name"),
    "quantizer_options": (_is_section, "must be a section of options"),
    "layers": (_is_section, "must be a section of layers"),
    "adapter_rank": (
        lambda value: (
            _is_whole(value) or (_is_section(value) and all(map(_is_whole, value.values())))
        ),
        "must be a whole number of 0 or more, or a section of them",
    ),
    "adapter_bits": (
        lambda value: value is None or (type(value) is int and value == 8),
        "must be 8 or null",
    ),
    "sha256": (
        lambda value: value is None or _is_section(value),
        "must be a section of digests, or null",
    ),
}
_OPTIONAL = {"adapter_rank": 0, "adapter_bits": None, "sha256": None}


def rank_of(adapter_rank: int | Mapping[str, int], layer: str) -> int:
    """Return the rank of a layer's adapter, by its module path."""
    return adapter_rank if isinstance(adapter_rank, int) else adapter_rank.get(layer, 0)


def checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields, those that are missing with their default.

    Raises:
        InputError: If one is unknown, which would read the weights wrongly, missing or wrong.
    """
    for name in sorted(fields.keys() - _FIELDS.keys()):
        raise _error(name, f"unknown field; allowed here: {', '.join(sorted(_FIELDS))}")
    values = {**_OPTIONAL, **fields}
    for name, (is_right, message) in _FIELDS.items():
        if name not in values:
            raise _error(name, "is missing")
        if not is_right(values[name]):
            raise _error(name, f"{message}, not {_short(values[name])}")
    for layer, knobs in values["layers"].items():
        if not _is_section(knobs):
            raise _error(f"layers.{layer}", f"must be a section of knobs, not {_short(knobs)}")
        for knob, value in knobs.items():
            if type(value) not in (int, str):
                message = f"must be a whole number or a text, not {_short(value)}"
                raise _error(f"layers.{layer}.{knob}", message)
    return values


def _error(field: str, message: str) -> InputError:
    return InputError(f"config.json: {SETTINGS}.{field}: {message}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
