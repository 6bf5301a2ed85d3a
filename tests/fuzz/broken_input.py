"""What the fuzz tests share: how many inputs, where they may write, and what an answer may be."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import math
import os
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from qsearch.storage.checksums import BLANK, with_checksum
from tests.engine.fake_study import Done

EXAMPLES_VARIABLE = "QSEARCH_FUZZ_EXAMPLES"
"""Factor on the number of inputs of every fuzz test, such as 10."""

COUNTS_VARIABLE = "QSEARCH_FUZZ_COUNTS"
"""File to which the number of inputs tried is added, as JSON by kind."""


TRIED: Counter[str] = Counter()
"""How many inputs were tried, by kind."""


def fuzz(kind: str, examples: int, **strategies: st.SearchStrategy[Any]) -> Any:
    """Try ``examples`` inputs, the same at each run, times the factor that the environment gives.

    The kind, in which an argument may stand, is what they count as.
    """
    factor = float(os.environ.get(EXAMPLES_VARIABLE, "1"))
    limits = settings(
        max_examples=max(1, round(examples * factor)),
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # Inputs are small, and shrinking one takes minutes.
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(**arguments: Any) -> None:
            TRIED[kind.format(**arguments)] += 1
            test(**arguments)

        decorated: Callable[..., None] = limits(given(**strategies)(counted))
        return decorated

    return decorate


# Where may be written


def snapshot(root: Path, but: Path | None = None) -> dict[str, str]:
    """What is in a tree, links as links, without one folder of it."""
    found: dict[str, str] = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path)] = f"link to {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "folder"
        names[:] = [name for name in names if Path(folder, name) != but]
    return found


class Sandbox:
    """A tree in which a study has a place, and nothing else may change.

    The folder ``run`` of ``work`` is the place; home, the temporary folder and a neighbour lie
    around it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("home", "tmp", "work/neighbour"):
            (root / name).mkdir(parents=True)
        for name in ("home/.profile", "work/neighbour/precious.txt", "outside.txt"):
            (root / name).write_text(f"{name} must stay as it is\n")

    @property
    def place(self) -> Path:
        """The one folder that may be written."""
        return self.root / "work" / "run"

    @contextlib.contextmanager
    def writes_only_in_place(self) -> Iterator[Path]:
        """Give the empty place, and require that nothing around it changed."""
        self._clear()
        before = snapshot(self.root, self.place)
        yield self.place
        after = snapshot(self.root, self.place)
        place = str(self.place)
        assert {k: v for k, v in after.items() if k != place} == before
        self._clear()

    @contextlib.contextmanager
    def copy_of(self, folder: Path) -> Iterator[Path]:
        """Give the place with a copy of a folder, likewise."""
        with self.writes_only_in_place() as place:
            shutil.copytree(folder, place)
            yield place

    def _clear(self) -> None:
        if self.place.is_symlink() or self.place.is_file():
            self.place.unlink()
        elif self.place.exists():
            shutil.rmtree(self.place)


# What an answer may be


def one_line(answer: Done) -> None:
    """Require success, or one line of error."""
    if answer.code == 0:
        return
    assert answer.code in (1, 2), answer
    assert answer.errors.startswith("qsearch: "), answer
    assert answer.errors.count("\n") == 1, answer
    assert "Traceback" not in answer.output + answer.errors


def refused(
    work: Callable[[], object], error: type[Exception] | tuple[type[Exception], ...]
) -> bool:
    """Do what may be refused in words; return whether it was.

    Any other exception is shown with its traceback, so that the input can be understood.
    """
    try:
        work()
    except error:
        return True
    except Exception:
        pytest.fail(f"not refused in words: {traceback.format_exc()}")
    return False


# Broken files

ODD_TEXT = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "0",
            "nan",
            "\x00",
            "\ud7ff\ufeff",
            "‮⁦",
            "x" * 5000,
            "../../outside.txt",
            "/etc/passwd",
            "${HOME}",
            "${NO_SUCH_VARIABLE}",
            "<script>alert(1)</script>",
            "'; DROP TABLE trials; --",
            "[bold]",
            "%s%n{0}",
            "__class__",
        ]
    ),
)

NOT_FINITE = (math.nan, math.inf, -math.inf)
ODD_NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 2**31, 2**63 - 1, -(2**64), 10**400, 0.5, -0.0, 1e308, 1e-320, *NOT_FINITE]
)

ODD_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), ODD_NUMBERS, ODD_TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(ODD_TEXT, inner, max_size=3)
    ),
    max_leaves=4,
)


DEEP = json.loads("[" * 60 + "1" + "]" * 60)


def places_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a tree."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inner:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places_of(item, (*path, key))


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any, values: st.SearchStrategy[Any] = ODD_VALUES) -> Any:
    """A tree of JSON values with one to three changes: dropped, doubled, renamed, odd, nested."""
    for _ in range(draw(st.integers(1, 3))):
        places = list(places_of(tree))
        if not places:
            return draw(values)
        *path, last = draw(st.sampled_from(places))
        tree = copy.deepcopy(tree)
        holder = tree
        for step in path:
            holder = holder[step]
        kind = draw(st.sampled_from(["odd", "odd", "odd", "drop", "rename", "nest", "double"]))
        if kind == "odd":
            holder[last] = draw(values)
        elif kind == "drop":
            del holder[last]
        elif kind == "nest":
            holder[last] = draw(st.sampled_from([{"a": holder[last]}, [holder[last]], DEEP]))
        elif isinstance(holder, list):
            holder.insert(last, holder[last])
        else:
            value = holder[last] if kind == "double" else holder.pop(last)
            holder[draw(ODD_TEXT)] = value
    return tree


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes cut short, flipped, overwritten, doubled, or others altogether."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "overwrite", "insert", "other", "empty"]))
    if kind == "empty" or not content:
        return b""
    at = draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    junk = draw(st.binary(min_size=1, max_size=40))
    if kind == "overwrite":
        return content[:at] + junk + content[at + len(junk) :]
    if kind == "insert":
        return content[:at] + junk + content[at:]
    return junk


@st.composite
def changed_table(draw: st.DrawFn, table: pd.DataFrame) -> pd.DataFrame:
    """A table with a column dropped, doubled in rows, or of another type."""
    column = draw(st.sampled_from(list(table)))
    kind = draw(st.sampled_from(["drop", "retype", "one value", "no rows", "add"]))
    if kind == "drop":
        return table.drop(columns=column)
    if kind == "no rows":
        return table.iloc[:0]
    if kind == "retype":
        return table.assign(**{column: table[column].astype(str) + "x"})
    value = draw(st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=5)))
    if kind == "add":
        return table.assign(surprise=value)
    return table.assign(**{column: value})


def write_forged(path: Path, tree: Any) -> None:
    """Write a JSON state file that holds anything, but has the checksum of what it holds."""
    fields = {**(tree if isinstance(tree, dict) else {}), "checksum": BLANK}
    path.write_bytes(with_checksum(json.dumps(fields).encode()))
