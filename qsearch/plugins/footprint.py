"""Sizes of a study's model on a device, without and with its quantized weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Sizes that all configurations of a study have in common.

    Args:
        quantized_weights: Number of weights that average bits are of.
        other_bytes: Of an export's other weights: embeddings, norms, biases, head.
        adapter_bytes: Of the adapter of one configuration.
        layer_bytes: Of the largest layer as float32, which is dequantized while it runs.
        cache_bytes_per_token: Of keys and values that a causal model keeps.
        activation_bytes_per_token: Of intermediate results, at most.
        tokens: That the study's task feeds at once; the default length of a sequence.
    """

    quantized_weights: int
    other_bytes: int
    adapter_bytes: int
    layer_bytes: int
    cache_bytes_per_token: int
    activation_bytes_per_token: int
    tokens: int

    def file_bytes(self, average_bits: float) -> float:
        """Return the bytes of an export's weight files, adapter included."""
        return average_bits * self.quantized_weights / 8 + self.other_bytes + self.adapter_bytes

    def memory_bytes(self, average_bits: float, tokens: int | None = None) -> float:
        """Return an estimate of the memory that running takes, without Python and its libraries.

        Weight files, one dequantized layer, and for each token of one sequence its activations
        and its cached keys and values.
        """
        return self.file_bytes(average_bits) + self.layer_bytes + self._token_bytes(tokens)

    def bits_for_file(self, nbytes: float) -> float:
        """Return the most average bits whose weight files fit into some bytes; maybe negative."""
        return (nbytes - self.file_bytes(0)) * 8 / self.quantized_weights

    def bits_for_memory(self, nbytes: float, tokens: int | None = None) -> float:
        """Return the most average bits whose memory fits into some bytes; maybe negative."""
        return self.bits_for_file(nbytes - self.layer_bytes - self._token_bytes(tokens))

    def _token_bytes(self, tokens: int | None) -> int:
        per_token = self.cache_bytes_per_token + self.activation_bytes_per_token
        return (self.tokens if tokens is None else tokens) * per_token
