"""Causal language modelling: perplexity on text packed to a fixed length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from qsearch.errors import InputError
from qsearch.plugins.digests import ExamplesDigest
from qsearch.plugins.evaluation import Metric
from qsearch.plugins.protocols import LoadedModel, Scores, Split
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.digests import digest_of_tokens
from qsearch_coalora.models.loading import load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer, require_embeddings
from qsearch_coalora.tasks.data_files import read_lines, require_text
from qsearch_coalora.tasks.hub_datasets import HubDataset, import_datasets, read_dataset
from qsearch_coalora.tasks.metrics import weighted_mean
from qsearch_coalora.tasks.splits import hold_out, require_examples
from qsearch_coalora.tasks.workload import Workload

_CHARACTERS_AT_ONCE = 2**16


class CausalOptions(BaseModel):
    """Where the text is: files or a hub data set; exactly one of these.

    Args:
        train: Text file to train on.
        validation: Text file to evaluate on.
        test: Text file of the test split.
        dataset: A data set of the ``datasets`` library.
        text: Its column that holds text.
        length: Tokens of each sequence; text is packed without padding.
        train_tokens: Bound on the training tokens, from the start of the text.
        validation_tokens: The same for the validation tokens.
        test_tokens: The same for the test split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Path | None = None
    validation: Path | None = None
    test: Path | None = None
    dataset: HubDataset | None = None
    text: str = "text"
    length: int = Field(default=256, ge=2)
    train_tokens: int | None = Field(default=None, ge=2)
    validation_tokens: int | None = Field(default=None, ge=2)
    test_tokens: int | None = Field(default=None, ge=2)

    @model_validator(mode="after")
    def _one_source(self) -> CausalOptions:
        files = self.train is not None or self.validation is not None
        if files == (self.dataset is not None):
            raise ValueError("give exactly one of: train and validation files, dataset")
        if files and (self.train is None or self.validation is None):
            raise ValueError("files need both train and validation")
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
    metric = Metric("perplexity", "lower")

    def __init__(self, options: CausalOptions) -> None:
        self.options = options
        self._tokenizer: Any = None
        self._sequences: dict[Split, Tensor] = {}
        self._held_out = 0

    def load_model(self, model: ModelSpec, seed: int) -> LoadedModel:
        """Load the model with its language-modelling head; the text is prepared, nothing is drawn.

        Raises:
            InputError: If the text cannot be used, the model cannot be found or lacks weights, or
                its tokenizer is another model's.
        """
        tokenizer = load_tokenizer(model)
        self.prepare(tokenizer)  # Before the weights are loaded, which takes its time.
        module, missing = load_pretrained(model, "AutoModelForCausalLM")
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
            (options.dataset.note,) if options.dataset and options.dataset.note else (),
            tokens_option="task.length",
        )

    def require_data(self) -> None:
        """Look whether the training and validation text are there, from files' beginnings alone.

        Raises:
            InputError: If a file, or the package that reads a data set, is missing, or a file holds
                no text.
        """
        if self.options.dataset is not None:
            import_datasets()
        for path in (self.options.train, self.options.validation):
            if path is not None:
                require_text(path)

    def prepare(self, tokenizer: Any) -> None:
        """Read, encode and pack the training and validation text.

        Raises:
            InputError: If a file or column is missing, or a text is too short: training needs
                one sequence, validation two.
        """
        if tokenizer is not self._tokenizer:
            self._sequences.clear()
        self._tokenizer = tokenizer
        for split in ("train", "validation"):
            self._packed(split)

    def hold_out(self, examples: int) -> None:
        """Make so many sequences of the training data the split ``held-out``."""
        self._held_out = examples

    def examples(self, split: Split) -> int:
        """Return the number of tokens that a split's loss is over: of each sequence all but one.

        Under the model's own distribution, the gradients of successive tokens are uncorrelated.
        """
        sequences = self._packed(split)
        return len(sequences) * (sequences.shape[1] - 1)

    def data_digests(self) -> dict[str, ExamplesDigest]:
        """Return which tokens the splits have; held-out sequences are apart from the others."""
        splits: tuple[Split, ...] = ("train", "held-out", "validation")
        return {
            split: digest_of_tokens(sequences, self._path(split))
            for split in splits
            if len(sequences := self._packed(split))
        }

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield one pass over a split: shuffled by the generator, in text order without one."""
        sequences = self._packed(split)
        count = len(sequences)
        order = (
            torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
        )
        for chosen in torch.split(order, batch_size):
            tokens = sequences[chosen]
            yield {
                "input_ids": tokens,
                "attention_mask": torch.ones_like(tokens),
                "labels": tokens,
            }

    def score(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
        """Score a batch.

        Logits are sequences × tokens × vocabulary, the batch's ``labels`` sequences ×
        tokens.
        """
        targets = batch["labels"][:, 1:]
        # Sequence by sequence: all at once, logits of a large vocabulary would be copied first.
        losses = torch.stack(
            [
                nn.functional.cross_entropy(sequence[:-1], following)
                for sequence, following in zip(logits, targets, strict=True)
            ]
        )
        return Scores(losses, losses.detach(), torch.full_like(losses, targets.shape[1]).detach())

    def summarise(self, scores: Scores) -> tuple[float, float]:
        """Return perplexity and its standard error, exp(loss)·SE(loss) by the delta method."""
        mean, error = weighted_mean(scores.metrics, scores.weights)
        perplexity = torch.tensor(mean, dtype=torch.float64).exp().item()
        return perplexity, perplexity * error

    def _packed(self, split: Split) -> Tensor:
        if split not in self._sequences:
            if split in ("train", "held-out"):
                whole = self._pack("train")
                kept, held = hold_out(len(whole), self._held_out, "sequences")
                self._sequences["train"] = whole[torch.from_numpy(kept)]
                self._sequences["held-out"] = whole[torch.from_numpy(held)]
            else:
                self._sequences[split] = self._pack(split)
        return self._sequences[split]

    def _pack(self, split: Split) -> Tensor:
        options = self.options
        limit = {
            "train": options.train_tokens,
            "validation": options.validation_tokens,
            "test": options.test_tokens,
        }[split]
        tokens = self._tokens(self._lines(split), limit)
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

    def _path(self, split: Split) -> Path | None:
        options = self.options
        train = options.train
        paths = {"train": train, "held-out": train, "validation": options.validation}
        return {**paths, "test": options.test}[split]

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
        path = self._path(split)
        if path is None:
            raise InputError(f"task.{split} is not given, so there is no {split} split")
        return read_lines(path)


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
