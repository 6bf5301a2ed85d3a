"""Sequences of tokens with what is predicted of them: packed text, or one for each example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsearch._arrays import Integers
from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest
from qsearch_coalora.models.digests import file_sha256
from qsearch_coalora.models.tokenizers import opening_tokens
from qsearch_coalora.tasks.batching import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

_CHARACTERS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Sequences:
    """Tokens of each sequence, and their labels: the token itself, or :data:`IGNORED`.

    A label is predicted from the tokens before it, so that of the first token never counts.
    """

    tokens: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    packed: bool
    """Whether they are text of one length, of which all tokens are predicted."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def predicted(self) -> int:
        """How many tokens are predicted in all."""
        return sum(int((labels[1:] != IGNORED).sum()) for labels in self.labels)

    def inputs(self, position: int) -> dict[str, Tensor]:
        """Return a sequence as unpadded model inputs by name, and its labels."""
        import torch

        tokens = self.tokens[position]
        mask = torch.ones_like(tokens)
        return {"input_ids": tokens, "attention_mask": mask, "labels": self.labels[position]}

    def digest(self, path: Path | None) -> ExamplesDigest:
        """Return the digest, and that of the file they were read from.

        Of packed text, it is that of its tokens as little-endian 64-bit integers; of other
        sequences, each one's length precedes its tokens, and its labels follow.
        """
        content = hashlib.sha256()
        for tokens, labels in zip(self.tokens, self.labels, strict=True):
            if self.packed:
                content.update(_as_bytes(tokens.numpy()))
            else:
                for part in (np.array([len(tokens)]), tokens.numpy(), labels.numpy()):
                    content.update(_as_bytes(part))
        file = None if path is None else file_sha256(path)
        return ExamplesDigest(len(self), content.hexdigest(), file)

    def at(self, positions: Integers) -> Sequences:
        """Return the sequences at some positions."""
        tokens = tuple(self.tokens[position] for position in positions)
        labels = tuple(self.labels[position] for position in positions)
        return Sequences(tokens, labels, self.packed)


def pack(
    tokenizer: Any, lines: Iterable[str], length: int, limit: int | None, split: str
) -> Sequences:
    """Return text in sequences of ``length`` tokens, without what is left at its end.

    Where the tokenizer opens texts with a token, such as ``<bos>``, each sequence begins with it,
    and counts it; then every token of the text is predicted once.

    Args:
        tokenizer: The model's.
        lines: The text.
        length: Tokens of a sequence.
        limit: The most tokens in all.
        split: Its name, for messages.

    Raises:
        InputError: If the text does not fill a sequence.
    """
    import torch

    opening = opening_tokens(tokenizer)
    own = length - len(opening)
    most = None if limit is None else limit // length * own
    tokens = _encoded(tokenizer, lines, most)
    count = len(tokens) // own
    if count < 1:
        raise InputError(
            f"the {split} text has {len(tokens)} tokens, fewer than task.length {length}"
        )
    text = torch.tensor(tokens[: count * own]).view(count, own)
    first = torch.tensor(opening, dtype=text.dtype).expand(count, len(opening))
    rows = tuple(torch.cat([first, text], dim=1))
    return Sequences(rows, rows, packed=True)


def _encoded(tokenizer: Any, lines: Iterable[str], most: int | None) -> list[int]:
    tokens: list[int] = []
    for chunk in _chunks(lines):
        tokens += tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
        if most is not None and len(tokens) >= most:
            return tokens[:most]
    return tokens


def _as_bytes(numbers: Integers) -> bytes:
    return numbers.astype("<i8").tobytes()


def _chunks(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _CHARACTERS_AT_ONCE:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)
