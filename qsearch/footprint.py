"""What a study's model takes on a device beside its quantized weights, and with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from qsearch.state_files import (
    damage,
    read_or_previous,
    read_state,
    to_standard_error,
    write_state,
    written_anew_by_a_run,
)

FOOTPRINT_FILE = "state/footprint.json"


@dataclass(frozen=True)
class Footprint:
    """Sizes that all configurations of a study have in common.

    Args:
        quantized_weights: Number of weights that average bits are of.
        other_bytes: Bytes that an export's other weights take: embeddings, norms, biases, head.
        adapter_bytes: Bytes that the adapter of one configuration takes.
        layer_bytes: Bytes of the largest layer as float32, which is dequantized while it runs.
        cache_bytes_per_token: Bytes of keys and values that a causal model keeps for a token.
        activation_bytes_per_token: Bytes of intermediate results of a token, at most.
        tokens: Tokens that the study's task feeds at once.
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

        Args:
            average_bits: Of the configuration.
            tokens: Length of the sequence; :attr:`tokens` if None.
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


def write_footprint(directory: Path, footprint: Footprint) -> None:
    """Write a study's footprint into its directory."""
    write_state(directory / FOOTPRINT_FILE, asdict(footprint))


def read_footprint(
    directory: Path, note: Callable[[str], None] = to_standard_error
) -> Footprint | None:
    """Return a study's footprint, or None if its trainer does not tell it.

    Args:
        directory: The study's directory.
        note: Told of a damaged file whose previous version is read in its place.

    Raises:
        InputError: If the file cannot be read.
    """
    path = directory / FOOTPRINT_FILE
    if not path.is_file():
        return None
    with written_anew_by_a_run():
        return read_or_previous(path, read_footprint_file, note)


def read_footprint_file(path: Path) -> Footprint:
    """Return what ``state/footprint.json``, or another version of it, holds.

    Raises:
        DamagedFileError: If it is damaged.
    """
    loaded = read_state(path)
    with damage(path, TypeError, ValueError):
        footprint = Footprint(**loaded)
        for name, value in asdict(footprint).items():
            if type(value) is not int or value < (name == "quantized_weights"):
                raise ValueError(f"{name} is {value!r}")
        return footprint
