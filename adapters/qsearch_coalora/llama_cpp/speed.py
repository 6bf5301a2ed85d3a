"""The speed of a study's configurations in llama.cpp, as a sum over layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from qsearch_quantizers.gguf.ggml_types import TYPES, GGMLType

from qsearch.errors import InputError
from qsearch.plugins.quantizer_capabilities import SupportsShapeChoices
from qsearch.plugins.speed import (
    ProductSpeed,
    SpeedCheck,
    SpeedConditions,
    SpeedProgress,
    SpeedTable,
)
from qsearch.provenance.environment import find_machine
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.space.layers import HEAD, LayerSpec
from qsearch_coalora.export.ggml_weights import planned_type
from qsearch_coalora.export.job import AdapterJob
from qsearch_coalora.export.llama_library import package_version
from qsearch_coalora.llama_cpp.evaluating import NAME, EngineFiles, require_engine, written
from qsearch_coalora.llama_cpp.ggml import cpu_features, products
from qsearch_coalora.llama_cpp.timing import PROMPT, clock, file_speed
from qsearch_coalora.training.study_model import StudyModel

_MOST_BYTES = 2**28
"""Of the weights that a token is multiplied with: more than caches hold, or the model's own."""

_PROMPT_WEIGHTS = 2**23
"""Weights that a prompt is multiplied with: that takes long enough, and caches matter little."""

_SECONDS, _LEAST_RUNS = 0.1, 3
"""How long products are repeated in a pass, and how often at least."""

_PASSES = (3, 10)
"""How often all is measured, at least and at most. What slows a machine down may last a minute."""

_SETTLED = 0.01
"""Share by which times fall from one pass to the next, on average, where they are known."""


def speed_conditions(study: StudyModel, threads: int) -> SpeedConditions:
    """Return what a speed is of that is measured here and now.

    Raises:
        InputError: If llama.cpp is not installed, or does not run the study's configurations.
    """
    require_engine(study, "measure-speed")
    machine = f"{find_machine().processor}; {cpu_features()}"
    return SpeedConditions(NAME, package_version(), machine, threads, PROMPT)


def measure_speed(
    job_of: Callable[[Configuration], AdapterJob],
    conditions: SpeedConditions,
    checked: Sequence[Configuration],
    known: Sequence[ProductSpeed] = (),
    show: SpeedProgress = lambda what: None,
) -> SpeedTable:
    """Measure the products of a study's layers, and whole files of some configurations.

    Times are the least of several passes over all of them. What files take beyond their products
    is the mean of these files: attention, norms, weights that are not searched, and starting each
    of a thousand small computations.
    """
    job = job_of(checked[0])
    looked_up, of_last = _tables(job)
    layers = [layer for layer in job.layers if layer.name not in looked_up]
    rows = {(row.shape, LayerConfiguration(row.configuration)): row for row in known}
    wanted = list(_products(job, layers, of_last))
    missing = [one for one in wanted if (one.shape, one.configuration) not in rows]
    total = sum(layer.parameters for layer in layers)
    timed = list(dict.fromkeys(one.timed for one in missing))
    with ExitStack() as stack:
        paths = []
        for number, configuration in enumerate(checked, 1):
            show(f"writing file {number} of {len(checked)}")
            paths.append(stack.enter_context(written(job_of(configuration))))
        measures = [partial(_product_times, one, total, conditions.threads) for one in timed]
        measures += [partial(_file_times, files, conditions.threads) for files in paths]
        times = _least_times(measures, show)
    of_products = dict(zip(timed, times, strict=False))
    products = []
    for one in wanted:
        row = rows.get((one.shape, one.configuration))
        if row is None:
            generation, prompt = (1e9 * seconds for seconds in of_products[one.timed])
            if one.timed.is_head:
                prompt = math.nan
            kind = one.timed.kind.name
            row = ProductSpeed(one.shape, dict(one.configuration), kind, generation, prompt)
        products.append(row)
    table = SpeedTable(conditions, tuple(products), 0.0, 0.0, looked_up, of_last)
    checks, others = [], []
    for configuration, (generation, prompt) in zip(checked, times[len(timed) :], strict=True):
        checks.append(SpeedCheck(configuration.to_json(), 1 / generation, 1 / prompt))
        others.append(
            (
                generation - 1 / table.generation(job.layers, configuration),
                prompt - 1 / table.prompt(job.layers, configuration),
            )
        )
    # Below zero is noise of the measurement.
    means = [max(0.0, sum(values) / len(values)) for values in zip(*others, strict=True)]
    return replace(table, other_generation=means[0], other_prompt=means[1], checks=tuple(checks))


