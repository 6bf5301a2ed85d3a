"""From a study's data to its components: quantizer, task, trainer and space."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsEmbeddings, SupportsFootprint
from qsearch.plugins.protocols import Measured, Quantizer, Task, Trainer
from qsearch.plugins.quantizer_capabilities import SupportsShapeBits, SupportsShapeChoices
from qsearch.plugins.registry import Group, load_plugin
from qsearch.plugins.trainer_knobs import SupportsTrainerKnobs
from qsearch.plugins.trial_columns import require_names
from qsearch.space.configuration import Choices, KnobValue, LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.spec.sections import OBJECTIVE, PluginSpec, SpaceSpec
from qsearch.spec.study_spec import StudySpec
from qsearch.spec.validation import validate

PYTHON_ONLY = (
    "the loss of this study is a Python function, which no file holds: continue it in Python with"
    " qsearch.create_study or qsearch.load_study, and use its configurations with qsearch.quantized"
)


@dataclass(frozen=True)
class StudyComponents:
    """The components of one study.

    The spec has the plugins' defaults written out; the trainer has loaded neither model nor data.
    """

    spec: StudySpec
    quantizer: Quantizer
    task: Measured
    trainer: Trainer
    space: ConfigurationSpace


def build_components(spec: StudySpec, source: str = "study") -> StudyComponents:
    """Build a study's components from installed plugins.

    Raises:
        InputError: If a plugin is unknown, misnamed or refuses its options, or the model has no
            layer; the message names the source.
    """
    if OBJECTIVE in (spec.trainer.name, spec.task.name):
        raise InputError(f"{source}: trainer.name: {OBJECTIVE!r}: {PYTHON_ONLY}")
    quantizer_type, quantizer_options = _plugin("quantizers", spec.quantizer, source)
    task_type, task_options = _plugin("tasks", spec.task, source)
    trainer_type, trainer_options = _plugin("trainers", spec.trainer, source)
    quantizer: Quantizer = quantizer_type(quantizer_options)
    task: Task = task_type(task_options)
    require_names([metric.name for metric in task.metrics], f"task {spec.task.name!r}")
    _require_objective(spec, task, source)
    _require_own_name("quantizer", spec.quantizer, quantizer.name, source)
    _require_own_name("task", spec.task, task.name, source)
    trainer: Trainer = trainer_type(trainer_options, spec.model, task, quantizer, spec.seed)
    if spec.space.embeddings:
        if not isinstance(trainer, SupportsEmbeddings):
            raise InputError(
                f"{source}: space.embeddings: trainer {spec.trainer.name!r} quantizes no"
                " embeddings; leave it false"
            )
        trainer.search_embeddings()
    layers = tuple(trainer.layers())
    require_roles(spec.space, layers, source)
    try:
        space = space_of(quantizer, layers, spec.space, trainer)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    if space.choices.size == 1:
        raise InputError(
            f"{source}: quantizer: {spec.quantizer.name!r} has one configuration with these"
            " options; give a knob two values or more"
        )
    least, greatest = space.average_bits_range
    bits = spec.search.bits
    if bits is not None and (bits[0] >= greatest or bits[1] <= least):
        low, high = bits
        raise InputError(
            f"{source}: search.average_bits: [{low:g}, {high:g}] lies outside what quantizer"
            f" {spec.quantizer.name!r} can store: [{least:.4g}, {greatest:.4g}]"
        )
    if spec.search.size == "bytes" and not isinstance(trainer, SupportsFootprint):
        raise InputError(
            f"{source}: search.size: bytes: trainer {spec.trainer.name!r} does not say how large"
            " the model is; search average_bits"
        )
    resolved = spec.model_copy(
        update={
            "quantizer": _resolved(spec.quantizer, quantizer_options),
            "task": _resolved(spec.task, task_options),
            "trainer": _resolved(spec.trainer, trainer_options),
        }
    )
    return StudyComponents(resolved, quantizer, task, trainer, space)


def space_of(
    quantizer: Quantizer,
    layers: Sequence[LayerSpec],
    section: SpaceSpec | None = None,
    trainer: object = None,
) -> ConfigurationSpace:
    """Return the space that a quantizer spans over layers, with the knobs that a trainer adds.

    Raises:
        InputError: If a layer takes no layer configuration, no layer takes one of them, or layers
            cannot be pinned as the section says.
    """
    section = section or SpaceSpec()
    choices, shapes = quantizer.choices(), dict.fromkeys(layer.shape for layer in layers)
    every = choices.layer_configurations
    shape_bits: dict[tuple[int, int], tuple[float, ...]] = {}
    if isinstance(quantizer, SupportsShapeBits):
        for shape in shapes:
            shape_bits[shape] = tuple(quantizer.storage_bits_of(shape, one) for one in every)
    shape_choices: dict[tuple[int, int], tuple[int, ...]] = {}
    if isinstance(quantizer, SupportsShapeChoices):
        for shape in shapes:
            taken = (place for place, one in enumerate(every) if quantizer.takes(shape, one))
            shape_choices[shape] = tuple(taken)
        _require_use(quantizer, layers, shape_choices)
    nominal = tuple(quantizer.storage_bits(one) for one in every)
    if isinstance(trainer, SupportsTrainerKnobs) and trainer.trainer_knobs():
        own = Choices(trainer.trainer_knobs())
        choices = Choices((*choices.knobs, *own.knobs))
        shape_choices = {
            shape: _taken(trainer, own, layers, shape, shape_choices.get(shape, range(len(every))))
            for shape in shapes
        }
        shape_bits = {
            shape: _with_added(trainer, own, shape, shape_bits.get(shape, nominal))
            for shape in shapes
        }
        # What a layer of no known shape would take, about: the mean over the layers.
        weights = np.array([layer.parameters for layer in layers], dtype=np.float64)
        mean = np.average([shape_bits[layer.shape] for layer in layers], axis=0, weights=weights)
        nominal = tuple(mean.tolist())
    return ConfigurationSpace(
        *(tuple(layers), choices, nominal, section.fused_roles),
        *(shape_bits, shape_choices, pinned_layers(section.fixed, layers, choices)),
    )


def _taken(
    trainer: SupportsTrainerKnobs,
    own: Choices,
    layers: Sequence[LayerSpec],
    shape: tuple[int, int],
    of_quantizer: Sequence[int],
) -> tuple[int, ...]:
    """Return the choices that all layers of a shape take, of both the knobs."""
    same = [layer for layer in layers if layer.shape == shape]
    values = [
        place
        for place, one in enumerate(own.layer_configurations)
        if all(trainer.takes_values(layer, one) for layer in same)
    ]
    return tuple(place * own.size + value for place in of_quantizer for value in values)


def _with_added(
    trainer: SupportsTrainerKnobs,
    own: Choices,
    shape: tuple[int, int],
    of_quantizer: Sequence[float],
) -> tuple[float, ...]:
    """Return the bits of a shape by choice of both the knobs, the trainer's varying fastest."""
    added = [trainer.added_bits(shape, one) for one in own.layer_configurations]
    return tuple(bits + more for bits in of_quantizer for more in added)


