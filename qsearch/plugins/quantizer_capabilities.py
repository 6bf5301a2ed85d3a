"""What a quantizer may do in addition to its contract; see :mod:`qsearch.plugins.capabilities`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from qsearch.plugins.protocols import QuantizedTensor, Quantizer
from qsearch.space.configuration import LayerConfiguration
from qsearch.space.layers import LayerSpec

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class SupportsCalibration(Protocol):
    """Optional for quantizers. With it, a weight is quantized to suit its layer's inputs.

    If :attr:`needs_inputs`, a trainer measures the inputs of each layer of the model in full
    precision, without an adapter. Calls go through :func:`quantize_weight`.
    """

    @property
    def needs_inputs(self) -> bool:
        """Whether weights depend on inputs; it may follow from the options, and never changes."""
        ...

    def quantize_for_inputs(
        self, weight: Tensor, configuration: LayerConfiguration, moment: Tensor
    ) -> QuantizedTensor:
        """Do what :meth:`Quantizer.quantize` does, for a layer with known inputs.

        Each row's result depends on that row and the moment alone, so that rows can be sampled; or
        about so, where rows share scales.
        Dequantizing needs no moment. It is the second moment E[x·xᵀ] of the layer's inputs x,
        symmetric and positive semidefinite (input features × input features); zero where there
        were none. A quantizer with :class:`SupportsDiagonal` may get its diagonal alone.

        Raises:
            InputError: If the moment has another shape, or the weight cannot be quantized.
        """
        ...


@runtime_checkable
class SupportsDiagonal(SupportsCalibration, Protocol):
    """Optional for quantizers. With it, moments of inputs can take little memory.

    If :attr:`takes_diagonal`, :meth:`SupportsCalibration.quantize_for_inputs` gets a moment's
    diagonal (input features), the mean squares of the inputs, or a whole moment, and makes the same
    of both.
    """

    @property
    def takes_diagonal(self) -> bool:
        """Whether it does; it may follow from the options, and never changes."""
        ...


@runtime_checkable
class SupportsInstallCheck(Protocol):
    """Optional for quantizers. With it, ``qsearch check`` quantizes nothing to see if one can."""

    def require_installed(self) -> None:
        """Check that what it imports at first use is installed.

        Raises:
            InputError: If it is not; the message names the package.
        """
        ...


@runtime_checkable
class SupportsLayers(Protocol):
    """Optional for quantizers. With it, a quantizer knows which layer a weight is of.

    Calls go through :func:`quantize_weight`, which calls :meth:`Quantizer.quantize`, or
    :meth:`SupportsCalibration.quantize_for_inputs`, for weights of no known layer.
    """

    def quantize_layer(
        self,
        weight: Tensor,
        configuration: LayerConfiguration,
        layer: LayerSpec,
        moment: Tensor | None,
    ) -> QuantizedTensor:
        """Do what :meth:`Quantizer.quantize` does, for the weight of a layer.

        To measure its error, it may be given some of the layer's rows alone. Dequantizing needs no
        layer, and the tensors have the same names, types and sizes for each. The moment is None
        unless the quantizer needs the layer's inputs; see :class:`SupportsCalibration`.
        """
        ...


@runtime_checkable
class SupportsShapeBits(Protocol):
    """Optional for quantizers. With it, storage bits may depend on the shape of a layer.

    Such as with a scale for each row, or rows that are padded to whole blocks. Average bits,
    budgets and the bit allocation are then of the model's own shapes.
    :meth:`Quantizer.storage_bits` is what a weight of no known shape takes, about.
    """

    def storage_bits_of(self, shape: tuple[int, int], configuration: LayerConfiguration) -> float:
        """Return the exact storage bits per weight of a layer (output × input features).

        Raises:
            InputError: If a layer of this shape cannot be quantized; a study of it is refused.
        """
        ...


@runtime_checkable
class SupportsShapeChoices(Protocol):
    """Optional for quantizers. With it, not every layer can take every layer configuration.

    Such as where rows must be whole blocks. A study gives a layer those alone that its shape takes;
    a quantizer still quantizes other weights, in some way of its own, since errors are measured by
    layer configuration, for all layers at once.
    """

    def takes(self, shape: tuple[int, int], configuration: LayerConfiguration) -> bool:
        """Return whether a layer (output × input features) can have a layer configuration."""
        ...


def storage_bits_of(
    quantizer: Quantizer, shape: tuple[int, int], configuration: LayerConfiguration
) -> float:
    """Return the storage bits per weight of a layer, whether they depend on its shape or not."""
    if isinstance(quantizer, SupportsShapeBits):
        return quantizer.storage_bits_of(shape, configuration)
    return quantizer.storage_bits(configuration)


def needs_inputs(quantizer: Quantizer) -> bool:
    """Return whether a quantizer's weights depend on the second moments of their inputs."""
    return isinstance(quantizer, SupportsCalibration) and quantizer.needs_inputs


def needs_diagonal(quantizer: Quantizer) -> bool:
    """Return whether a quantizer's weights depend on the diagonals of these moments alone."""
    return (
        needs_inputs(quantizer)
        and isinstance(quantizer, SupportsDiagonal)
        and quantizer.takes_diagonal
    )


def quantize_weight(
    quantizer: Quantizer,
    weight: Tensor,
    configuration: LayerConfiguration,
    moment: Tensor | None,
    layer: LayerSpec | None = None,
) -> QuantizedTensor:
    """Quantize a weight, for its layer and its inputs if the quantizer asks for them.

    The second moment of the inputs (input features × input features), or its diagonal for a
    quantizer that takes it, is None where it is unknown; a quantizer that needs it may refuse. So
    is the layer.
    """
    if layer is not None and isinstance(quantizer, SupportsLayers):
        own = moment if needs_inputs(quantizer) else None
        return quantizer.quantize_layer(weight, configuration, layer, own)
    if moment is not None and isinstance(quantizer, SupportsCalibration) and quantizer.needs_inputs:
        return quantizer.quantize_for_inputs(weight, configuration, moment)
    return quantizer.quantize(weight, configuration)
