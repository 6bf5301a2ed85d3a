"""The speed of a study's configurations in llama.cpp, as a sum over layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from qsearch_quantizers.gguf.ggml_types import TYPES, GGMLType

from qsearch.errors import InputError
from qsearch.plugins.engines import EngineSpeed
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
from qsearch_coalora.llama_cpp.evaluating import NAME, require_engine, written
from qsearch_coalora.llama_cpp.ggml import cpu_features, products
from qsearch_coalora.llama_cpp.library import package_version
from qsearch_coalora.llama_cpp.timing import PROMPT, clock, file_speed
from qsearch_coalora.training.study_model import StudyModel

_MOST_BYTES = 2**28
"""Of the weights that a token is multiplied with: more than caches hold, or the model's own."""

_PROMPT_WEIGHTS = 2**23
"""Weights that a prompt is multiplied with: that takes long enough, and caches matter little."""

_SECONDS, _LEAST_RUNS = 0.3, 5
"""How long products are repeated, and how often at least."""


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

    What files take beyond their products is the mean of these files: attention, norms, weights that
    are not searched, and starting each of a thousand small computations.
    """
    job = job_of(checked[0])
    looked_up, of_last = _tables(job)
    layers = [layer for layer in job.layers if layer.name not in looked_up]
    rows = {(row.shape, LayerConfiguration(row.configuration)): row for row in known}
    rows |= {
        (row.shape, LayerConfiguration(row.configuration)): row
        for row in _measured(job, layers, of_last, set(rows), conditions.threads, show)
    }
    needed = {layer.shape for layer in layers}
    kept = tuple(row for row in rows.values() if row.shape in needed)
    table = SpeedTable(conditions, kept, 0.0, 0.0, looked_up, of_last)
    checks, others = [], []
    for number, configuration in enumerate(checked, 1):
        show(f"file {number} of {len(checked)}")
        speed = _file(job_of(configuration), conditions.threads)
        checks.append(
            SpeedCheck(
                configuration.to_json(),
                speed.generation_tokens_per_second,
                speed.prompt_tokens_per_second,
            )
        )
        others.append(
            (
                1 / checks[-1].generation - 1 / table.generation(job.layers, configuration),
                1 / checks[-1].prompt - 1 / table.prompt(job.layers, configuration),
            )
        )
    # Below zero is noise of the measurement.
    means = [max(0.0, sum(values) / len(values)) for values in zip(*others, strict=True)]
    return replace(table, other_generation=means[0], other_prompt=means[1], checks=tuple(checks))


def _file(job: AdapterJob, threads: int) -> EngineSpeed:
    with written(job) as files:
        return file_speed(files.model, files.adapter, threads)


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
class _Product:
    """A product to measure: a layer configuration of a shape, stored as a type."""

    shape: tuple[int, int]
    configuration: LayerConfiguration
    kind: GGMLType
    is_head: bool


def _measured(
    job: AdapterJob,
    layers: Sequence[LayerSpec],
    of_last: Sequence[str],
    known: set[tuple[tuple[int, int], LayerConfiguration]],
    threads: int,
    show: SpeedProgress,
) -> Iterator[ProductSpeed]:
    """Yield the speeds of products that are not known, each type and shape measured once."""
    total = sum(layer.parameters for layer in layers)
    wanted = [
        product
        for product in _products(job, layers, of_last)
        if (product.shape, product.configuration) not in known
    ]
    done: dict[tuple[tuple[int, int], str], tuple[float, float]] = {}
    for product in wanted:
        shape, kind = product.shape, product.kind
        if (shape, kind.name) not in done:
            show(f"{kind.name} {shape[0]} × {shape[1]}")
            size, weights = shape[0] * kind.row_bytes(shape[1]), shape[0] * shape[1]
            copies = min(round(total / weights), _MOST_BYTES // size)
            generation = _nanoseconds(kind, shape, copies, 1, threads)
            prompt = math.nan
            if not product.is_head:
                copies = _PROMPT_WEIGHTS // weights
                prompt = _nanoseconds(kind, shape, copies, PROMPT, threads)
            done[shape, kind.name] = generation, prompt
        generation, prompt = done[shape, kind.name]
        yield ProductSpeed(shape, dict(product.configuration), kind.name, generation, prompt)


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
            own = replace(job, configuration=Configuration({layer.name: chosen}))
            try:
                kind = planned_type(own, position, "gguf")
            except InputError:  # An export of it is refused, too.
                continue
            yield _Product(shape, chosen, TYPES[kind], is_head)


def _nanoseconds(
    kind: GGMLType, shape: tuple[int, int], copies: int, tokens: int, threads: int
) -> float:
    """Return the least time that products take, by weight and token."""
    now = clock(threads)
    with products(kind, shape, max(1, copies), tokens, threads) as made:
        runs: list[float] = []
        while len(runs) < _LEAST_RUNS or sum(runs) < _SECONDS:
            started = now()
            made.compute()
            runs.append(now() - started)
        return 1e9 * min(runs) / made.weights / tokens
