"""The labels of a classification, and the order of the model's outputs for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from qsearch.errors import InputError

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_UNNAMED = re.compile(r"LABEL_[0-9]+|None")
"""What transformers calls outputs without a name, and a null in ``config.json``."""


def sorted_labels(labels: Collection[str]) -> tuple[str, ...]:
    """Return distinct labels in order, integers by their values."""
    distinct = sorted(set(labels))
    if all(_INTEGER.fullmatch(label) for label in distinct):
        distinct.sort(key=int)
    return tuple(distinct)


def require_all(given: Sequence[str], labels: Collection[str]) -> tuple[str, ...]:
    """Return labels as given; InputError unless those of the training data are among them."""
    missing = set(labels) - set(given)
    if missing:
        raise InputError(
            f"task.labels {list(given)} must hold all labels of the training data; it lacks"
            f" {list(sorted_labels(missing))}"
        )
    return tuple(given)


def as_the_head_has_them(
    labels: Sequence[str], outputs: Mapping[int, object], model: str
) -> tuple[str, ...]:
    """Return labels in the order of a trained head's outputs, ``id2label`` of its configuration.

    Where the outputs have no names of their own, the head was trained on labels in the data's
    order, as far as is known.

    Raises:
        InputError: If the outputs have other names than the labels.
    """
    names = [str(outputs[index]) for index in sorted(outputs)]
    if sorted(names) == sorted(labels):
        return tuple(names)
    if all(_UNNAMED.fullmatch(name) for name in names):
        return tuple(labels)
    by_name = {label.casefold(): label for label in labels}
    if sorted(by_name) != sorted(name.casefold() for name in names):
        raise InputError(
            f"model.name {model!r} has outputs named {names}, the training data has labels"
            f" {list(labels)}: give task.labels, the data's labels in the order of the outputs"
        )
    return tuple(by_name[name.casefold()] for name in names)
