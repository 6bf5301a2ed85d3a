"""Causal language modelling: perplexity on text packed to a fixed length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest
from qsearch.plugins.evaluation import Metric, MetricValue
from qsearch.plugins.protocols import LoadedModel, Scores, Split
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.digests import digest_of_tokens
from qsearch_coalora.models.loading import CAUSAL, load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer, require_embeddings
from qsearch_coalora.tasks.data_files import read_lines, require_text
from qsearch_coalora.tasks.divergence import (
    TopProbabilities,
    divergence,
    same_top,
    top_probabilities,
)
from qsearch_coalora.tasks.metrics import upper_percentile, weighted_mean
from qsearch_coalora.tasks.sources import SourceOptions, read_dataset
from qsearch_coalora.tasks.splits import hold_out, require_examples
from qsearch_coalora.tasks.workload import Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IGNORED = -100
"""Label of a token that no loss is of, as of PyTorch's cross-entropy."""

_CHARACTERS_AT_ONCE = 2**16


class CausalOptions(SourceOptions):
    """Which text is packed to which length; docs/studies.md has a table of the fields."""

    text: str = "text"
    length: int = Field(default=256, ge=2)
    train_tokens: int | None = Field(default=None, ge=2)
    validation_tokens: int | None = Field(default=None, ge=2)
    test_tokens: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _enough_tokens(self) -> CausalOptions:
        for name, sequences in (("train", 1), ("validation", 2), ("test", 2)):
            tokens, least = getattr(self, f"{name}_tokens"), sequences * self.length
            if tokens is not None and tokens < least:
                raise ValueError(
                    f"{name}_tokens {tokens} must be at least {least}: {sequences} x length"
                )
        return self


