"""The study YAML."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from qsearch.errors import InputError
from qsearch.space.layers import FUSED_ROLES
from qsearch.spec.old_names import OLD_NAMES
from qsearch.spec.study_spec import differences, dump_spec, load_spec
from qsearch.spec.validation import validate
from qsearch.spec.yaml_text import dump_yaml
from tests.engine.fake_study import study_spec, study_values, write_study_yaml


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spec") / "study.yaml"


def refusal(path: Path, *overrides: str, **changes: Any) -> str:
    """The message with which a changed study is refused; it names the file."""
    write_study_yaml(path, **changes)
    with pytest.raises(InputError) as caught:
        load_spec(path, overrides, {})
    message = str(caught.value)
    assert message.startswith(f"{path}: ") or overrides
    assert "\n" not in message
    return message


def test_study_is_read_as_data(study: Path) -> None:
    spec = load_spec(write_study_yaml(study), (), {})
    assert spec == study_spec()
    assert spec.trainer.options == {"blocks": 2}
    assert spec.search.average_bits == (2.25, 6.0)


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("search__round", "average_bits, budgets, bytes, candidates, initial"),
        ("search__stop__minutes", "evaluations, hours, patience, tolerance"),
        ("serch", "failures, model, name, quantizer"),
    ],
)
def test_unknown_field_lists_what_is_allowed(study: Path, field: str, allowed: str) -> None:
    message = refusal(study, **{field: 2})
    assert f"{field.replace('__', '.')}: unknown field; allowed here: {allowed}" in message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("search__rounds", "many", "valid integer"),
        ("search__rounds", 2.5, "valid integer"),
        ("search__rounds", True, "valid integer"),
        ("search__rounds", 0, "greater than or equal to 1"),
        ("search__rounds", 100_001, "less than or equal to 100000"),
        ("search__initial", 1, "search.initial: Input should be greater than or equal to 2, not 1"),
        ("search__initial", {"unifrm": [3]}, "initial.unifrm: unknown field; allowed here: al"),
        ("search__candidates", -1, "greater than or equal to 0"),
        ("search__segments", 0, "greater than or equal to 1"),
        ("search__average_bits", [0, 2], "0 < low < high"),
        ("search__average_bits", [2, float("inf")], "0 < low < high"),
        ("search__stop", 3, "must be a section of fields"),
        ("search__stop__evaluations", 1, "greater than or equal to 2"),
        ("search__stop__hours", 0, "greater than 0"),
        ("search__stop__hours", True, "must be a number"),
        ("search__stop__hours", float("inf"), "finite number"),
        ("search__stop__tolerance", -0.1, "greater than or equal to 0"),
        ("search__stop__patience", 0, "greater than or equal to 1"),
        ("failures__retries", -1, "greater than or equal to 0"),
        ("failures__timeout_seconds", 0, "greater than 0"),
        ("failures__rate", 1.5, "less than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**31, "less than 2147483648"),
        ("name", "", "at least 1 character"),
        ("name", "x" * 101, "at most 100 characters"),
        ("task", None, "must be a section of fields"),
        ("space", {"tied": "all"}, "'none' or 'fused'"),
        ("space", {"fixed": {"x": {"bits": 2.5}}}, "space.fixed.x.bits: must be an integer or a"),
        ("space", {"fixed": {"x": {"bits": True}}}, "must be an integer or a text, not True"),
        ("space", {"fixed": {"x": 8}}, "space.fixed.x: Input should be a valid dictionary, not 8"),
    ],
)
def test_wrong_value_names_field_value_and_what_is_allowed(
    study: Path, field: str, value: Any, said: str
) -> None:
    message = refusal(study, **{field: value})
    assert field.replace("__", ".") in message
    assert said in message
    assert f"not {value!r}"[:60] in message or isinstance(value, dict)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search__average_bits": [2]}, "search.average_bits.1: Field required"),
        (
            {"model__layers": "encoder*"},
            "model.layers: must be a list, such as [encoder*], not 'encoder*'",
        ),
        # The alternatives of a union are not part of a field's name.
        ({"space__tied": [["query", 3]]}, "space.tied.0.1: Input should be a valid string, not 3"),
        ({"search": {1: 2}}, "search.1: a field's name is text, not 1"),
        ({"model__name": "./\0"}, "model.name: './\\x00' is not a path"),
        ({"model__config": {"x": [1, math.nan]}}, "config.x.1: must be a number, not nan"),
        ({"model__config": {"x": 2**63}}, "model.config.x: an integer has at most 64 bits"),
        ({"model__config": {"x": "a\0b"}}, "null character"),
        ({"model__config": {"x": "\ud800"}}, "half a surrogate pair"),
        (
            {"model__config": {"x": date(2020, 1, 2)}},
            "model.config.x: YAML reads 2020-01-02 as date; quote it to make it text",
        ),
        (
            {"task__files": {"train": "a/${DATA}.csv"}},
            "task.files.train: the environment variable DATA is not set; set it, or give the field"
            " itself, there or by --set task.files.train=VALUE (null for none, if optional)",
        ),
        (
            {"task__test": "${DATA}/sst2/test.tsv"},
            "DATA is not set; set it to the folder that holds sst2/test.tsv, or",
        ),
    ],
)
def test_what_a_study_cannot_hold_is_named(study: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refusal(study, **changes)


def test_every_wrong_field_is_named_at_once(study: Path) -> None:
    message = refusal(study, search__rounds=0, seed=-1)
    assert "search.rounds" in message
    assert "seed" in message


def test_long_values_are_shortened(study: Path) -> None:
    assert len(refusal(study, search__rounds="x" * 5000)) < len(str(study)) + 300


@pytest.mark.parametrize("text", ["", "just text", "- 1\n- 2", "3"])
def test_yaml_that_is_no_mapping_is_refused(text: str, study: Path) -> None:
    study.write_text(text)
    with pytest.raises(InputError, match="a study is a mapping of sections, not"):
        load_spec(study, (), {})


@pytest.mark.parametrize("field", OLD_NAMES)
def test_an_old_field_is_refused_with_what_replaced_it(study: Path, field: str) -> None:
    message = refusal(study, **{field.replace(".", "__"): 1})
    assert message == f"{study}: {field}: {OLD_NAMES[field]}"


def test_a_value_that_the_message_names_is_not_repeated() -> None:
    class Section(BaseModel):
        bits: tuple[int, ...]

        @field_validator("bits")
        @classmethod
        def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
            raise ValueError(f"values must be distinct, not {list(value)}")

    with pytest.raises(InputError) as caught:
        validate(Section, {"bits": [2, 2]}, "my.yaml", "quantizer")
    assert str(caught.value) == "my.yaml: quantizer.bits: values must be distinct, not [2, 2]"


def test_variables_come_from_the_environment(study: Path) -> None:
    write_study_yaml(study, model__name="${DATA}/model-${SIZE:-small}")
    assert load_spec(study, (), {"DATA": "/d"}).model.name == "/d/model-small"
    assert load_spec(study, (), {"DATA": "", "SIZE": "x"}).model.name == "/model-x"


def test_an_override_changes_no_other_section_that_shares_an_alias(tmp_path: Path) -> None:
    values = study_values()
    del values["task"]
    text = "task: {name: fake, train: &data {rows: 1}, validation: *data}\n"
    path = tmp_path / "study.yaml"
    path.write_text(dump_yaml(values) + text)
    options = load_spec(path, ["task.train.rows=2"]).task.options
    assert options == {"train": {"rows": 2}, "validation": {"rows": 1}}


def test_override_replaces_a_variable_that_is_not_set(study: Path) -> None:
    write_study_yaml(study, model__name="${NOT_SET}")
    assert load_spec(study, ["model.name=here"], {}).model.name == "here"


def test_paths_in_the_file_are_relative_to_it(study: Path) -> None:
    folder = str(study.parent.parent / "models" / "bert")
    for written in ("../models/bert", "../${M}/bert", "${NOT_SET:-../models}/bert"):
        write_study_yaml(study, model__name=written)
        assert load_spec(study, (), {"M": "models"}).model.name == folder


def test_paths_of_overrides_and_variables_are_relative_to_the_working_directory(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    write_study_yaml(study, model__name="${DATA}/bert")
    for folder, expected in [
        ("../data", tmp_path / "data" / "bert"),
        ("./any", tmp_path / "here" / "any" / "bert"),
        (".", tmp_path / "here" / "bert"),
        ("data", tmp_path / "here" / "data" / "bert"),  # A folder that exists,
        (f"{tmp_path}/here/../here", f"{tmp_path}/here/../here/bert"),
        ("organisation", "organisation/bert"),  # and one that does not: a hub's name, say.
    ]:
        assert load_spec(study, (), {"DATA": folder}).model.name == str(expected)
    overrides = ["model.name=../bert", "task.files={train: [./a.csv]}", "trainer.x=${DATA}/x"]
    spec = load_spec(study, overrides, {"DATA": "data"})
    assert spec.model.name == str(tmp_path / "bert")
    assert spec.task.options["files"] == {"train": [str(tmp_path / "here" / "a.csv")]}
    assert spec.trainer.options["x"] == str(tmp_path / "here" / "data" / "x")


def test_a_resolved_study_is_read_as_it_stands(study: Path) -> None:
    write_study_yaml(study, model__name="${X}", task__text="${NOT_SET} costs")
    spec = load_spec(study, ["task.text=./x"], {"X": "a ${NOT_SET} ${X}"}, resolved=False)
    assert spec.model.name == "a ${NOT_SET} ${X}"
    study.write_text(dump_spec(spec))
    assert load_spec(study, (), {"X": "other"}, resolved=True) == spec


def test_overrides_are_yaml_and_may_add_sections(study: Path) -> None:
    write_study_yaml(study)
    spec = load_spec(
        study, ["search.average_bits=[3, 4]", "space.tied=fused", "trainer.blocks=3"], {}
    )
    assert spec.search.average_bits == (3, 4)
    assert spec.space.fused_roles == FUSED_ROLES
    assert spec.trainer.options["blocks"] == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.rounds", "write section.field=value"),
        ("=3", "write section.field=value"),
        ("search..rounds=3", "write section.field=value"),
        ("search.rounds.more=3", "'rounds' is not a section"),
        ("search.rounds=[", "not valid YAML"),
        ("search.rounds=2020-13-45", "not valid YAML"),
        ("search.rounds=&a [*a]", "alias"),
        ("search.rounds=" + "[" * 3000, "deep"),
        ("search.rounds=none", "search.rounds"),
        ("serch.rounds=3", "serch: unknown field"),
    ],
)
def test_wrong_override_is_named(override: str, said: str, study: Path) -> None:
    message = refusal(study, override)
    assert said in message
    assert "--set" in message or str(study) in message


@pytest.mark.parametrize(
    ("tied", "roles"),
    [("none", ()), ("fused", FUSED_ROLES), ([["query", "key"]], (("query", "key"),)), ([], ())],
)
def test_tied_roles_are_none_or_fused_or_given(
    tied: Any, roles: tuple[tuple[str, ...], ...]
) -> None:
    assert study_spec(space={"tied": tied}).space.fused_roles == roles


def test_differences_name_each_field() -> None:
    before = study_spec()
    after = study_spec(search__rounds=3, trainer__noise=0.1)
    assert differences(before, before) == []
    assert differences(before, after) == [
        "search.rounds: 2 → 3",
        "trainer.noise: 'not given' → 0.1",
    ]
