"""A GGUF file loaded by llama.cpp on the CPU, and the logits of token sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qsearch.errors import EvaluationError
from qsearch_coalora.export.llama_library import load_library, logged_errors

AT_ONCE = 512
"""Tokens that llama.cpp computes at once, unless it is told otherwise: its own default."""

_LOGIT_BYTES = 2**28
"""Of the logits that llama.cpp holds at a time, at most."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Engine:
    """A file in memory, with room for one sequence; the context manager :func:`opened` makes it.

    Args:
        length: The most tokens of a sequence.
    """

    ffi: Any
    library: Any
    model: Any
    context: Any
    length: int

    @property
    def vocabulary(self) -> int:
        """Number of tokens that logits are of."""
        vocabulary = self.library.llama_model_get_vocab(self.model)
        return int(self.library.llama_vocab_n_tokens(vocabulary))

    def forget(self) -> None:
        """Make room for another sequence."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)

    def logits(self, tokens: Sequence[int]) -> Iterator[Logits]:
        """Yield the logits after each token of a sequence (some tokens × vocabulary at a time).

        No other sequence is in memory then. The arrays hold until the next one is asked for.

        Raises:
            EvaluationError: If llama.cpp cannot compute them.
        """
        if len(tokens) > self.length:  # Which ends the process otherwise.
            raise EvaluationError(f"llama.cpp has room for {self.length} of {len(tokens)} tokens")
        self.forget()
        width = self.vocabulary
        step = max(1, min(AT_ONCE, _LOGIT_BYTES // (4 * width)))
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step]
            with self.batch(part, first, every=True) as batch:
                self.decode(batch)
            raw = self.ffi.buffer(
                self.library.llama_get_logits(self.context), 4 * width * len(part)
            )
            yield np.frombuffer(raw, np.float32).reshape(len(part), width)

    @contextmanager
    def batch(self, tokens: Sequence[int], first: int, every: bool) -> Iterator[Any]:
        """Give a batch of successive tokens, of which the first is at a position of the sequence.

        Logits are of every token, or of the last.
        """
        batch = self.library.llama_batch_init(len(tokens), 0, 1)
        try:
            for place, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, first + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = every or place == len(tokens) - 1
            batch.n_tokens = len(tokens)
            yield batch
        finally:
            self.library.llama_batch_free(batch)

    def decode(self, batch: Any) -> None:
        """Compute a batch."""
        code = self.library.llama_decode(self.context, batch)
        if code:
            raise EvaluationError(f"llama.cpp returned {code}: {logged_errors()}")


@contextmanager
def opened(
    path: Path,
    length: int,
    threads: int,
    adapter: Path | None = None,
    at_once: int = AT_ONCE,
) -> Iterator[Engine]:
    """Load a GGUF file, and perhaps the file of a LoRA on it, until the context ends.

    ``length`` is the most tokens of a sequence, of which ``at_once`` are computed at a time. More
    threads than there are free cores wait for each other. Keys, values and attention are as
    llama.cpp has them by default: keys and values in float16.

    Raises:
        EvaluationError: If llama.cpp cannot load a file.
    """
    ffi, library = load_library()
    logged_errors()
    settings = library.llama_model_default_params()
    settings.n_gpu_layers = 0
    with ExitStack() as stack:
        model = library.llama_model_load_from_file(str(path).encode(), settings)
        if model == ffi.NULL:
            raise EvaluationError(f"llama.cpp cannot load {path}: {logged_errors()}")
        stack.callback(library.llama_model_free, model)
        options = library.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = length, max(length, at_once), at_once
        options.n_threads = options.n_threads_batch = threads
        context = library.llama_init_from_model(model, options)
        if context == ffi.NULL:
            raise EvaluationError(
                f"llama.cpp has no room for {length} tokens of {path}: {logged_errors()}"
            )
        stack.callback(library.llama_free, context)
        if adapter is not None:
            lora = library.llama_adapter_lora_init(model, str(adapter).encode())
            if lora == ffi.NULL:
                raise EvaluationError(f"llama.cpp cannot load {adapter}: {logged_errors()}")
            loras = ffi.new("struct llama_adapter_lora *[]", [lora])
            scales = ffi.new("float[]", [1.0])
            if library.llama_set_adapters_lora(context, loras, 1, scales):
                raise EvaluationError(f"llama.cpp cannot use {adapter}: {logged_errors()}")
        yield Engine(ffi, library, model, context, length)
