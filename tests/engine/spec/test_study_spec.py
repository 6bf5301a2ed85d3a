"""The study YAML."""

from __future__ import annotations

import contextlib
import math
import string
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from qsearch.errors import InputError
from qsearch.space.layers import FUSED_ROLES
from qsearch.spec.old_names import OLD_NAMES
from qsearch.spec.study_spec import StudySpec, differences, dump_spec, load_spec
from qsearch.spec.validation import validate
from qsearch.spec.yaml_text import dump_yaml
from tests.engine.support import study_spec, study_values, write_study_yaml


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


def test_defaults_of_the_paper(study: Path) -> None:
    values = study_values()
    del values["search"]
    study.write_text(dump_yaml(values))
    search = load_spec(study, (), {}).search
    assert search.segments == 40
    assert search.average_bits == (2.25, 7.25)


def test_unknown_field_lists_what_is_allowed(study: Path) -> None:
    message = refusal(study, search__round=2)
    assert "search.round: unknown field; allowed here: average_bits, candidates, initial" in message


def test_unknown_stop_rule_lists_what_is_allowed(study: Path) -> None:
    message = refusal(study, search__stop__minutes=2)
    allowed = "evaluations, hours, patience, tolerance"
    assert f"search.stop.minutes: unknown field; allowed here: {allowed}" in message


def test_unknown_section_lists_the_sections(study: Path) -> None:
    assert "serch: unknown field; allowed here: failures, model, name, quantizer" in refusal(
        study, serch=1
    )


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("search__rounds", "many", "valid integer"),
        ("search__rounds", 2.5, "valid integer"),
        ("search__rounds", [2], "valid integer"),
        ("search__rounds", None, "valid integer"),
        ("search__rounds", True, "valid integer"),
        ("search__rounds", 0, "greater than or equal to 1"),
        ("search__rounds", 100_001, "less than or equal to 100000"),
        ("search__initial", 1, "search.initial: Input should be greater than or equal to 2, not 1"),
        (
            "search__initial",
            {"unifrm": [3]},
            "search.initial.unifrm: unknown field; allowed here: al",
        ),
        ("search__candidates", -1, "greater than or equal to 0"),
        ("search__segments", 0, "greater than or equal to 1"),
        ("search__average_bits", [3, 2], "0 < low < high"),
        ("search__average_bits", [0, 2], "0 < low < high"),
        ("search__average_bits", [3, 3], "0 < low < high"),
        ("search__average_bits", [2, float("inf")], "0 < low < high"),
        ("search__stop", 3, "must be a section of fields"),
        ("search__stop__evaluations", 1, "greater than or equal to 2"),
        ("search__stop__evaluations", 20.0, "valid integer"),
        ("search__stop__evaluations", True, "valid integer"),
        ("search__stop__hours", 0, "greater than 0"),
        ("search__stop__hours", True, "must be a number"),
        ("search__stop__hours", "long", "valid number"),
        ("search__stop__hours", float("inf"), "finite number"),
        ("search__stop__tolerance", -0.1, "greater than or equal to 0"),
        ("search__stop__tolerance", False, "must be a number"),
        ("search__stop__patience", 0, "greater than or equal to 1"),
        ("search__stop__patience", None, "valid integer"),
        ("seed", True, "valid integer"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**31, "less than 2147483648"),
        ("name", "", "at least 1 character"),
        ("name", "x" * 101, "at most 100 characters"),
        ("name", 3, "valid string"),
        ("model", "bert", "must be a section of fields"),
        ("task", None, "must be a section of fields"),
        ("task__name", "", "at least 1 character"),
        ("space", {"tied": "all"}, "'none' or 'fused'"),
    ],
)
def test_wrong_value_names_field_value_and_what_is_allowed(
    study: Path, field: str, value: Any, said: str
) -> None:
    message = refusal(study, **{field: value})
    assert field.replace("__", ".") in message
    assert said in message
    assert f"not {value!r}"[:60] in message or isinstance(value, dict)


