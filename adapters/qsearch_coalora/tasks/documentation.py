"""Running text that every machine has: whole docstrings of installed packages, each line once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from qsearch.errors import InputError
from qsearch.plugins.protocols import Split
from qsearch_coalora.tasks.docstrings import source_files, split_of

_MIN_WORDS = 8
_LONG_LINE = 40
"""Characters of a line that may not occur twice; shorter ones, such as headings, must repeat."""


class DocumentationSource(BaseModel):
    """Docstrings of installed packages as text.

    Source files are parsed, never imported, and files are dealt to the splits. A paragraph is left
    out if it, or a long line of it, occurred before, in whatever split. docs/studies.md has a table
    of the fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: tuple[str, ...] = Field(default=("numpy", "pandas", "sympy", "scipy"), min_length=1)
    train_characters: int = Field(default=1_500_000, ge=1)
    validation_characters: int = Field(default=300_000, ge=1)
    test_characters: int = Field(default=600_000, ge=1)
    seed: int = 0


@lru_cache(maxsize=2)
def collect_documentation(source: DocumentationSource) -> Mapping[Split, Sequence[str]]:
    """Return texts by split; always the same for the same installed packages.

    Each package gives an equal share of the characters that a split still needs, and its last text
    may exceed it. What a package lacks, those after it give.

    Raises:
        InputError: If a package is not installed, or all have too little text.
    """
    seen: set[str] = set()
    collected: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
    needed = {split: int(getattr(source, f"{split}_characters")) for split in collected}
    for place, package in enumerate(source.packages):
        left = len(source.packages) - place
        missing = {split: -(-count // left) for split, count in needed.items()}
        for path, inside in source_files(package, source.seed):
            split = split_of(f"{package}/{inside}", source.seed)
            if all(count <= 0 for count in missing.values()):
                break
            if missing[split] > 0:
                texts = list(_texts(path, seen))
                collected[split] += texts
                count = sum(map(len, texts))
                missing[split] -= count
                needed[split] = max(needed[split] - count, 0)
    if short := {split: count for split, count in needed.items() if count}:
        raise InputError(
            f"task.docstrings: packages {', '.join(source.packages)} lack text ({short} more"
            " characters needed); ask for fewer, or add a package"
        )
    return {split: tuple(texts) for split, texts in collected.items()}


def _texts(path: Path, seen: set[str]) -> Iterator[str]:
    """Yield a file's docstrings without paragraphs that were seen before, and note these."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            lines = {_plain(line) for line in paragraph.splitlines() if len(line) >= _LONG_LINE}
            lines.add(_plain(paragraph))
            if not lines & seen:
                seen |= lines
                paragraphs.append(paragraph.rstrip())
        text = "\n\n".join(paragraphs)
        if len(text.split()) >= _MIN_WORDS:
            yield f"{text}\n\n"


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
