"""Sizes of a study's model on a device, without and with its quantized weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunningMemory:
    """An estimate of what running a model takes next to its weight files and Python itself.

    Args:
        layer_bytes: Of the largest layer as float32, which is dequantized while it runs.
        cache_bytes_per_token: Of keys and values that a causal model keeps.
        activation_bytes_per_token: Of intermediate results, at most.
        tokens: That the study's task feeds at once; the default length of a sequence.
        loading_bytes: By which the weights grow when they are loaded: what is stored in 16 bits is
            in memory in the type to compute in.
    """

    layer_bytes: int
    cache_bytes_per_token: int
    activation_bytes_per_token: int
    tokens: int
    loading_bytes: int = 0

    def nbytes(self, tokens: int | None = None) -> int:
        """Return its bytes for one sequence of some length: one layer, activations, and cache."""
        per_token = self.cache_bytes_per_token + self.activation_bytes_per_token
        length = self.tokens if tokens is None else tokens
        return self.loading_bytes + self.layer_bytes + length * per_token


@dataclass(frozen=True)
class Footprint:
    """Sizes that all configurations of a study have in common, as an export ships them.

    The export is that of the format ``packed``: all weights in one folder, the adapter among them.

    Args:
        quantized_weights: Number of weights that average bits are of.
        other_bytes: Of all that is not quantized, in its stored type, and of the files' headers:
            embeddings, norms, biases, head.
        adapter_bytes: Of the adapter of one configuration, in its stored type.
        running: None if it is not known.
    """

    quantized_weights: int
    other_bytes: int
    adapter_bytes: int
    running: RunningMemory | None = None

    @property
    def fixed_bytes(self) -> int:
        """Bytes of the weight files that are the same for all configurations."""
        return self.other_bytes + self.adapter_bytes

    def average_bits_with_adapter(self, average_bits: float) -> float:
        """Return the bits per quantized weight of the quantized weights and the adapter."""
        return average_bits + 8 * self.adapter_bytes / self.quantized_weights
