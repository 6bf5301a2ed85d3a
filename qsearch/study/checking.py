"""What a study will need, estimated before it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from qsearch.errors import InputError
from qsearch.plugins.capabilities import (
    SupportsDataCheck,
    SupportsQuantizerCheck,
    SupportsSpaceCheck,
    SupportsTaskCheck,
)
from qsearch.plugins.components import StudyComponents, build_components, readable_choices
from qsearch.plugins.formats import load_exporter
from qsearch.plugins.quantizer_capabilities import (
    SupportsInstallCheck,
    needs_inputs,
    quantize_weight,
)
from qsearch.search.initial_set import most_uniform
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.spec.search_spec import SearchSpec
from qsearch.spec.stopping import MIN_EVALUATIONS, round_shares
from qsearch.spec.study_spec import StudySpec
from qsearch.study.recipes import recipe_rows, study_recipes
from qsearch.study.warnings import source_precision, study_warnings, terms

_TRIED_ROWS = 8
_TRIED_FEATURES = 256
"""Weights that the quantizer is tried on: few, but more than one group of most quantizers."""


def check_study(spec: StudySpec, source: str, formats: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Validate a study as a run would; return its estimated needs as lines of (what, value).

    One is refused whose configurations some format could not hold.
    """
    components = build_components(spec, source)
    of_formats = [note for format in formats for note in _format_notes(components, format)]
    if isinstance(components.task, SupportsDataCheck):
        components.task.require_data()
    warnings = study_warnings(components)
    _try_quantizer(components)
    recipes = study_recipes(components)
    rows = recipe_rows(components.space, recipes, spec.search.bits)
    space, search = components.space, spec.search
    needs = components.trainer.requirements()
    roles = sorted({layer.role for layer in space.layers})
    quantized = sum(layer.parameters for layer in space.layers)
    least, greatest = space.average_bits_range
    baselines = most_uniform(space, search.initial, search.bits)
    rounds, evaluations, candidates = _planned(search, baselines)
    # Where nothing more is trained, later rounds repeat no evaluation.
    measured = evaluations if needs.training_flops[1] else search.initial_count + candidates
    configurations = search.initial_count + candidates
    flops = (
        needs.training_flops[0]
        + (rounds - 1) * needs.training_flops[1]
        + min(measured, evaluations) * needs.evaluation_flops
        + configurations * needs.first_evaluation_flops
    )
    memory = needs.memory_bytes + configurations * needs.configuration_bytes
    lines = [
        ("study", spec.name),
        (
            "model",
            f"{spec.model.name}, {needs.parameters / 1e6:.1f} M parameters"
            + (f", {precision.text}" if (precision := source_precision(components)) else ""),
        ),
        (
            "layers",
            f"{len(space.layers)} quantizable, {quantized / 1e6:.1f} M weights,"
            f" roles {', '.join(roles)}",
        ),
        (
            "space",
            f"{space.variables} variables in {len(space.groups)} groups,"
            f" 10^{np.log10(space.possible.sum(axis=1)).sum():.0f} configurations,"
            f" {least:.4g} to {greatest:.4g} average bits" + _pinned(space),
        ),
        *(
            ("recipe", f"{recipe.file}, {float(space.average_bits(index)):.4g} average bits")
            for recipe, (_, index) in zip(recipes.recipes, rows, strict=True)
        ),
        ("rounds", f"{rounds}, about {evaluations} evaluations"),
        ("memory", f"about {memory / 2**30:.1f} GiB"),
    ]
    if flops:
        hours = flops / _flops_per_second() / 3600
        duration = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"
        lines.append(("time", f"about {duration} on this machine's CPU (rough estimate)"))
    notes = (*_restrictions(space), *terms(components), *needs.notes, *of_formats)
    lines += [("note", note) for note in notes]
    return lines + [("warning", text) for text in warnings]


def _format_notes(components: StudyComponents, format: str) -> Sequence[str]:
    """Return what an export format says of a study's space; refuse what it cannot hold."""
    spec, quantizer = components.spec, components.quantizer
    exporter = load_exporter(format, spec.trainer.name, spec.quantizer.name)
    if isinstance(exporter, SupportsQuantizerCheck):
        exporter.require_quantizer(quantizer)
    if isinstance(exporter, SupportsTaskCheck):
        exporter.require_task(components.task)
    if not isinstance(exporter, SupportsSpaceCheck):
        return ()
    return exporter.require_space(spec.model, quantizer, components.space)


def _pinned(space: ConfigurationSpace) -> str:
    if not space.pinned:
        return ""
    one = len(space.pinned) == 1
    share = sum(layer.parameters for layer in space.layers if layer.name in space.pinned)
    return (
        f"; {len(space.pinned)} {'layer is' if one else 'layers are'} pinned by space.fixed, with"
        f" {share / space.parameters:.0%} of the weights and {space.pinned_bits:.4g} of the"
        " average bits"
    )


def _restrictions(space: ConfigurationSpace) -> Iterator[str]:
    """Say which layers cannot take every layer configuration, by those that they take."""
    every = space.choices.layer_configurations
    members: dict[tuple[int, ...], list[LayerSpec]] = {}
    for group, possible in zip(space.groups, space.possible, strict=True):
        if not possible.all():
            taken = tuple(np.flatnonzero(possible).tolist())
            members.setdefault(taken, []).extend(space.layers[each] for each in group.members)
    for taken, layers in members.items():
        roles = ", ".join(dict.fromkeys(layer.role for layer in layers))
        features = ", ".join(map(str, sorted({layer.shape[1] for layer in layers})))
        choices = readable_choices([every[place] for place in taken])
        yield (
            f"{len(layers)} of {len(space.layers)} layers (roles {roles}; {features} input"
            f" features) take only {choices}"
        )


def _try_quantizer(components: StudyComponents) -> None:
    """Quantize a few weights, since many quantizers import their package at first use.

    One that can say that it is installed is asked: importing PyTorch takes longer than all else.
    """
    quantizer = components.quantizer
    if isinstance(quantizer, SupportsInstallCheck):
        quantizer.require_installed()
        return
    import torch

    features = min(_TRIED_FEATURES, *(layer.shape[1] for layer in components.space.layers))
    weight = torch.randn(_TRIED_ROWS, features, generator=torch.Generator().manual_seed(0))
    moment = torch.eye(features) if needs_inputs(quantizer) else None
    configuration = quantizer.choices().layer_configurations[0]
    try:
        quantizer.dequantize(quantize_weight(quantizer, weight, configuration, moment))
    except ImportError as error:
        raise InputError(
            f"quantizer {components.spec.quantizer.name!r} cannot be used: {error}"
        ) from error


def _planned(search: SearchSpec, baselines: int) -> tuple[int, int, int]:
    """Return about how many rounds a study runs, its evaluations, and the candidates among them.

    Each round evaluates its set, which seldom outgrows the initial one by much, and the baselines
    that are not in it.
    """
    rounds = evaluations = candidates = 0
    limit = math.inf if search.stop.evaluations is None else search.stop.evaluations
    while rounds < search.rounds and limit - evaluations >= MIN_EVALUATIONS:
        members = search.initial_count + candidates  # All that there are.
        if search.keep != "all":
            members = min(members, search.initial_count + baselines)
        of_set, of_search = round_shares(search, evaluations, members)
        rounds += 1
        evaluations += of_set + of_search
        candidates += of_search
    return rounds, evaluations, candidates


def _flops_per_second(size: int = 768, repeats: int = 8) -> float:
    """Measure this machine's float32 matrix product, a third of which training reaches."""
    matrix = np.ones((size, size), dtype=np.float32)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 3