def test_list_of_the_wrong_length_names_what_is_missing(study: Path) -> None:
    assert "search.average_bits.1: Field required" in refusal(study, search__average_bits=[2])


def test_one_value_in_place_of_a_list_is_shown_as_a_list(study: Path) -> None:
    message = refusal(study, model__layers="encoder*")
    assert "model.layers: must be a list, such as [encoder*], not 'encoder*'" in message


def test_union_alternatives_do_not_show_in_the_field(study: Path) -> None:
    message = refusal(study, space={"tied": [["query", 3]]})
    assert "space.tied.0.1: Input should be a valid string, not 3" in message
    assert "literal" not in message


def test_missing_section_is_named(study: Path) -> None:
    values = study_values()
    del values["model"]
    study.write_text(dump_yaml(values))
    with pytest.raises(InputError, match="model: Field required"):
        load_spec(study, (), {})


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


NOT_KEPT = {
    "number": (math.nan, "must be a number, not nan"),
    "integer": (2**63, "an integer has at most 64 bits"),
    "text": ("a\0b", "null character"),
    "surrogate": ("\ud800", "half a surrogate pair"),
    "date": (date(2020, 1, 2), "YAML reads 2020-01-02 as date; quote it to make it text"),
}


@pytest.mark.parametrize(("value", "reason"), NOT_KEPT.values(), ids=NOT_KEPT.keys())
def test_what_no_resumed_study_would_find_unchanged_is_refused(
    value: Any, reason: str, study: Path
) -> None:
    message = refusal(study, model__config={"x": [1, value]})
    assert f"model.config.x.1: {reason}" in message or reason in message


def test_a_seed_of_minutes_is_refused(study: Path) -> None:
    study.write_text(dump_yaml(study_values()).replace("seed: 3", "seed: 1:30"))
    with pytest.raises(InputError, match="seed: Input should be a valid integer, not '1:30'"):
        load_spec(study)


@pytest.mark.parametrize("field", OLD_NAMES)
def test_an_old_field_is_refused_with_what_replaced_it(field: str) -> None:
    class Section(BaseModel, extra="forbid"):
        pass

    section, _, name = field.partition(".")
    with pytest.raises(InputError) as caught:
        validate(Section, {name: 1}, "my.yaml", section)
    assert str(caught.value) == f"my.yaml: {field}: {OLD_NAMES[field]}"


def test_an_old_value_is_refused_with_what_replaced_it(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OLD_NAMES, "search.keep=best", "write search.keep=front")
    assert refusal(study, search__keep="best").endswith(": search.keep: write search.keep=front")


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


def test_aliases_and_merges_work(study: Path) -> None:
    text = dump_yaml(study_values())
    text = text.replace("trainer:\n", "trainer:\n  <<: {blocks: 9, noise: 0.5}\n")
    study.write_text(text)
    assert load_spec(study, (), {}).trainer.options == {"blocks": 2, "noise": 0.5}


def test_a_number_is_no_fields_name(study: Path) -> None:
    assert "search.1: a field's name is text, not 1" in refusal(study, search={1: 2})


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


def test_variable_that_is_not_set_says_what_to_do(study: Path) -> None:
    message = refusal(study, task={"name": "fake", "files": {"train": "${DATA}/a.csv"}})
    assert "task.files.train: the environment variable DATA is not set" in message
    assert "--set task.files.train=VALUE" in message


def test_a_folders_variable_that_is_not_set_says_what_the_folder_holds(study: Path) -> None:
    message = refusal(study, task={"name": "fake", "test": "${DATA}/sst2/test.tsv"})
    assert "DATA is not set; set it to the folder that holds sst2/test.tsv, or" in message
    assert "--set task.test=VALUE (null for none, if optional)" in message


def test_override_replaces_a_variable_that_is_not_set(study: Path) -> None:
    write_study_yaml(study, model__name="${NOT_SET}")
    assert load_spec(study, ["model.name=here"], {}).model.name == "here"


