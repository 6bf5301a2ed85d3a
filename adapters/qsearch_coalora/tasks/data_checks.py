"""What limits results on data, seen before any long work: overlap of splits, and too few examples.

Only what is on this machine as files is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from qsearch.errors import InputError
from qsearch.plugins.protocols import Split
from qsearch_coalora.tasks.causal_options import CausalOptions
from qsearch_coalora.tasks.causal_texts import causal_rows
from qsearch_coalora.tasks.data_files import read_lines
from qsearch_coalora.tasks.labelled_texts import ClassificationOptions, LabelledTexts, read_texts
from qsearch_coalora.tasks.sources import SourceOptions
from qsearch_coalora.tasks.splits import require_examples

MAX_OVERLAP = 0.02
"""Share of a split's texts that may be in another: of SST-2's dev phrases, 0.011 are in train."""

MAX_ACCURACY_ERROR = 0.03
"""Standard error of an accuracy above which examples are too few; that of 278 of them."""

MAX_PERPLEXITY_ERROR = 0.05
"""Relative standard error of a perplexity above which tokens are too few; that of 2,900."""

_TOKEN_STD = 2.7
"""About the standard deviation of a small language model's loss over tokens, in nats."""

_CHARACTERS_PER_TOKEN = 4
_LONG_LINE = 40
"""Characters of a line that counts in an overlap: shorter ones, such as headings, repeat."""

Texts = Callable[[], Iterable[str]]


def classification_warnings(options: ClassificationOptions) -> tuple[str, ...]:
    """Return warnings on labelled texts.

    Raises:
        InputError: If a file has one label or too few rows, or the test split overlaps.
    """
    if options.docstrings is not None:
        count: int | None = options.docstrings.validation_texts * len(options.docstrings.packages)
    elif options.dataset is not None:
        count = options.validation_examples
    else:
        read = {split: read_texts(options, split) for split in _files(options)}
        for split, data in read.items():
            _require_two_labels(data, options.file(split))
            if split != "train":
                require_examples(split, len(data.labels), "examples")
        warnings = _overlaps({split: _in_lines(data.texts) for split, data in read.items()})
        count = len(read["validation"].labels)
        return (*warnings, *_few_examples(_least(count, options.validation_examples)))
    return _few_examples(_least(count, options.validation_examples))


def causal_warnings(options: CausalOptions) -> tuple[str, ...]:
    """Return warnings on text or conversations.

    Raises:
        InputError: If a file has no rows, or the test split overlaps.
    """
    sequences = options.validation_sequences
    count = None if sequences is None else sequences * (options.length - 1)
    if options.docstrings is not None:
        known = options.docstrings.validation_characters // _CHARACTERS_PER_TOKEN
        return _few_tokens(_least(known, count))
    files = _files(options)
    if options.columns:
        # How long completions are is known to the tokenizer alone.
        rows = {split: causal_rows(options, split)[0] for split in files}
        return _overlaps({split: _in_lines(row) for split, row in rows.items()})
    warnings = _overlaps({split: _long_lines(path) for split, path in files.items()})
    if "validation" in files:
        in_file = files["validation"].stat().st_size // _CHARACTERS_PER_TOKEN
        count = _least(in_file, count)
    return (*warnings, *_few_tokens(count))


def _files(options: SourceOptions) -> dict[Split, Path]:
    """Return the files of a task's splits, that of the test split if it is there."""
    splits: tuple[Split, ...] = ("train", "validation", "test")
    files = {split: path for split in splits if (path := options.file(split)) is not None}
    return {split: path for split, path in files.items() if split != "test" or path.is_file()}


def _require_two_labels(data: LabelledTexts, path: Path | None) -> None:
    labels = sorted(set(data.labels))
    if len(labels) < 2:
        raise InputError(
            f"data file {path} has one label only, {labels[0]!r}; a classification needs two or"
            " more in each split"
        )


def _overlaps(texts: Mapping[Split, Texts]) -> tuple[str, ...]:
    """Return a warning if the validation texts are in the training data.

    Raises:
        InputError: If the test texts are in either.
    """
    for other in ("train", "validation"):
        share = _shared(texts, other, "test")
        if share > MAX_OVERLAP:
            raise InputError(
                f"task.test: {share:.1%} of its texts are in task.{other} too, so it shows nothing"
                f" of new data; at most {MAX_OVERLAP:.0%} may be"
            )
    share = _shared(texts, "train", "validation")
    if share <= MAX_OVERLAP:
        return ()
    return (
        f"{share:.1%} of the validation texts (task.validation) are in the training data"
        " (task.train) too: losses are too good for new data, and the search favours what was"
        " learnt by heart",
    )


def _shared(texts: Mapping[Split, Texts], seen: Split, split: Split) -> float:
    """Return the share of a split's texts that are in another one, 0 where one is absent."""
    if seen not in texts or split not in texts:
        return 0.0
    held = [hash(_plain(text)) for text in texts[split]()]
    among = set(held)
    common = {key for text in texts[seen]() if (key := hash(_plain(text))) in among}
    return sum(key in common for key in held) / max(len(held), 1)


def _long_lines(path: Path) -> Texts:
    def lines() -> Iterator[str]:
        return (line for line in read_lines(path) if len(line.strip()) >= _LONG_LINE)

    return lines


def _in_lines(rows: Iterable[object]) -> Texts:
    return lambda: map(repr, rows)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _least(*counts: int | None) -> int | None:
    return min((count for count in counts if count is not None), default=None)


def _few_examples(count: int | None) -> tuple[str, ...]:
    error = 0.0 if not count else 0.5 / count**0.5
    if error <= MAX_ACCURACY_ERROR:
        return ()
    return (
        f"{count} validation examples give an accuracy a standard error of up to"
        f" {100 * error:.1f} points: a difference between two models shows from about twice that"
        " on, or less where they err on the same examples",
    )


def _few_tokens(count: int | None) -> tuple[str, ...]:
    error = 0.0 if not count else _TOKEN_STD / count**0.5
    if error <= MAX_PERPLEXITY_ERROR:
        return ()
    return (
        f"about {count:,} validation tokens give a perplexity a standard error of about"
        f" {error:.0%}: evaluate more (task.validation_tokens) before you call one model better",
    )
