"""Thousands of broken studies: each is a study after all, or is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from qsearch.errors import InputError
from qsearch.plugins.registry import load_plugin
from qsearch.spec.study_spec import dump_spec, load_spec
from qsearch.spec.validation import validate
from qsearch.spec.yaml_text import dump_yaml, parse_yaml
from qsearch.study import checking
from tests.engine.fake_study import command_here, study_values
from tests.fuzz.broken_input import (
    ODD_TEXT,
    ODD_VALUES,
    Sandbox,
    changed_bytes,
    changed_tree,
    fuzz,
    one_line,
    refused,
)

ROOT = Path(__file__).parent.parent.parent
TEXTS = {path.stem: path.read_text() for path in sorted((ROOT / "studies").glob("*.yaml"))}
READY = {name: parse_yaml(text, name) for name, text in TEXTS.items()}
SECTIONS = [
    (f"{kind}s", values[kind])
    for values in READY.values()
    for kind in ("task", "quantizer", "trainer")
]

SNIPPETS = [
    '!!python/object/apply:os.system ["touch outside.txt"]',
    "!!python/name:os.system",
    "!!python/object/new:builtins.exec [1]",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!float {}",
    "!unknown 1",
    "&a {b: *a}",
    "*nowhere",
    "{<<: {a: 1}, b: 2}",
    "{<<: 1}",
    "{? [a] : 1}",
    "{a: 1, a: 2}",
    "0x" + "f" * 6000,
    "1:" * 3000 + "1",
    "1e999",
    "[" * 150 + "1" + "]" * 150,
    "{a: " * 200 + "1" + "}" * 200,
    "[&x [1,1,1,1,1,1,1,1,1], &y [*x,*x,*x,*x,*x,*x,*x,*x,*x],"
    " &z [*y,*y,*y,*y,*y,*y,*y,*y,*y], &w [*z,*z,*z,*z,*z,*z,*z,*z,*z],"
    " &v [*w,*w,*w,*w,*w,*w,*w,*w,*w], &u [*v,*v,*v,*v,*v,*v,*v,*v,*v],"
    " &t [*u,*u,*u,*u,*u,*u,*u,*u,*u]]",
    "0001-01-01T00:00:00+23:00",
    "1:" * 400 + "1.5",
    "{b: &b1 {k: 1, l: 2}, c: &c1 {<<: [*b1, *b1, *b1, *b1]}, d: &d1 {<<: [*c1, *c1, *c1]}}",
    '"\\uD800"',
    '"\\0"',
    '"\\u202E"',
    "| \n   text\n",
    "{",
    "'",
    "---",
]
"""Values as YAML says them: tags, aliases, depth, and what is no YAML."""

_MARK = "qsearchRAW"


@st.composite
def broken_yaml(draw: st.DrawFn, bases: list[dict[str, Any]]) -> str:
    """A ready study with changes in its tree, and perhaps a value that only YAML can say."""
    tree = draw(changed_tree(draw(st.sampled_from(bases)), st.one_of(ODD_VALUES, st.just(_MARK))))
    text = dump_yaml(tree)
    return text.replace(_MARK, draw(st.sampled_from(SNIPPETS)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study.yaml"


def read(path: Path) -> None:
    """Read a study; one that is accepted is what it says once it is written out."""
    spec = load_spec(path, environment={})
    again = path.with_name("again.yaml")
    again.write_text(dump_spec(spec), encoding="utf-8")
    assert load_spec(again, resolved=True) == spec


@fuzz("study YAML: changed values", 900, text=broken_yaml([*READY.values(), study_values()]))
def test_changed_studies_are_read_or_refused(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    refused(lambda: read(file), InputError)


@fuzz(
    "study YAML: bytes",
    500,
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.sampled_from(sorted(TEXTS.values())).map(str.encode).flatmap(changed_bytes),
    ),
)
def test_any_bytes_are_read_or_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    refused(lambda: read(file), InputError)


@fuzz(
    "study YAML: --set",
    400,
    override=st.one_of(
        ODD_TEXT,
        st.builds(
            "{}={}".format,
            st.sampled_from(["name", "search.rounds", "model.name", "a.b.c", "search", ".", "x."]),
            st.one_of(ODD_TEXT, st.sampled_from(SNIPPETS)),
        ),
    ),
)
def test_any_override_is_taken_or_refused(override: str, file: Path) -> None:
    file.write_text(dump_yaml(study_values()), encoding="utf-8")
    refused(lambda: load_spec(file, [override], environment={}), InputError)


@fuzz("options of plugins", 900, data=st.data())
def test_options_of_real_plugins_are_validated_or_refused(data: st.DataObject) -> None:
    group, section = data.draw(st.sampled_from(SECTIONS))
    options = {key: value for key, value in section.items() if key != "name"}
    changed = data.draw(changed_tree(options)) if options else data.draw(ODD_VALUES)
    plugin = load_plugin(group, section["name"])

    def build() -> None:
        made = validate(plugin.Options, changed, "study.yaml", group[:-1])
        if group != "trainers":
            plugin(made)

    refused(build, InputError)


CHEAP = [
    "trainer.blocks=1",
    "trainer.seconds=0",
    "search.rounds=1",
    "search.initial=2",
    "search.stop={evaluations: 2}",
]
"""What keeps a study that is accepted short."""


def in_one_line(place: Path, text: str, name: str, settings: list[str], *options: str) -> None:
    """Require that a command with a study, in the place, succeeds or says why not in one line."""
    place.mkdir()
    (place / "study.yaml").write_text(text, encoding="utf-8")
    overrides = [word for value in settings for word in ("--set", value)]
    answer = command_here(name, place / "study.yaml", *options, *overrides)
    one_line(answer)
    assert answer.code in (0, 2)


@fuzz("qsearch check", 250, text=broken_yaml([study_values()]))
def test_check_says_what_is_wrong_in_one_line(
    text: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_flops_per_second", lambda: 1e9)  # It need not measure.
    with sandbox.writes_only_in_place() as place:
        in_one_line(place, text, "check", ["trainer.blocks=2"])


@fuzz("qsearch run", 60, text=broken_yaml([study_values()]))
def test_run_says_what_is_wrong_in_one_line_and_writes_in_its_folder_alone(
    text: str, sandbox: Sandbox
) -> None:
    with sandbox.writes_only_in_place() as place:
        in_one_line(place, text, "run", CHEAP, "--out", str(place / "out"))