def test_paths_in_the_file_are_relative_to_it(study: Path) -> None:
    beside = str(study.parent.parent / "models" / "bert")
    for written in ("../models/bert", "../${M}/bert", "${NOT_SET:-../models}/bert"):
        write_study_yaml(study, model__name=written)
        assert load_spec(study, (), {"M": "models"}).model.name == beside


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


def test_text_that_can_be_no_path_is_refused(study: Path) -> None:
    assert "model.name: './\\x00' is not a path" in refusal(study, model__name="./\0")


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
def test_ties(tied: Any, roles: tuple[tuple[str, ...], ...]) -> None:
    assert study_spec(space={"tied": tied}).space.fused_roles == roles


def test_differences_name_each_field() -> None:
    before = study_spec()
    after = study_spec(search__rounds=3, trainer__noise=0.1)
    assert differences(before, before) == []
    assert differences(before, after) == [
        "search.rounds: 2 → 3",
        "trainer.noise: 'not given' → 0.1",
    ]


def test_infinity_is_kept(study: Path) -> None:
    spec = load_spec(write_study_yaml(study, model__config={"limits": [0, math.inf]}))
    study.write_text(dump_spec(spec))
    assert load_spec(study, resolved=True) == spec


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
TEXT |= st.sampled_from(["${X}", "${X:-y}", "./x", "../x"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=TEXT,
    model=TEXT,
    low=st.floats(0.1, 4),
    option=st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
)
def test_dumped_study_reads_back_equal(
    study: Path, name: str, model: str, low: float, option: Any
) -> None:
    spec = study_spec(
        name=name, model__name=model, search__average_bits=[low, 5.0], trainer__option=option
    )
    study.write_text(dump_spec(spec), encoding="utf-8")
    again = load_spec(study, (), {}, resolved=True)
    assert again == spec
    assert differences(spec, again) == []


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.dates()
    | st.sampled_from(["${X}", "${HOME", "../x", "fake", ".", "="])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(string.ascii_letters, max_size=5), inner, max_size=3)
        | st.dictionaries(SCALARS.filter(lambda key: key == key), inner, max_size=2)
    ),
    max_leaves=6,
)


STOP = ["evaluations", "hours", "tolerance", "patience"]
FIELDS = [f"search__stop__{field}" for field in STOP]
FIELDS += ["search__stop", "search__rounds"]
FIELDS += ["search__average_bits", "space__tied", "model__layers", "model__config"]
FIELDS += [f"{section}__name" for section in ("model", "task", "trainer")]
FIELDS += ["name", "seed", "model", "task", "trainer", "space", "search", "other"]


def only_input_errors(path: Path, *overrides: str) -> None:
    with contextlib.suppress(InputError):
        spec = load_spec(path, overrides, {})
        assert isinstance(spec, StudySpec)
        dump_spec(spec)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    field=st.sampled_from(FIELDS),
    value=VALUES,
)
def test_any_value_of_any_field_gives_a_study_or_an_input_error(
    study: Path, field: str, value: Any
) -> None:
    study.write_text(dump_yaml(study_values(**{field: value})))
    only_input_errors(study)


TOKENS = [
    *"[]{}'\"~1x#,\n\t",
    *("name", ": ", "- ", "&a ", "*a", "<<", "? ", "|\n", ".inf", "0x", "1:2", "2020-1-1"),
    *("---", "...", "\\ud800", "%YAML 1.1", "!!int ", "!!set ", "!!timestamp ", "!!binary "),
]
FRAGMENTS = st.lists(st.sampled_from(TOKENS), max_size=12).map("".join)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=FRAGMENTS | st.text(max_size=20))
def test_any_text_gives_an_input_error(study: Path, text: str) -> None:
    study.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(InputError):
        load_spec(study, (), {})
    write_study_yaml(study)
    only_input_errors(study, f"search.rounds={text}", f"{text}=1")