def pinned_layers(
    fixed: Mapping[str, Mapping[str, KnobValue]],
    layers: Sequence[LayerSpec],
    choices: Choices,
) -> dict[str, LayerConfiguration]:
    """Return the layer configurations of layers whose name matches a pattern; the first counts.

    A knob of one value may be left out.

    Raises:
        InputError: If a pattern matches no layer, or what it gives is not a layer configuration.
    """
    lone = {knob.name: knob.values[0] for knob in choices.knobs if len(knob.values) == 1}
    pinned: dict[str, LayerConfiguration] = {}
    for pattern, given in fixed.items():
        names = [layer.name for layer in layers if fnmatch.fnmatchcase(layer.name, pattern)]
        if not names:
            raise InputError(
                f"space.fixed: {pattern!r} matches none of the {len(layers)} layers; their names"
                f" are like {[layer.name for layer in layers[:3]]}"
            )
        values = lone | dict(given)
        try:
            choices.index(values)
        except InputError as error:
            raise InputError(f"space.fixed: {pattern!r}: {error}") from error
        one = LayerConfiguration({name: values[name] for name in choices.names})
        pinned = dict.fromkeys(names, one) | pinned
    return pinned


def _require_use(
    quantizer: Quantizer,
    layers: Sequence[LayerSpec],
    shape_choices: Mapping[tuple[int, int], Sequence[int]],
) -> None:
    """Refuse layers that take no layer configuration, and layer configurations of no layer."""
    every = quantizer.choices().layer_configurations
    without = [layer for layer in layers if not shape_choices[layer.shape]]
    if without:
        names = ", ".join(f"{layer.name} {layer.shape}" for layer in without[:5])
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        raise InputError(
            f"quantizer {quantizer.name!r} has no layer configuration for layers of these shapes"
            f" (output × input features): {names}{more}; it has {readable_choices(every)}"
        )
    used = {place for shape in shape_choices.values() for place in shape}
    if unused := [one for place, one in enumerate(every) if place not in used]:
        features = sorted({layer.shape[1] for layer in layers})
        raise InputError(
            f"quantizer {quantizer.name!r}: no layer of this model takes"
            f" {readable_choices(unused)}; leave them out (the layers have {features} input"
            " features)"
        )