class CausalLanguageModelling:
    """Next-token prediction with cross-entropy loss and perplexity."""

    Options = CausalOptions
    name = "causal-lm"
    metrics = (
        Metric("perplexity", "lower"),
        Metric("kl", "lower"),
        Metric("kl_p99", "lower"),
        Metric("same_top", "higher"),
    )
    reference: Literal["loaded"] = "loaded"
    auto_class = CAUSAL

    def __init__(self, options: CausalOptions) -> None:
        self.options = options
        self._tokenizer: Any = None
        self._sequences: dict[Split, Tensor] = {}
        self._held_out = 0
        self._reads_at_load = True

    def load_model(self, model: ModelSpec, seed: int) -> LoadedModel:
        """Prepare the text, and load the model with its language-modelling head."""
        tokenizer = load_tokenizer(model)
        if self._reads_at_load:
            self.prepare(tokenizer)  # Before the weights are loaded, which takes its time.
        self._tokenizer = tokenizer
        module, missing = load_pretrained(model, self.auto_class)
        if missing:
            raise InputError(
                f"model.name {model.name!r} is not a causal language model:"
                f" it lacks {sorted(missing)[:3]}"
            )
        module.config.use_cache = False
        require_embeddings(model, module, tokenizer)
        return LoadedModel(module, tokenizer)

    def workload(self) -> Workload:
        """Return how much the model computes, from the options alone."""
        options = self.options
        tokens = options.validation_tokens
        return Workload(
            options.length,
            None if tokens is None else tokens // options.length,
            options.notes,
            tokens_option="task.length",
        )

    def require_data(self) -> None:
        """Look whether the training and validation text are there, from files' beginnings alone."""
        self.options.require_sources(require_text)

    def prepare(self, tokenizer: Any) -> None:
        """Read, encode and pack the training and validation text."""
        if tokenizer is not self._tokenizer:
            self._sequences.clear()
        self._tokenizer = tokenizer
        for split in ("train", "validation"):
            self._packed(split)

    def hold_out(self, examples: int) -> None:
        """Make ``examples`` sequences of the training data the split ``held-out``."""
        self._held_out = examples
        # The model may have been loaded, which packs the training data without it.
        self._sequences.pop("train", None)
        self._sequences.pop("held-out", None)

    def examples(self, split: Split) -> int:
        """Return the number of tokens that a split's loss is over: of each sequence all but one.

        Under the model's own distribution, the gradients of successive tokens are uncorrelated.
        """
        sequences = self._packed(split)
        return len(sequences) * (sequences.shape[1] - 1)

    def facts(self) -> dict[str, object]:
        """Return nothing: the head does not follow from the data."""
        return {}

    def use_facts(self, facts: Mapping[str, Any]) -> None:
        """Load models without the data."""
        self._reads_at_load = False

    def data_digests(self) -> dict[str, ExamplesDigest]:
        """Return which tokens the splits have; held-out sequences are apart from the others."""
        splits: tuple[Split, ...] = ("train", "held-out", "validation")
        return {
            split: digest_of_tokens(sequences, self.options.file(split))
            for split in splits
            if len(sequences := self._packed(split))
        }

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield one pass over a split: shuffled by the generator, in text order without one."""
        import torch

        sequences = self._packed(split)
        count = len(sequences)
        order = (
            torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        )
        for positions in torch.split(order, batch_size):
            tokens = sequences[positions]
            yield {
                "input_ids": tokens,
                "attention_mask": torch.ones_like(tokens),
                "labels": tokens,
            }

    def score(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
        """Score a batch: logits are sequences × tokens × vocabulary, labels sequences × tokens."""
        import torch
        from torch import nn

        targets = batch["labels"][:, 1:]
        # Sequence by sequence: all at once, logits of a large vocabulary would be copied first.
        losses = torch.stack(
            [
                nn.functional.cross_entropy(sequence[:-1], following)
                for sequence, following in zip(logits, targets, strict=True)
            ]
        )
        return Scores(losses, torch.full_like(losses, targets.shape[1]).detach())

    def reference_outputs(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the top of each next-token distribution: of n sequences of t tokens, n × t × k."""
        import torch

        tops = [top_probabilities(sequence[:-1]) for sequence in logits]
        return {
            "logs": torch.stack([top.logs for top in tops]),
            "tokens": torch.stack([top.tokens for top in tops]).int(),
            "rest": torch.stack([top.rest for top in tops]),
        }

    def compare(
        self,
        scores: Scores,
        logits: Tensor,
        batch: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
    ) -> Scores:
        """Add KL(reference ‖ model) and same top tokens: means of each sequence, KL of each token.

        Tokens that no loss is of, labelled -100, do not count.
        """
        import torch

        unknown = torch.full_like(scores.losses.detach(), torch.nan)
        kl, same, tokens = unknown.clone(), unknown.clone(), []
        rows = zip(reference["logs"], reference["tokens"], reference["rest"], strict=True)
        for place, row in enumerate(rows):
            top, counts = TopProbabilities(*row), batch["labels"][place, 1:] != IGNORED
            predicted = logits[place, :-1]
            diverging = divergence(predicted, top)[counts]
            kl[place] = diverging.mean()
            same[place] = same_top(predicted, top)[counts].float().mean()
            tokens.append(diverging)
        metrics = {**scores.metrics, "kl": kl, "same_top": same}
        of_tokens = torch.cat(tokens) if tokens else unknown[:0]
        return replace(scores, metrics=metrics, details={**scores.details, "kl": of_tokens})

    def summarise(self, scores: Scores) -> dict[str, MetricValue]:
        """Return perplexity and, where sequences were compared, how far they are.

        The standard error of perplexity is exp(loss)·SE(loss), by the delta method.
        """
        import torch

        mean, error = weighted_mean(scores.losses.detach(), scores.weights)
        perplexity = torch.tensor(mean, dtype=torch.float64).exp().item()
        values = {"perplexity": MetricValue(perplexity, perplexity * error)}
        if not len(scores.details.get("kl", ())):
            return values
        compared = ~scores.metrics["kl"].isnan()
        weights = scores.weights[compared]
        for name in ("kl", "same_top"):
            of_sequences = scores.metrics[name][compared]
            values[name] = MetricValue(*weighted_mean(of_sequences, weights))
        values["kl_p99"] = MetricValue(upper_percentile(scores.details["kl"], 0.99))
        return values

    def _packed(self, split: Split) -> Tensor:
        import torch

        if split not in self._sequences:
            if split in ("train", "held-out"):
                whole = self._pack("train")
                trained, held = hold_out(len(whole), self._held_out, "sequences")
                self._sequences["train"] = whole[torch.from_numpy(trained)]
                self._sequences["held-out"] = whole[torch.from_numpy(held)]
            else:
                self._sequences[split] = self._pack(split)
        return self._sequences[split]

    def _pack(self, split: Split) -> Tensor:
        import torch

        options = self.options
        tokens = self._tokens(self._lines(split), getattr(options, f"{split}_tokens"))
        count = len(tokens) // options.length
        if count < 1:
            raise InputError(
                f"the {split} text has {len(tokens)} tokens, fewer than task.length"
                f" {options.length}"
            )
        if split != "train":
            require_examples(split, count, f"sequences of task.length {options.length} tokens")
        return torch.tensor(tokens[: count * options.length]).view(count, options.length)

    def _tokens(self, lines: Iterable[str], limit: int | None) -> list[int]:
        tokens: list[int] = []
        for chunk in _chunks(lines):
            tokens += self._tokenizer(chunk, add_special_tokens=False, verbose=False)["input_ids"]
            if limit is not None and len(tokens) >= limit:
                return tokens[:limit]
        return tokens

    def _lines(self, split: Split) -> Iterable[str]:
        options = self.options
        if options.dataset is not None:
            table = read_dataset(options.dataset, split)
            if options.text not in table.column_names:
                raise InputError(
                    f"task.dataset {options.dataset.name!r} has no column {options.text!r};"
                    f" its columns: {table.column_names}"
                )
            return _as_lines(row[options.text] for row in table)
        return read_lines(options.require_file(split))


def _as_lines(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield texts with one line end each, as a text file has them; a row without text is none."""
    for text in texts:
        if text is not None:
            yield text if text.endswith("\n") else f"{text}\n"


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
