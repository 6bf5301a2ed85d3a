"""Causal language modelling: perplexity on packed text, or on answers of instruction data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from qsearch.errors import InputError
from qsearch.plugins.digests import STUDY_SPLITS, ExamplesDigest
from qsearch.plugins.evaluation import Metric, MetricValue
from qsearch.plugins.protocols import LoadedModel, Scores, Split
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.loading import CAUSAL, load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer, require_embeddings
from qsearch_coalora.tasks.batching import IGNORED, length_grouped, pad
from qsearch_coalora.tasks.causal_options import CausalOptions
from qsearch_coalora.tasks.causal_texts import causal_lines, causal_rows
from qsearch_coalora.tasks.conversations import encode_rows
from qsearch_coalora.tasks.data_checks import causal_warnings
from qsearch_coalora.tasks.data_files import require_columns, require_text
from qsearch_coalora.tasks.divergence import (
    TOKEN_BYTES,
    TopProbabilities,
    divergence,
    same_top,
    top_probabilities,
)
from qsearch_coalora.tasks.documentation import collect_documentation
from qsearch_coalora.tasks.metrics import upper_percentile, weighted_mean
from qsearch_coalora.tasks.sequences import Sequences, pack
from qsearch_coalora.tasks.splits import hold_out, require_examples
from qsearch_coalora.tasks.workload import Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
        self._sequences: dict[Split, Sequences] = {}
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
        return Workload(
            options.length,
            options.validation_sequences,
            options.notes,
            tokens_option="task.length",
            reference_bytes=(options.length - 1) * TOKEN_BYTES,
        )

    def require_data(self) -> None:
        """Look whether the text is there: from files' beginnings alone, or all of docstrings."""
        options = self.options
        if options.docstrings is not None:
            collect_documentation(options.docstrings)
        table = partial(require_columns, columns=options.columns)
        options.require_sources(table if options.columns else require_text)

    def data_warnings(self) -> tuple[str, ...]:
        """Read the files, and say whether their texts overlap, and whether they are few."""
        return causal_warnings(self.options)

    def prepare(self, tokenizer: Any) -> None:
        """Read, encode and pack the training and validation text."""
        if tokenizer is not self._tokenizer:
            self._sequences.clear()
        self._tokenizer = tokenizer
        for split in ("train", "validation"):
            self._split(split)

    def hold_out(self, examples: int) -> None:
        """Make ``examples`` sequences of the training data the split ``held-out``."""
        self._held_out = examples
        # The model may have been loaded, which packs the training data without it.
        self._sequences.pop("train", None)
        self._sequences.pop("held-out", None)

    def examples(self, split: Split) -> int:
        """Return the number of tokens that a split's loss is over.

        Of a packed sequence, these are all but the first.

        Under the model's own distribution, the gradients of successive tokens are uncorrelated.
        """
        return self._split(split).predicted

    def chance_loss(self, split: Split) -> float:
        """Return the loss of a model for which all tokens are equally likely."""
        return math.log(len(self._tokenizer))

    def facts(self) -> dict[str, object]:
        """Return nothing: the head does not follow from the data."""
        return {}

    def use_facts(self, facts: Mapping[str, Any]) -> None:
        """Load models without the data."""
        self._reads_at_load = False

    def data_digests(self, splits: Sequence[Split] = STUDY_SPLITS) -> dict[str, ExamplesDigest]:
        """Return which tokens the splits have; held-out sequences are apart from the others."""
        return {
            split: sequences.digest(self.options.file(split))
            for split in splits
            if len(sequences := self._split(split))
        }

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield one pass over a split: shuffled by the generator, in fixed order without one.

        Packed text comes in its own order then. Other sequences are batched with those of similar
        length, and padded.
        """
        import torch

        sequences = self._split(split)
        if sequences.packed:
            count = len(sequences)
            order = torch.arange(count)
            if generator is not None:
                order = torch.randperm(count, generator=generator)
            batches = [positions.tolist() for positions in torch.split(order, batch_size)]
        else:
            lengths = [len(tokens) for tokens in sequences.tokens]
            batches = list(length_grouped(lengths, batch_size, generator))
        for positions in batches:
            yield pad(
                [sequences.inputs(position) for position in positions], self._tokenizer.pad_token_id
            )

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
        return Scores(losses, _predicted(batch).to(losses.dtype))

    def example_weights(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return how many tokens of each sequence are predicted."""
        return _predicted(batch)

    def draw_labels(
        self, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the batch with predicted tokens drawn from the logits' distributions."""
        import torch

        labels = batch["labels"].clone()
        for sequence, own in zip(logits.detach(), labels, strict=True):
            probabilities = sequence[:-1].float().softmax(-1).cpu()
            drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            own[1:] = torch.where(own[1:] == IGNORED, own[1:], drawn.to(own.device))
        return {**batch, "labels": labels}

    def reference_outputs(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the top of each next-token distribution (n × tokens × k).

        Zeros follow those of shorter sequences, so that all batches have equally many tokens.
        """
        import torch

        tops = [top_probabilities(sequence[:-1]) for sequence in logits]
        missing = self.options.length - logits.shape[1]
        pad_tokens = torch.nn.functional.pad
        return {
            "logs": pad_tokens(torch.stack([top.logs for top in tops]), (0, 0, 0, missing)),
            "tokens": pad_tokens(
                torch.stack([top.tokens for top in tops]).int(), (0, 0, 0, missing)
            ),
            "rest": pad_tokens(torch.stack([top.rest for top in tops]), (0, missing)),
        }

    def divergence(
        self, logits: Tensor, batch: Mapping[str, Tensor], reference: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the mean KL(reference ‖ model) over each sequence's predicted tokens (n)."""
        import torch

        kept = zip(reference["logs"], reference["tokens"], reference["rest"], strict=True)
        labels, means = batch["labels"][:, 1:], []
        for sequence, own, row in zip(logits, labels, kept, strict=True):
            top = TopProbabilities(*(part[: len(own)] for part in row))
            means.append(divergence(sequence[:-1], top)[own != IGNORED].mean())
        return torch.stack(means)

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
            predicted, counts = logits[place, :-1], batch["labels"][place, 1:] != IGNORED
            top = TopProbabilities(*(kept[: len(predicted)] for kept in row))
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

    def _split(self, split: Split) -> Sequences:
        if split not in self._sequences:
            if split in ("train", "held-out"):
                whole = self._read("train")
                trained, held = hold_out(len(whole), self._held_out, "sequences")
                self._sequences["train"] = whole.at(trained)
                self._sequences["held-out"] = whole.at(held)
            else:
                self._sequences[split] = self._read(split)
        return self._sequences[split]

    def _read(self, split: Split) -> Sequences:
        options = self.options
        if options.columns:
            rows, source = causal_rows(options, split)
            sequences = encode_rows(self._tokenizer, rows, options.length, source)
            unit = "examples with predicted tokens"
        else:
            limit = getattr(options, f"{split}_tokens")
            lines = causal_lines(options, split)
            sequences = pack(self._tokenizer, lines, options.length, limit, split)
            unit = f"sequences of task.length {options.length} tokens"
        if split != "train":
            require_examples(split, len(sequences), unit)
        return sequences


def _predicted(batch: Mapping[str, Tensor]) -> Tensor:
    return (batch["labels"][:, 1:] != IGNORED).sum(1)
