"""The configurations of a model in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from qsearch._arrays import Floats, Integers
from qsearch._sizes import parse_size
from qsearch.api.quantization import QuantizerConfiguration, quantizer_of
from qsearch.errors import InputError
from qsearch.models.discovery import find_layers
from qsearch.models.quantization_error import quantization_errors
from qsearch.models.quantized_weights import require_original
from qsearch.plugins.components import require_roles, space_of
from qsearch.plugins.footprint import Footprint
from qsearch.plugins.protocols import Quantizer
from qsearch.search.layer_scores import error_scores
from qsearch.space.configuration import KnobValue, LayerConfiguration
from qsearch.space.configuration_space import ConfigurationSpace
from qsearch.space.layers import LayerSpec
from qsearch.space.sampling import sample_configurations
from qsearch.spec.sections import ModelSpec, PluginSpec, SpaceSpec
from qsearch.spec.validation import validate
from qsearch.study.file_bytes import FileBytes
from qsearch.surrogate.error_correlation import error_correlation

Tied = Literal["none", "fused"] | Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False, repr=False)
class Space:
    """The configurations of a model under a quantizer: what a study searches.

    Make it with :meth:`from_model`, before the model is quantized. It refers to the model's own
    weights, without a copy: do not train the model while a study uses it.

    >>> import torch, qsearch
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> space = qsearch.Space.from_model(model, "integer", {"bits": [2, 4, 8]})
    >>> [layer.name for layer in space.layers]
    ['0', '2']
    >>> space
    Space(2 layers, integer, 2.125 to 8.5 average bits)
    """

    configurations: ConfigurationSpace
    quantizer: Quantizer
    quantizer_section: PluginSpec
    model_section: ModelSpec
    space_section: SpaceSpec
    weights: tuple[Tensor, ...]
    state: Mapping[str, Tensor]

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        quantizer: str | Quantizer = "normal-float",
        options: Mapping[str, Any] | None = None,
        tied: Tied = "none",
        layers: Sequence[str] | None = None,
        name: str | None = None,
        embeddings: bool = False,
        fixed: Mapping[str, Mapping[str, KnobValue]] | None = None,
    ) -> Space:
        """Return the space of a model in memory, of any class, with linear layers.

        Args:
            model: Any module; it is not changed.
            quantizer: The name of an installed one (``qsearch plugins``), or one of your own.
            options: Of the quantizer, as in a study's YAML, such as ``{"bits": [3, 4, 8]}``.
            tied: Which layers share a configuration: ``fused`` ties query, key and value, and gate
                and up, within a block; a list of lists of roles ties those.
            layers: Shell patterns of module paths. Without, the linear layers of transformer
                blocks; all, if the model has none.
            name: Of the model, for reports.
            embeddings: Whether the token embedding is a layer too, with an output head that shares
                its weight, and so is a head with a weight of its own. With ``layers``, all
                embeddings whose path matches.
            fixed: Layer configurations by shell pattern of module paths, such as
                ``{"lm_head": {"bits": 8, "group_size": 32}}``. Layers that match are pinned: they
                are quantized so, counted in average bits, and not searched.

        Raises:
            InputError: If the model has no such layer, or an argument is not what it may be.

        >>> import torch, qsearch
        >>> qsearch.Space.from_model(torch.nn.Linear(64, 8), layers=["*"]).layers[0].shape
        (8, 64)
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"model: give a torch.nn.Module, not {type(model).__name__}")
        patterns = [layers] if isinstance(layers, str) else layers
        if patterns is not None and not all(isinstance(pattern, str) for pattern in patterns):
            raise InputError(f"layers: give shell patterns of module paths, not {layers!r}")
        if options is not None and not isinstance(options, Mapping):
            raise InputError(f"options: give a mapping of option to value, not {options!r}")
        if name is not None and not (isinstance(name, str) and name):
            raise InputError(f"name: give a text, not {name!r}")
        require_original(model)
        made, section = quantizer_of(quantizer, options or {})
        given = {"tied": tied, "embeddings": embeddings, "fixed": fixed or {}}
        space = validate(SpaceSpec, given, "Space.from_model")
        found = find_layers(model, patterns, space.embeddings)
        require_roles(space, found, "Space.from_model")
        own_name = getattr(getattr(model, "config", None), "_name_or_path", "")
        return cls(
            configurations=space_of(made, found, space),
            quantizer=made,
            quantizer_section=section,
            model_section=ModelSpec(
                name=name or own_name or type(model).__name__, layers=tuple(patterns or ("*",))
            ),
            space_section=space,
            # What a quantized model holds meanwhile lies elsewhere, so these stay the originals.
            weights=tuple(_weight(model, layer.name) for layer in found),
            state={
                key: value.detach()
                for key, value in model.state_dict().items()
                if isinstance(value, Tensor)
            },
        )

    def __repr__(self) -> str:
        """Say how large it is."""
        least, greatest = self.average_bits_range
        return (
            f"Space({len(self.layers)} layers, {self.quantizer.name},"
            f" {least:.4g} to {greatest:.4g} average bits)"
        )

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The quantizable layers, in the model's order."""
        return self.configurations.layers

    @property
    def average_bits_range(self) -> tuple[float, float]:
        """Least and greatest average bits."""
        return self.configurations.average_bits_range

    def average_bits(self, configuration: Mapping[str, Mapping[str, KnobValue]]) -> float:
        """Return the average storage bits per quantized weight of a configuration.

        >>> space.average_bits(space.sample(bits=(3.0, 5.0))) <= 5.0
        True
        """
        return float(self.configurations.average_bits(self._encode(configuration)))

    @property
    def file_bytes_range(self) -> tuple[int, int]:
        """Least and greatest bytes of weight files."""
        return self._file_bytes.range

    def file_bytes(self, configuration: Mapping[str, Mapping[str, KnobValue]]) -> int:
        """Return the bytes of weight files with a configuration, as the format ``packed``.

        What is not quantized is counted as it is in memory, each tensor once and in its own type.

        >>> 4000 < space.file_bytes(space.sample(bits=(3.0, 5.0))) < 15_000
        True
        """
        return int(self._file_bytes(self._encode(configuration)))

    @cached_property
    def footprint(self) -> Footprint:
        """Sizes that all configurations have in common.

        >>> space.footprint.fixed_bytes < min(space.file_bytes_range)
        True
        """
        own = {weight.data_ptr() for weight in self.weights}
        other = {value.data_ptr(): value.nbytes for value in self.state.values()}
        return Footprint(
            quantized_weights=sum(layer.parameters for layer in self.layers),
            other_bytes=sum(nbytes for place, nbytes in other.items() if place not in own),
            adapter_bytes=0,
        )

    @cached_property
    def _file_bytes(self) -> FileBytes:
        return FileBytes(self.configurations, self.quantizer, self.footprint)

    def _encode(self, configuration: Mapping[str, Mapping[str, KnobValue]]) -> Integers:
        plain = {name: LayerConfiguration(layer) for name, layer in configuration.items()}
        return self.configurations.encode(plain)

    def decode(self, index: Integers) -> QuantizerConfiguration:
        """Return the configuration with some choice indices (groups).

        >>> index = space.configurations.encode(configuration)
        >>> space.decode(index) == configuration
        True
        """
        return QuantizerConfiguration(self.configurations.decode(index), self.quantizer)

    def sample(
        self, bits: tuple[float, float] | None = None, seed: int = 0
    ) -> QuantizerConfiguration:
        """Return a random configuration, uniform over an interval of average bits.

        >>> space.sample(bits=(3.0, 5.0), seed=1) == space.sample(bits=(3.0, 5.0), seed=1)
        True
        """
        interval = self.average_bits_range if bits is None else self.interval(bits)
        generator = np.random.default_rng(seed)
        index = sample_configurations(self.configurations, 1, interval, generator)[0]
        if not self.configurations.within(index, interval):
            raise InputError(f"bits: no configuration was found within {interval}")
        return self.decode(index)

    def interval(self, bits: object) -> tuple[float, float]:
        """Return an interval of average bits as numbers; it must overlap the space's.

        >>> space.interval([3, 5])
        (3.0, 5.0)
        """
        least, greatest = self.average_bits_range
        try:
            low, high = map(float, bits)  # type: ignore[call-overload]  # Other than a pair raises.
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high or low >= greatest or high <= least:
            raise InputError(
                f"bits: give (low, high) within the space's {least:.4g} to {greatest:.4g} average"
                f" bits, not {bits!r}"
            )
        return low, high

    def file_bytes_interval(self, nbytes: object) -> tuple[int, int]:
        """Return an interval of bytes of weight files as numbers; configurations must be within.

        >>> space.file_bytes_interval(("5kB", 10_000))
        (5000, 10000)
        """
        try:
            low, high = (int(parse_size(str(end), "bytes")[0]) for end in nbytes)  # type: ignore[attr-defined]
        except (TypeError, ValueError):  # Neither a pair nor anything of several values.
            low = high = 0
        if not low < high:
            raise InputError(f'bytes: give (low, high), such as ("20MB", "30MB"), not {nbytes!r}')
        self._file_bytes.average_bits((low, high))  # Refuses what no configuration takes.
        return low, high

    @cached_property
    def quantization_error(self) -> Floats:
        """Relative squared error of each layer (layers × choices), measured at first use.

        >>> space.quantization_error.shape == (len(space.layers), space.configurations.choices.size)
        True
        """
        choices = self.configurations.choices.layer_configurations
        return quantization_errors(self.weights, self.quantizer, choices, layers=self.layers)

    @cached_property
    def scores(self) -> Floats:
        """What the search starts from: predicted rise of the loss (groups × choices).

        By quantization error alone, each weight's counting the same; a common factor is free.

        >>> bool(space.scores.min() >= 0)
        True
        """
        return error_scores(self.configurations, self.quantization_error)

    @cached_property
    def correlation(self) -> Floats:
        """Correlation of the errors of two choices (choices × choices), measured at first use.

        >>> round(float(space.correlation[0, 0]), 6)
        1.0
        """
        return error_correlation(self.quantizer)

    def digest(self) -> str:
        """Return the SHA-256 of all of the model's tensors, by name, as they were at first use.

        >>> len(space.digest())
        64
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256()
        for key, value in sorted(self.state.items()):
            sha.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            sha.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def _weight(model: nn.Module, name: str) -> Tensor:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Embedding)
    return layer.weight.detach()
