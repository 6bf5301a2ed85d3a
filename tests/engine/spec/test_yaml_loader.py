"""YAML that would take all time or memory is refused before it does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from qsearch.errors import InputError
from qsearch.spec.study_spec import dump_spec, load_spec
from qsearch.spec.yaml_loader import MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml
from tests.engine.support import write_study_yaml


def aliases(levels: int) -> str:
    """Lists of which each is ten of the one before it."""
    lines = (f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, levels))
    return "\n".join(["l0: &l0 [1, 1]", *lines])


def merges(fields: int, times: int) -> str:
    """Mappings that each have all fields of the first."""
    first = ", ".join(f"a{n}: 1" for n in range(fields))
    return "\n".join([f"m: &m {{{first}}}", *(f"m{n}: {{<<: *m}}" for n in range(times))])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (aliases(levels=20), "aliases make it larger"),
        (merges(fields=2000, times=60), "merged mappings have more than"),
        ("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"at most {MAX_DEPTH}"),
        ("a: " + "[" * 100_000, "not valid YAML"),
        ("a: 1" + ":59" * 300_000, "a number of 900001 characters"),
        ("a: 0x" + "f" * 50, "more than 64 bits"),
        ("a: 2020-13-45", "not valid YAML"),
        ("\n".join(f"k{n}: 1" for n in range(50_000)) + "\nk7: 1", "given twice: k7"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
    ids=["aliases", "merges", "deep", "deeper", "sexagesimal", "hex", "date", "fields", "tag"],
)
def test_a_text_that_stands_for_too_much_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        parse_yaml(text, "study.yaml")


def test_what_studies_need_is_read() -> None:
    text = (
        "base: &b {rate: 1e-3, deep: [[[1]]]}\nother: {<<: *b, rate: 2.5}\nlarge: 9007199254740993"
    )
    assert parse_yaml(text, "study.yaml") == {
        "base": {"rate": "1e-3", "deep": [[[1]]]},
        "other": {"rate": 2.5, "deep": [[[1]]]},
        "large": 2**53 + 1,
    }


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(InputError, match=f"at most {MAX_BYTES} bytes"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_no_file_keeps_is_refused_and_its_field_named(text: str, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    write_study_yaml(study)
    values = {**yaml.safe_load(study.read_text()), "model": {"name": "none", "config": {"x": text}}}
    study.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=r"model\.config\.x: .* null character"):
        load_spec(study)


def test_a_number_that_differs_from_itself_is_refused(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "study.yaml", model__config={"limit": math.nan})
    with pytest.raises(InputError, match=r"model\.config\.limit: must be a number"):
        load_spec(study)


def test_infinity_is_kept(tmp_path: Path) -> None:
    study = write_study_yaml(tmp_path / "study.yaml", model__config={"limits": [0, math.inf]})
    spec = load_spec(study)
    (tmp_path / "resolved.yaml").write_text(dump_spec(spec))
    assert load_spec(tmp_path / "resolved.yaml", resolved=True) == spec
