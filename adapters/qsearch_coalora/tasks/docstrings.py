"""A text set that every machine has: docstrings of installed packages, labelled by package."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from qsearch.errors import InputError
from qsearch.plugins.protocols import Split
from qsearch_coalora.models.source import package_folders

_SKIPPED_FOLDERS = {"tests", "test", "testing", "_vendor", "vendored"}
_SECTION = re.compile(
    r"^\s*(?:[-=~^]{3,}\s*$|>>>|\.\. |:param|:return|@|"
    r"(?:args|arguments|parameters|returns?|yields?|raises|examples?|notes?|references|see also|"
    r"attributes|warnings?)\s*:?\s*$)",
    re.IGNORECASE,
)
_ROLE = re.compile(r":[\w:]+:`~?([^`<]*)[^`]*`")
_WORD = re.compile(r"[A-Za-z]{2,}")
_distributions = cache(metadata.packages_distributions)


class DocstringSource(BaseModel):
    """Docstrings of installed packages as labelled texts.

    A text is the description at the head of a public class's or function's docstring, its label
    is the package. Source files are parsed, never imported. Files, not texts, are dealt to the
    splits, and every class has equally many texts in a split. docs/studies.md has a table of the
    fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: tuple[str, ...] = Field(min_length=2)
    train_texts: int = Field(default=500, ge=1)
    validation_texts: int = Field(default=64, ge=1)
    min_words: int = Field(default=5, ge=1)
    max_words: int = Field(default=40, ge=1)
    seed: int = 0


@lru_cache(maxsize=4)
def collect_docstrings(source: DocstringSource) -> Mapping[Split, Sequence[tuple[str, str]]]:
    """Return (text, package) pairs by split; always the same for the same installed packages.

    Raises:
        InputError: If a package is not installed or has too few texts.
    """
    hidden = _hidden_words(source.packages)
    seen: set[str] = set()
    collected: dict[Split, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for package in source.packages:
        missing: dict[Split, int] = dict.fromkeys(collected, source.validation_texts)
        missing["train"] = source.train_texts
        for path, inside in source_files(package, source.seed):
            split = split_of(f"{package}/{inside}", source.seed)
            if not missing[split]:
                if not any(missing.values()):
                    break
                continue
            for text in _texts(path, hidden, source):
                if missing[split] and text.casefold() not in seen:
                    seen.add(text.casefold())
                    collected[split].append((text, package))
                    missing[split] -= 1
        short = {split: count for split, count in missing.items() if count}
        if short:
            raise InputError(
                f"task.docstrings: package {package!r} lacks texts ({short} more needed);"
                " ask for fewer, or choose another package"
            )
    return {split: tuple(texts) for split, texts in collected.items()}


def require_packages(packages: Sequence[str]) -> None:
    """Raise InputError unless the packages are installed."""
    for package in packages:
        _folder(package)


def _folder(package: str) -> Path:
    folders = package_folders(package)
    if not folders:
        raise InputError(
            f"task.docstrings.packages: package {package!r} is not installed; name top-level ones"
        )
    return folders[0]


def source_files(package: str, seed: int) -> Iterator[tuple[Path, str]]:
    """Yield a package's source files, in an order by the seed, with their names inside it."""
    root = _folder(package)
    inside = [
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if not _SKIPPED_FOLDERS & set(path.relative_to(root).parts)
    ]
    for name in sorted(inside, key=lambda name: _digest(f"{seed}:order:{package}/{name}")):
        yield root / name, name


def split_of(name: str, seed: int) -> Split:
    """Return the split that the texts of a source file are in, by its name and the seed."""
    position = int(_digest(f"{seed}:split:{name}")[:8], 16) / 16**8
    return "train" if position < 0.7 else "validation" if position < 0.85 else "test"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _hidden_words(packages: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern of the packages' names, which would give labels away."""
    distributions = _distributions()
    names = {name for package in packages for name in (package, *distributions.get(package, ()))}
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?:{alternatives})(?:\.\w+)*", re.IGNORECASE)


def _texts(path: Path, hidden: re.Pattern[str], source: DocstringSource) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        docstring = None if node.name.startswith("_") else ast.get_docstring(node)
        if docstring:
            words = hidden.sub(" ", plain_description(docstring)).split()
            text = " ".join(words[: source.max_words])
            if len(_WORD.findall(text)) >= source.min_words:
                yield text


def plain_description(docstring: str) -> str:
    """Return the description at a docstring's head as plain text on one line.

    It ends before the first section, directive, field or example; markup is removed.
    """
    lines: list[str] = []
    for line in docstring.splitlines():
        if _SECTION.match(line):
            underlined = re.match(r"^\s*[-=~^]{3,}\s*$", line)
            if underlined and lines:
                lines.pop()  # the title that the underline belongs to
            break
        lines.append(line)
    text = _ROLE.sub(r"\1", " ".join(lines))
    return " ".join(re.sub(r"[`*|]+", "", text).split())
