"""Recipes of tools that quantize weights to integers: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from qsearch.errors import InputError
from qsearch.plugins.exporters import ExportJob
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.recipes import RecipeTarget, RecipeText
from qsearch.plugins.tensor_layout import SupportsIntegers
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import EMBEDDING, LayerSpec
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.recipes.layers import float_linears, layer_paths
from qsearch_coalora.recipes.schemes import IntegerScheme, choices_by_scheme, integer_scheme

_SHOWN = 3

NO_WEIGHTS = """
A recipe holds no weights: what the study trained, an adapter or the weights themselves, is not in
it.
"""


class IntegerRecipe:
    """An exporter of recipes for one tool; a subclass says what the tool can do, and its files."""

    name: ClassVar[str]
    package: ClassVar[str]
    version: ClassVar[str]
    card: ClassVar[str]
    bits: ClassVar[tuple[int, ...]]
    asymmetric_bits: ClassVar[tuple[int, ...]]
    """Bits that it has with zero points."""
    group_sizes: ClassVar[tuple[int, ...] | None] = None
    """Those that it has, if not every size that divides a row."""
    multiple: ClassVar[int] = 1
    """What divides the features of a layer that it quantizes."""

    trainers: ClassVar[tuple[str, ...] | None] = None
    quantizers: ClassVar[tuple[str, ...] | None] = None
    weight_files: ClassVar[tuple[str, ...]] = ()

    def files(
        self, layers: Mapping[str, IntegerScheme], floats: Sequence[str], job: ExportJob
    ) -> dict[str, str]:
        """Return the recipe's files: of layers by module path, and of those left in float."""
        raise NotImplementedError

    def reads(self, recipe: RecipeText) -> bool:
        """Return whether a file is a recipe of the tool."""
        raise NotImplementedError

    def scheme(self, values: Any, path: str, layer: LayerSpec) -> IntegerScheme | None:
        """Return what a recipe says of a layer with a module path; None if it is left in float."""
        raise NotImplementedError

    @property
    def tool(self) -> str:
        """The tool's package and version."""
        return f"{self.package} {self.version}"

    def require_quantizer(self, quantizer: Quantizer) -> None:
        """Check that its weights are integers, of which the tool has some."""
        if not isinstance(quantizer, SupportsIntegers):
            fields = ", ".join(quantizer.choices().names)
            raise InputError(
                f"--format recipe:{self.name}: {self.tool} quantizes to integers with one scale a"
                f" group, and has no scheme for any layer of quantizer {quantizer.name!r} (fields"
                f" {fields}); quantizers such as 'integer' are for it"
            )

    def write(self, job: ExportJob, directory: Path) -> None:
        """Write the recipe and a card that says how to run it."""
        from qsearch_coalora.export.cards import write_card
        from qsearch_coalora.export.engines import require_fused_alike

        layers = self._layers(job)
        require_fused_alike(job, f"recipe:{self.name}")
        for name, text in self.files(layers, float_linears(job), job).items():
            (directory / name).write_text(text, encoding="utf-8")
        write_card(job, directory, self.card + NO_WEIGHTS, self.package, tool=self.tool)

    def weight_bytes(self, job: ExportJob) -> dict[str, int]:
        """Return nothing, since a recipe has no weights; check that the tool can express it."""
        self._layers(job)
        return {}

    def _layers(self, job: ExportJob) -> dict[str, IntegerScheme]:
        """Return the layers by module path; InputError names those that the tool cannot express."""
        self.require_quantizer(job.quantizer)
        schemes, faults = {}, []
        for layer, path in zip(job.layers, job.paths, strict=True):
            chosen = job.configuration[layer.name]
            scheme = integer_scheme(job.quantizer, layer.shape, chosen)
            if scheme is not None:
                schemes[path] = scheme
            if fault := self._fault(layer, chosen, scheme):
                faults.append(f"{path}: {fault}")
        self._require_none(faults, "this configuration")
        return schemes

    def require_space(
        self, model: ModelSpec, quantizer: Quantizer, space: ConfigurationSpace
    ) -> list[str]:
        """Check that the tool expresses every configuration of a space; there are no notes."""
        from qsearch_coalora.export.engines import require_fused_together
        from qsearch_coalora.models.loading import load_shape

        self.require_quantizer(quantizer)
        require_fused_together(load_shape(model)[0].layers, space, f"recipe:{self.name}")
        faults = (
            (layer, self._fault(layer, one, integer_scheme(quantizer, layer.shape, one)))
            for layer, one in space.choices_of_layers()
        )
        texts = dict.fromkeys(f"{layer.name}: {fault}" for layer, fault in faults if fault)
        self._require_none(list(texts), "each configuration of the study")
        return []

    def _require_none(self, faults: Sequence[str], what: str) -> None:
        if faults:
            raise InputError(
                f"--format recipe:{self.name}: {self.tool} cannot express {what}:"
                f" {first_of(faults)}"
            )

    def _fault(
        self, layer: LayerSpec, configuration: LayerConfiguration, scheme: IntegerScheme | None
    ) -> str:
        """Return which field of a layer the tool has no scheme for; empty if it has one."""
        if scheme is None:
            return f"{dict(configuration)}, which is not of integers"
        if layer.role == EMBEDDING:
            return "it quantizes no embeddings (space.embeddings)"
        if scheme.bits not in self.bits:
            return f"bits {scheme.bits}, of {_listed(self.bits)}"
        if not scheme.symmetric and scheme.bits not in self.asymmetric_bits:
            own = (
                f"those of bits {_listed(self.asymmetric_bits)}" if self.asymmetric_bits else "none"
            )
            return f"bits {scheme.bits} with zero points, of which it has {own}"
        size, columns = scheme.group_size, layer.shape[1]
        if size is not None and columns % size:
            return f"group_size {size}, which does not divide {columns} input features"
        if size is not None and self.group_sizes is not None and size not in self.group_sizes:
            return f"group_size {size}, of {_listed(self.group_sizes)}"
        if any(features % self.multiple for features in layer.shape):
            return (
                f"shape {layer.shape}; it quantizes layers whose features are multiples of"
                f" {self.multiple}"
            )
        return ""

    def read(self, recipe: RecipeText, target: RecipeTarget) -> dict[str, LayerConfiguration]:
        """Return the layer configurations of the layers that a recipe quantizes."""
        paths, choices = layer_paths(target, recipe.text), {}
        configuration = {}
        for layer in target.layers:
            scheme = self.scheme(recipe.values, paths[layer.name], layer)
            if scheme is None:
                continue
            if layer.shape not in choices:
                choices[layer.shape] = choices_by_scheme(
                    target.quantizer, layer.shape, integer_scheme
                )
            scheme = scheme.of_row(layer.shape[1])
            if scheme not in choices[layer.shape]:
                allowed = "; ".join(map(str, choices[layer.shape])) or "no integers"
                raise InputError(
                    f"{layer.name}: {scheme}: quantizer {target.quantizer.name!r} has {allowed}"
                )
            configuration[layer.name] = choices[layer.shape][scheme]
        return configuration


def first_of(faults: Sequence[str]) -> str:
    """Return a few faults, and how many more there are."""
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + more


def _listed(values: Sequence[int]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last


def fields(value: Any, what: str) -> Mapping[str, Any]:
    """Return a part of a recipe, which must be a mapping of names."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{what}: must be a mapping, not {value!r}")
    return value


def integer(values: Mapping[str, Any], field: str, path: str, default: int | None = None) -> int:
    """Return a field of a recipe's layer, which must be an integer."""
    value = values.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{path}: {field}: must be an integer, not {value!r}")
    return value


def flag(values: Mapping[str, Any], field: str, path: str, default: bool) -> bool:
    """Return a field of a recipe's layer, which must be true or false."""
    value = values.get(field, default)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {field}: must be true or false, not {value!r}")
    return value


def group_size(value: int | None, path: str) -> int | None:
    """Return a group size, of which -1 and None are one scale a row."""
    if value in (None, -1):
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path}: group_size: must be a positive integer or -1, not {value!r}")
    return value