def readable_choices(configurations: Sequence[LayerConfiguration]) -> str:
    """Return layer configurations as words, such as ``bits 4 group_size 64, …``.

    Of a single knob, its name is there once: ``type Q4_0, Q8_0``.
    """
    texts = [" ".join(f"{knob} {value}" for knob, value in one.items()) for one in configurations]
    if configurations and len(configurations[0]) == 1:
        (knob,) = configurations[0]
        texts[1:] = [text.removeprefix(f"{knob} ") for text in texts[1:]]
    return ", ".join(texts)


def _require_objective(spec: StudySpec, task: Task, source: str) -> None:
    names = [metric.name for metric in task.metrics if metric.better == "lower"]
    if spec.search.objective not in ("loss", *names):
        raise InputError(
            f"{source}: search.objective: task {spec.task.name!r} has no metric"
            f" {spec.search.objective!r}"
        )


def _require_own_name(kind: str, section: PluginSpec, name: str, source: str) -> None:
    """Refuse a plugin that calls itself otherwise than its entry point does.

    Exports are written with the name that the plugin gives itself, and loaded by the entry point's.
    """
    if name != section.name:
        raise InputError(
            f"{source}: {kind}.name: the entry point {section.name!r} leads to a {kind} that calls"
            f" itself {name!r}; its package must give both the same name"
        )


def require_roles(space: SpaceSpec, layers: Sequence[LayerSpec], source: str) -> None:
    """Refuse a tie that names a role no layer has; the known fused roles are for any model."""
    if space.tied == "fused":
        return
    roles = sorted({layer.role for layer in layers})
    unknown = [role for tie in space.fused_roles for role in tie if role not in roles]
    if unknown:
        raise InputError(
            f"{source}: space.tied: no layer has the role {unknown[0]!r}; roles: {roles}"
        )


def with_new_options(spec: StudySpec) -> StudySpec:
    """Return a resolved study of an earlier version with the options that plugins have got since.

    They have their defaults. A section whose plugin is not installed, or refuses its options, stays
    as it is.
    """

    def completed(group: Group, section: PluginSpec) -> PluginSpec:
        try:
            return _resolved(section, _plugin(group, section, spec.name)[1])
        except InputError:
            return section

    return spec.model_copy(
        update={
            "quantizer": completed("quantizers", spec.quantizer),
            "task": completed("tasks", spec.task),
            "trainer": completed("trainers", spec.trainer),
        }
    )


def _resolved(section: PluginSpec, options: BaseModel) -> PluginSpec:
    """Return a section with every option, so that a later version's defaults do not change it."""
    return PluginSpec(name=section.name, **options.model_dump(mode="json"))


def _plugin(group: Group, section: PluginSpec, source: str) -> tuple[Any, Any]:
    prefix = group[:-1]
    try:
        plugin = load_plugin(group, section.name)
    except InputError as error:
        raise InputError(f"{source}: {prefix}.name: {error}") from error
    return plugin, validate(plugin.Options, section.options, source, prefix)
