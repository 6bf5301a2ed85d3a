"""Sequence classification: texts or pairs of texts, each with one label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from qsearch.errors import InputError
from qsearch.models.discovery import backbone
from qsearch.plugins.digests import STUDY_SPLITS, ExamplesDigest
from qsearch.plugins.evaluation import Metric, MetricValue
from qsearch.plugins.protocols import LoadedModel, Scores, Split
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.loading import load_config, load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer, require_embedding, require_embeddings
from qsearch_coalora.tasks.batching import encode, length_grouped, pad
from qsearch_coalora.tasks.data_checks import classification_warnings
from qsearch_coalora.tasks.data_files import require_columns
from qsearch_coalora.tasks.docstrings import require_packages
from qsearch_coalora.tasks.labelled_texts import ClassificationOptions, LabelledTexts, read_texts
from qsearch_coalora.tasks.labels import as_the_head_has_them, require_all, sorted_labels
from qsearch_coalora.tasks.metrics import accuracy, confusion, f1_score
from qsearch_coalora.tasks.splits import hold_out, require_examples
from qsearch_coalora.tasks.workload import Workload

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Classification:
    """Sequence classification with cross-entropy loss, accuracy, F1 of two labels, and flips."""

    Options = ClassificationOptions
    name = "classification"

    def __init__(self, options: ClassificationOptions) -> None:
        self.options = options
        self._texts: dict[Split, LabelledTexts] = {}
        self._encoded: dict[Split, tuple[Sequence[Mapping[str, Tensor]], Tensor]] = {}
        self._tokenizer: Any = None
        self._held_out = 0
        self._head_labels: tuple[str, ...] | None = None
        self._kept_labels: tuple[str, ...] | None = None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Accuracy and F1, the main one first, and flips; with more than two labels no F1."""
        names = ("f1", "accuracy") if self.options.metric == "f1" else ("accuracy", "f1")
        return (*(Metric(name, "higher") for name in names), Metric("flips", "lower"))

    @property
    def reference(self) -> Literal["round"]:
        """That of the round: a new head means nothing before it is trained."""
        return "round"

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in the order of the model's outputs; unless kept, they are read from the data."""
        if self._kept_labels is not None:
            return self._kept_labels
        if self.options.labels is not None:
            return require_all(self.options.labels, self._data_labels)
        return self._data_labels if self._head_labels is None else self._head_labels

    @cached_property
    def _data_labels(self) -> tuple[str, ...]:
        """Labels of the training data, in its order."""
        distinct = sorted_labels(self._training.labels)
        if len(distinct) < 2:
            raise InputError(f"the training data has one label only: {list(distinct)}")
        # Of a data set's own labels, training examples may lack some.
        labels = self._training.order or distinct
        if self.options.metric == "f1" and len(labels) > 2:
            raise InputError(f"task.metric f1 needs two labels; the data has {len(labels)}")
        if self.options.positive is not None and self.options.positive not in distinct:
            raise InputError(
                f"task.positive {self.options.positive!r} is not a label of the training data,"
                f" which has {list(distinct)}"
            )
        return labels

    @property
    def _positive(self) -> int:
        """The output of the label that F1 is of."""
        return self.labels.index(self.options.positive or self._data_labels[1])

    def load_model(self, model: ModelSpec, seed: int) -> LoadedModel:
        """Load the model with a classification head; a new head is drawn from the seed."""
        import torch

        self._tokenizer = tokenizer = load_tokenizer(model)
        self._require_fitting(load_config(model)[0], tokenizer, model.name)
        if self._kept_labels is None:
            self._usable("validation")  # Before the weights are loaded, which takes its time.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module, missing = load_pretrained(
                model,
                "AutoModelForSequenceClassification",
                num_labels=len(self.labels),
                pad_token_id=tokenizer.pad_token_id,
            )
        require_embeddings(model, module, tokenizer)
        named = self.options.labels is not None or self._kept_labels is not None
        if not named and not _head_is_new(module, missing):
            self._head_labels = as_the_head_has_them(
                self._data_labels, module.config.id2label, model.name
            )
        module.config.id2label = dict(enumerate(self.labels))
        module.config.label2id = {label: index for index, label in enumerate(self.labels)}
        return LoadedModel(module, tokenizer, _head(module, missing))

    def _require_fitting(self, config: Any, tokenizer: Any, model: str) -> None:
        """Refuse what transformers would only refuse in its own terms."""
        size = getattr(config, "vocab_size", None)
        if isinstance(size, int):
            padding = (tokenizer.pad_token, tokenizer.pad_token_id)
            require_embedding(model, size, "padding token", *padding)
        heads = [name for name in config.architectures or () if "SequenceClassif" in name]
        if heads and config.num_labels != len(self.labels):
            raise InputError(
                f"model.name {model!r} has {config.num_labels} outputs, named"
                f" {list(config.id2label.values())[:20]}; the training data has labels"
                f" {list(self.labels)[:20]}: give task.labels, one for each output in their order"
            )

    def workload(self) -> Workload:
        """Return how much the model computes, from the options alone; padding counts."""
        options = self.options
        examples = options.validation_examples
        if options.docstrings is not None:
            held = options.docstrings.validation_texts * len(options.docstrings.packages)
            examples = held if examples is None else min(examples, held)
        return Workload(
            options.max_length,
            examples,
            options.notes,
            tokens_option="task.max_length",
        )

    def require_data(self) -> None:
        """Look whether the training and validation data are there, without reading all of it."""
        if self.options.docstrings is not None:
            require_packages(self.options.docstrings.packages)
        self.options.require_sources(partial(require_columns, columns=self.options.columns))

    def data_warnings(self) -> tuple[str, ...]:
        """Read the files, and say whether their texts overlap, and whether they are few."""
        return classification_warnings(self.options)

    def prepare(self, tokenizer: Any) -> None:
        """Read and encode the training and validation data."""
        self._tokenizer = tokenizer
        self._encoded.clear()
        for split in ("train", "validation"):
            self._encode(split)

    def hold_out(self, examples: int) -> None:
        """Make ``examples`` texts, or pairs, of the training data the split ``held-out``."""
        self._held_out = examples

    def examples(self, split: Split) -> int:
        """Return the number of texts, or pairs of texts, of a split."""
        return len(self._read(split).labels)

    def chance_loss(self, split: Split) -> float:
        """Return the loss of a model that knows nothing but how frequent each label is."""
        labels = self._read(split).labels
        shares = [count / len(labels) for count in Counter(labels).values()]
        return -sum(share * math.log(share) for share in shares)

    def facts(self) -> dict[str, list[str]]:
        """Return the labels in the order of the model's outputs."""
        return {"labels": list(self.labels)}

    def use_facts(self, facts: Mapping[str, Any]) -> None:
        """Load models for these labels, without the data."""
        self._kept_labels = tuple(facts["labels"])

    def data_digests(self, splits: Sequence[Split] = STUDY_SPLITS) -> dict[str, ExamplesDigest]:
        """Return which texts with which labels the splits have; held-out ones are apart."""
        digests = {split: self._read(split).digest(self.options.file(split)) for split in splits}
        return {split: digest for split, digest in digests.items() if digest.count}

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield one pass over a split: shuffled by the generator, by length without one.

        Batches hold examples of similar length, each padded to the batch's longest.
        """
        examples, labels = self._encode(split)
        lengths = [len(example["input_ids"]) for example in examples]
        for positions in length_grouped(lengths, batch_size, generator):
            inputs = pad([examples[index] for index in positions], self._tokenizer.pad_token_id)
            yield {**inputs, "labels": labels[positions]}

    def score(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Scores:
        """Score a batch: logits are examples × labels, the batch's labels one an example."""
        import torch
        from torch import nn

        labels = batch["labels"]
        losses = nn.functional.cross_entropy(logits, labels, reduction="none")
        predicted = logits.argmax(-1)
        right = (predicted == labels).float()
        details = {}
        if logits.shape[-1] == 2:
            details["cells"] = confusion(predicted == self._positive, labels == self._positive)
        return Scores(losses, torch.ones_like(right), {"accuracy": right}, details)

    def draw_labels(
        self, logits: Tensor, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the batch with labels drawn from the logits' distributions."""
        import torch

        probabilities = logits.detach().float().softmax(-1).cpu()
        drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        return {**batch, "labels": drawn.to(batch["labels"].device)}

    def reference_outputs(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the log-probability of each label (n × labels)."""
        return {"logs": logits.log_softmax(-1)}

    def divergence(
        self, logits: Tensor, batch: Mapping[str, Tensor], reference: Mapping[str, Tensor]
    ) -> Tensor:
        """Return KL(reference ‖ model) of each example (n), nats."""
        logs = reference["logs"]
        return (logs.exp() * (logs - logits.log_softmax(-1))).sum(-1)

    def compare(
        self,
        scores: Scores,
        logits: Tensor,
        batch: Mapping[str, Tensor],
        reference: Mapping[str, Tensor],
    ) -> Scores:
        """Add whether each example's label differs from the reference's."""
        import torch

        kept = reference["logs"].argmax(-1)
        flips = torch.full_like(scores.weights, torch.nan)
        flips[: len(kept)] = (logits.argmax(-1)[: len(kept)] != kept).float()
        return replace(scores, metrics={**scores.metrics, "flips": flips})

    def summarise(self, scores: Scores) -> dict[str, MetricValue]:
        """Return the metrics that are known, with their standard errors."""
        values = {"accuracy": MetricValue(*accuracy(scores.metrics["accuracy"]))}
        if "cells" in scores.details:
            values["f1"] = MetricValue(*f1_score(scores.details["cells"]))
        if "flips" in scores.metrics:
            values["flips"] = MetricValue(*accuracy(scores.metrics["flips"]))
        return values

    def _encode(self, split: Split) -> tuple[Sequence[Mapping[str, Tensor]], Tensor]:
        import torch

        if split not in self._encoded:
            data = self._usable(split)
            outputs = {label: index for index, label in enumerate(self.labels)}
            self._encoded[split] = (
                encode(self._tokenizer, data.texts, self.options.max_length),
                torch.tensor([outputs[label] for label in data.labels]),
            )
        return self._encoded[split]

    def _usable(self, split: Split) -> LabelledTexts:
        """Return a split's texts, if the model has an output for each label and they suffice."""
        data = self._read(split)
        unknown = sorted(set(data.labels) - set(self.labels))
        if unknown:
            raise InputError(
                f"the {split} data has labels {unknown[:5]} that the training data lacks;"
                f" training has {list(self.labels)[:20]}"
            )
        if split != "train":
            require_examples(split, len(data.labels), "examples")
        return data

    @cached_property
    def _training(self) -> LabelledTexts:
        """All training data, held-out examples included."""
        return read_texts(self.options, "train").at_most(self.options.train_examples)

    def _read(self, split: Split) -> LabelledTexts:
        if split not in self._texts:
            if split in ("train", "held-out"):
                trained, held = hold_out(len(self._training.labels), self._held_out, "examples")
                self._texts["train"] = self._training.at(trained)
                self._texts["held-out"] = self._training.at(held)
            else:
                limit = getattr(self.options, f"{split}_examples")
                self._texts[split] = read_texts(self.options, split).at_most(limit)
        return self._texts[split]


def _head(module: nn.Module, missing: set[str]) -> tuple[str, ...]:
    """Return modules outside the headless model, and those drawn inside it."""
    prefix, _ = backbone(module)
    outside = [
        name
        for name, child in module.named_children()
        if name != prefix and any(True for _ in child.parameters())
    ]
    drawn = sorted(
        {name.rpartition(".")[0] for name in missing if prefix and name.startswith(f"{prefix}.")}
    )
    return (*outside, *drawn)


def _head_is_new(module: nn.Module, missing: set[str]) -> bool:
    """Return whether parameters outside the headless model were drawn, not loaded."""
    prefix, _ = backbone(module)
    return any(not name.startswith(f"{prefix}.") for name in missing)
