"""YAML 1.2 as plain data; what would take all time or memory is refused before it does."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import InputError
from qsearch.spec.yaml_text import MAX_BYTES, MAX_DEPTH, dump_yaml, parse_yaml, read_yaml


def aliases(levels: int) -> str:
    """Lists of which each is ten of the one before it."""
    lines = (f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, levels))
    return "\n".join(["l0: &l0 [1, 1]", *lines])


def merges(fields: int, times: int) -> str:
    """Mappings that each have all fields of the first."""
    first = ", ".join(f"a{n}: 1" for n in range(fields))
    return "\n".join([f"m: &m {{{first}}}", *(f"m{n}: {{<<: *m}}" for n in range(times))])


REFUSED = {
    "aliases": (aliases(levels=20), "aliases stand for more than"),
    "merges": (merges(fields=1000, times=60), "aliases stand for more than"),
    "alias of itself": ("model: &a {name: *a}", "an alias refers to a section that holds it"),
    "deep aliases": (
        "l0: &l0 [1]\n" + "\n".join(f"l{n + 1}: &l{n + 1} [*l{n}]" for n in range(MAX_DEPTH)),
        f"more than {MAX_DEPTH} deep",
    ),
    "deep": ("a: " + "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH, f"more than {MAX_DEPTH} deep"),
    "deep without end": ("a: " + "[" * 100_000, f"more than {MAX_DEPTH} deep"),
    "unclosed": ("a: 1\nb: [", r"not valid YAML: .* \(line 2, column 5\)"),
    "tab": ("name:\n\t- 1", "not valid YAML"),
    "binary": ("\x00\x01", "not valid YAML"),
    "field twice": ("k1: 1\nk2: 1\nk1: 2", 'duplicate key "k1" with value "2"'),
    "two documents": ("name: one\n---\nname: two", "another document"),
    "impossible date": ("name: 2020-13-45", "not valid YAML"),
    "impossible integer": ("name: !!int x", "not valid YAML"),
    "impossible boolean": ("name: !!bool x", "not valid YAML"),
    "impossible timestamp": ("name: !!timestamp x", "not valid YAML"),
    "very long integer": ("name: " + "9" * 5000, "not valid YAML"),
    "Python object": ("a: !!python/object/apply:os.system [ls]", "not .* a constructor"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_text_that_is_not_yaml_or_stands_for_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        parse_yaml(text, "study.yaml")
    assert str(caught.value).startswith("study.yaml: ")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_yaml_is_of_version_1_2() -> None:
    text = "base: &b {rate: 1e-3, deep: [[[1]]]}\nother: {<<: *b, rate: 2.5}\ntime: 1:30\non: off"
    assert parse_yaml(text, "study.yaml") == {
        "base": {"rate": 0.001, "deep": [[[1]]]},
        "other": {"rate": 2.5, "deep": [[[1]]]},
        "time": "1:30",
        "on": "off",
    }


def test_an_anchor_may_be_used_again_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse_yaml("[&a 1, *a, &a 2, *a]", "") == [1, 1, 2, 2]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
SCALARS |= st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
SCALARS |= st.sampled_from(["yes", "1e-3", "1:30", "0o17", "=", "~", "x " * 200, math.inf])


@given(
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
        max_leaves=8,
    )
)
def test_what_is_written_is_read_as_equal_and_in_order(values: object) -> None:
    again = parse_yaml(dump_yaml(values), "")
    assert again == values
    assert str(again) == str(values)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(InputError, match=f"at most {MAX_BYTES} bytes"):
        read_yaml(Path("/dev/zero"))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"name: \xff\xfe")
    for name, reason in [
        ("none.yaml", "no such file"),
        ("", "cannot be read: .*directory"),
        ("binary.yaml", "cannot be read"),
    ]:
        with pytest.raises(InputError, match=reason):
            read_yaml(tmp_path / name)
