"""Which studies are one method with several seeds, and what differs between methods."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pandas as pd

from qsearch.plugins.digests import Inputs
from qsearch_reports.results import StudyResults
from qsearch_reports.texts import metric_text, whole_text

NOT_GIVEN = "not given"
"""What stands for a setting that a study does not have."""

_FREE = ("name", "seed")
_SEED_WORD = re.compile(r"(?:^|(?<=[\W_]))(?:seeds?|s|runs?|repeat|no)$", re.IGNORECASE)
_SEPARATORS = " \t_-.,:;/\\(=[{#+"


@dataclass(frozen=True)
class Method:
    """Studies, by their positions among all compared, that differ in nothing but their seeds."""

    label: str
    studies: tuple[int, ...]
    seeds: tuple[int | None, ...]


def group_methods(results: Sequence[StudyResults], names: Sequence[str]) -> tuple[Method, ...]:
    """Return the methods that studies belong to, in order of their first studies.

    Studies whose settings agree in all but ``name`` and ``seed`` are one method. A study whose
    settings are not known, and one that repeats the seed of an earlier one, stand by themselves:
    a repetition does not show how much another seed would change.
    """
    members: dict[Hashable, list[int]] = {}
    for place, result in enumerate(results):
        settings = _shared(result)
        key: Hashable = place if settings is None else frozenset(settings.items())
        if _seed(result) in [_seed(results[other]) for other in members.get(key, ())]:
            key = place
        members.setdefault(key, []).append(place)
    groups = list(members.values())
    labels = [
        names[group[0]]
        if len(group) == 1
        else common_label([results[place].record.name for place in group])
        for group in groups
    ]
    return tuple(
        Method(label, tuple(group), tuple(_seed(results[place]) for place in group))
        for label, group in zip(distinct(labels), groups, strict=True)
    )


def _seed(result: StudyResults) -> int | None:
    seed = (result.settings or {}).get("seed")
    return seed if isinstance(seed, int) else None


def _shared(result: StudyResults) -> dict[str, str] | None:
    """Return the settings, flat, that all studies of a method share; None if they are not known."""
    if result.settings is None:
        return None
    return flatten({name: value for name, value in result.settings.items() if name not in _FREE})


def common_label(names: Sequence[str]) -> str:
    """Return what names have in common: what they begin with, less the mention of a seed.

    Without a common beginning it is the first of the names.
    """
    prefix = os.path.commonprefix(list(names))  # noqa: RUF071  (character by character)
    if set(names) != {prefix}:
        # Of "seed 10" and "seed 11" the 1 is not a part of what they share.
        rests = [name[len(prefix) :] for name in names]
        if any(rest[:1].isdigit() for rest in rests):
            prefix = prefix.rstrip("0123456789")
        prefix = _SEED_WORD.sub("", prefix.rstrip(_SEPARATORS))
    return prefix.rstrip(_SEPARATORS).strip() or names[0]


def distinct(labels: Sequence[str]) -> list[str]:
    """Return labels with a number behind those that an earlier one equals."""
    taken: list[str] = []
    for label in labels:
        numbered = (f"{label} ({number})" for number in count(2))
        free = (made for made in numbered if made not in {*taken, *labels})
        taken.append(next(free) if label in taken else label)
    return taken


def setting_differences(results: Sequence[StudyResults], methods: Sequence[Method]) -> pd.DataFrame:
    """Return ``setting``, ``method`` and ``value`` where methods differ, all methods for each."""
    shared = {method.label: _shared(results[method.studies[0]]) for method in methods}
    known = {label: settings for label, settings in shared.items() if settings is not None}
    fields = dict.fromkeys(field for settings in known.values() for field in settings)
    rows = [
        (field, label, settings.get(field, NOT_GIVEN))
        for field in fields
        if len({settings.get(field, NOT_GIVEN) for settings in known.values()}) > 1
        for label, settings in known.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "method", "value"])


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as one level: ``section.field`` and the value as text."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        key = whole_text(f"{prefix}{name}")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, str):
            flat[key] = whole_text(value)
        else:
            flat[key] = whole_text(json.dumps(value, ensure_ascii=False, default=repr))
    return flat


def incomparable(results: Sequence[StudyResults]) -> dict[str, list[str]]:
    """Return in what studies differ so that their losses, or average bits, mean different things.

    It is the value in each study as text, by what differs. Validation examples are compared where
    the studies recorded digests of them, and the settings of their tasks otherwise.
    """
    records = [result.record for result in results]
    inputs = [record.sessions[-1].inputs if record.sessions else Inputs() for record in records]
    values_by: dict[str, list[str]] = {
        "model": [record.model for record in records],
        "task": [record.task for record in records],
        "task metric": [
            metric_text(record.metric) if record.metric else "none" for record in records
        ],
        "quantized layers": [
            f"{len(record.layers)} layers, {sum(layer.parameters for layer in record.layers):,}"
            " weights"
            for record in records
        ],
    }
    digests = [own.data.get("validation") for own in inputs]
    known = [digest for digest in digests if digest is not None]
    if len(known) == len(digests):
        values_by["validation examples"] = [
            f"{digest.count:,} with SHA-256 {digest.sha256[:12]}…" for digest in known
        ]
    else:
        values_by["settings of the task"] = _texts(
            {} if result.settings is None else result.settings.get("task") for result in results
        )
    return {what: values for what, values in values_by.items() if len(set(values)) > 1}


def _texts(values: Iterable[Any]) -> list[str]:
    return [
        ", ".join(f"{name}: {text}" for name, text in flatten(value).items())
        if isinstance(value, Mapping)
        else repr(value)
        for value in values
    ]