Times = tuple[float, float]
"""Seconds of a token that is generated, and of one of a prompt; of a weight, if of a product."""


def _least_times(measures: Sequence[Callable[[], Times]], show: SpeedProgress) -> list[Times]:
    """Return the least times of all measurements, repeated in turns until they hardly fall."""
    least = [(math.inf, math.inf)] * len(measures)
    for number in range(1, _PASSES[1] + 1):
        falls = []
        for place, measure in enumerate(measures):
            show(f"{place + 1} of {len(measures)}, pass {number}")
            before, now = least[place], measure()
            own = min(before[0], now[0]), min(before[1], now[1])
            falls += [1 - after / old for after, old in zip(own, before, strict=True)]
            least[place] = own
        if number >= _PASSES[0] and sum(falls) <= _SETTLED * len(falls):
            break
    return least


def _file_times(files: EngineFiles, threads: int) -> Times:
    speed = file_speed(files.model, files.adapter, threads)
    return 1 / speed.generation_tokens_per_second, 1 / speed.prompt_tokens_per_second


def _tables(job: AdapterJob) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the embedding that is looked up alone, and of the output head."""
    layers = [layer for layer in job.layers if layer.is_table]
    # The tables of the adapted model have the order of the layers.
    is_head = [
        layer.role == HEAD or table.head_path is not None
        for layer, table in zip(layers, job.adapted.tables, strict=True)
    ]
    heads = tuple(layer.name for layer, own in zip(layers, is_head, strict=True) if own)
    return tuple(layer.name for layer in layers if layer.name not in heads), heads


@dataclass(frozen=True)
class _Timed:
    """What is measured once: a type and a shape; of heads, no prompt."""

    shape: tuple[int, int]
    kind: GGMLType
    is_head: bool


@dataclass(frozen=True)
class _Product:
    """A layer configuration of a shape, and what is measured for it."""

    shape: tuple[int, int]
    configuration: LayerConfiguration
    timed: _Timed


def _products(
    job: AdapterJob, layers: Sequence[LayerSpec], of_last: Sequence[str]
) -> Iterator[_Product]:
    """Yield the layer configurations that layers of each shape can have, if files hold them."""
    quantizer = job.quantizer
    by_shape = {layer.shape: layer for layer in layers}
    for shape, layer in by_shape.items():
        is_head = all(other.name in of_last for other in layers if other.shape == shape)
        position = job.layers.index(layer)
        for chosen in quantizer.choices().layer_configurations:
            if isinstance(quantizer, SupportsShapeChoices) and not quantizer.takes(shape, chosen):
                continue
            own = replace(job, searched=Configuration({layer.name: chosen}))
            try:
                kind = planned_type(own, position, "gguf")
            except InputError:  # An export of it is refused, too.
                continue
            yield _Product(shape, chosen, _Timed(shape, TYPES[kind], is_head))


def _product_times(product: _Timed, total: int, threads: int) -> Times:
    """Measure products of a token with as many weights as a model has, and of a prompt."""
    shape, kind = product.shape, product.kind
    size, weights = shape[0] * kind.row_bytes(shape[1]), shape[0] * shape[1]
    copies = min(round(total / weights), _MOST_BYTES // size)
    generation = _seconds(product, copies, 1, threads)
    if product.is_head:
        return generation, generation
    return generation, _seconds(product, _PROMPT_WEIGHTS // weights, PROMPT, threads)


def _seconds(product: _Timed, copies: int, tokens: int, threads: int) -> float:
    """Return the least time that products take, by weight and token."""
    now = clock(threads)
    with products(product.kind, product.shape, max(1, copies), tokens, threads) as made:
        runs: list[float] = []
        while len(runs) < _LEAST_RUNS or sum(runs) < _SECONDS:
            started = now()
            made.compute()
            runs.append(now() - started)
        return min(runs) / made.weights / tokens
