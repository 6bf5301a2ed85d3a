"""From a study's data to its components; what a study needs; plugins; export."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qsearch.deployment.budgets import Budget
from qsearch.deployment.criteria import Criteria
from qsearch.deployment.exporting import export_configuration
from qsearch.deployment.selection import best_under
from qsearch.errors import InputError, QsearchError
from qsearch.plugins.components import build_components
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.quantizer_capabilities import SupportsShapeChoices
from qsearch.plugins.registry import Group, installed_plugins, load_plugin
from qsearch.storage.checksums import yaml_with_checksum
from qsearch.storage.study_record import read_study
from qsearch.study.checking import check_study
from tests.engine.fake_study import in_child, study_spec


def refusal(**changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        build_components(study_spec(**changes), "my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_components_belong_together() -> None:
    components = build_components(study_spec(space__tied="fused"))
    assert isinstance(components.quantizer, Quantizer)
    assert [layer.name for layer in components.space.layers][:2] == ["block.0.query", "block.0.key"]
    assert len(components.space.groups) == 4
    for configuration, bits in zip(
        components.space.choices.layer_configurations, components.space.storage_bits, strict=True
    ):
        assert bits == components.quantizer.storage_bits(configuration)


def test_embeddings_are_for_trainers_that_quantize_them() -> None:
    assert "space.embeddings: trainer 'fake' quantizes no" in refusal(space__embeddings=True)


def test_resolved_study_writes_out_every_plugin_option() -> None:
    spec = study_spec()
    resolved = build_components(spec).spec
    assert "noise" not in spec.trainer.options
    assert resolved.trainer.options == {
        "blocks": 2,
        "noise": 0.002,
        "faults": [],
        "full_precision": "works",
    }
    assert resolved.quantizer.options == {"bits": [2, 3, 4, 8], "group_size": [32, 64]}
    # Resolving is idempotent, so a resolved study resumes as itself.
    assert build_components(resolved).spec == resolved


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantizer__name": "nope"}, "quantizer.name: no quantizer is called 'nope'; installed: "),
        ({"trainer__name": "nope"}, "trainer.name: no trainer is called 'nope'; installed: ['"),
        ({"task__name": "nope"}, "task.name: no task is called 'nope'; installed: ['"),
        ({"trainer__block": 3}, "trainer.block: unknown field; allowed here: blocks, faults, full"),
        ({"trainer__blocks": -1}, "trainer.blocks: Input should be"),
        ({"trainer__faults": [{"kind": "odd"}]}, "trainer.faults.0.kind"),
        ({"trainer__name": "broken"}, "trainer.name: trainer 'broken' (qsearch_fake"),
        ({"trainer__name": "absent"}, "cannot be imported"),
        (
            {"quantizer__name": "future"},
            "quantizer.name: quantizer 'future' of qsearch-fake 1.0 is written for version 99 of"
            " qsearch's plugin contracts; this qsearch-llm supports version 2: ",
        ),
        ({"trainer__blocks": 0}, "model without layers"),
        ({"task__name": "reserved"}, "may not be called 'loss'"),
        ({"quantizer__bits": []}, "knob 'bits' has no values"),
        ({"search__average_bits": [0.5, 2.0]}, "my.yaml: search.average_bits: [0.5, 2] lies"),
        ({"search__average_bits": [9.0, 12.0]}, "what quantizer 'fake' can store: [2.25, 8.5]"),
        (
            {"quantizer__name": "shaped", "search__average_bits": [2.0, 2.6]},
            "what quantizer 'shaped' can store: [2.821, 9.071]",
        ),
        ({"space__tied": [["query", "key"], ["key", "value"]]}, "tied only once"),
        (
            {"space__tied": [["query", "kee"]]},
            "my.yaml: space.tied: no layer has the role 'kee'; roles: ['key', 'output', 'query', ",
        ),
        (
            {"space__fixed": {"head": {"bits": 8, "group_size": 32}}},
            "my.yaml: space.fixed: 'head' matches none of the 8 layers; their names are like ['blo",
        ),
        (
            {"space__fixed": {"*.key": {"bits": 5, "group_size": 32}}},
            "space.fixed: '*.key': knob 'bits' has no value 5; allowed: [2, 3, 4, 8]",
        ),
        (
            {"space__fixed": {"*.key": {"bits": 8}}},
            "'*.key': layer configuration has knobs ['bits', 'scheme']; the quantizer has ['bits',",
        ),
        (
            {
                "space__fixed": {"block.0.key": {"bits": 8, "group_size": 32}},
                "space__tied": [["query", "key"]],
            },
            "space.fixed: tied layers must be pinned together, and alike: block.0.query, block.0.k",
        ),
        (
            {"space__fixed": {"*": {"bits": 8, "group_size": 32}}},
            "space.fixed: every layer is pinned, which leaves nothing to search",
        ),
    ],
)
def test_what_no_study_can_be_built_of_is_named(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


def test_plugins_name_their_package() -> None:
    groups: tuple[Group, ...] = ("quantizers", "trainers", "tasks")
    for group in groups:
        fake = next(plugin for plugin in installed_plugins(group) if plugin.name == "fake")
        assert fake.distribution == "qsearch-fake 1.0"
        assert fake.target.startswith("qsearch_fake:Fake")
        assert load_plugin(group, "fake").__name__ == fake.target.partition(":")[2]


def test_a_name_that_two_packages_bring_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "other-2.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 2.0\n")
    (installed / "entry_points.txt").write_text("[qsearch.quantizers]\nfake = other:Own\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refusal()
    assert "my.yaml: quantizer.name: the quantizer 'fake' comes from 2 packages" in message
    assert "other 2.0 (other:Own) and qsearch-fake 1.0 (qsearch_fake:FakeQuantizer)" in message


@pytest.mark.parametrize("group", ["quantizers", "tasks"])
def test_a_plugin_that_calls_itself_otherwise_than_its_entry_point_is_refused(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_plugin(group, "fake"), "name", "other")
    said = f"{group[:-1]}.name: the entry point 'fake' leads to a {group[:-1]} that calls itself"
    assert f"{said} 'other'" in refusal()


def test_check_refuses_a_quantizer_whose_package_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def needing(*_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'codes'")

    monkeypatch.setattr(load_plugin("quantizers", "fake"), "quantize", needing)
    with pytest.raises(InputError, match="'fake' cannot be used: No module named 'codes'"):
        check_study(study_spec(), "my.yaml")


def test_check_refuses_data_that_the_task_finds_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any) -> None:
        raise InputError("data file a.csv does not exist")

    monkeypatch.setattr(load_plugin("tasks", "fake"), "require_data", missing, raising=False)
    with pytest.raises(InputError, match=r"a\.csv does not exist"):
        check_study(study_spec(), "my.yaml")


def test_check_reports_layers_space_memory_and_time() -> None:
    lines = dict(check_study(study_spec(), "my.yaml"))
    assert lines["layers"].startswith("8 quantizable, 0.1 M weights, roles key, output, query")
    # Two blocks of four layers with two knobs of several values; eight choices each.
    assert lines["space"].startswith("16 variables in 8 groups, 10^7 configurations, 2.25 to 8.5")
    assert lines["rounds"] == "2, about 18 evaluations"
    assert lines["memory"] == "about 1.0 GiB"
    assert "on this machine's CPU" in lines["time"]
    assert lines["note"] == "needs nothing"
    limited = check_study(study_spec(search__stop__evaluations=10), "my.yaml")
    assert dict(limited)["rounds"] == "2, about 10 evaluations"


OUTPUT = (64, 256)
"""The shape of the layers of one role."""


def taking(monkeypatch: pytest.MonkeyPatch, takes: Any) -> None:
    """Have the fake quantizer say which layers take which layer configuration."""
    fake = load_plugin("quantizers", "fake")
    # Asked for the first time while there is a method, Python keeps the answer for good.
    assert not isinstance(fake(fake.Options()), SupportsShapeChoices)
    monkeypatch.setattr(fake, "takes", takes, raising=False)


def test_check_says_which_layers_cannot_take_every_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    taking(monkeypatch, lambda _, shape, one: shape != OUTPUT or one["bits"] == 8)
    lines = check_study(study_spec(), "my.yaml")
    assert [text for what, text in lines if what == "note"] == [
        "2 of 8 layers (roles output; 256 input features) take only bits 8 group_size 32 scheme"
        " symmetric, bits 8 group_size 64 scheme symmetric",
        "needs nothing",
    ]


@pytest.mark.parametrize(
    ("takes", "said"),
    [
        (
            lambda _, shape, one: shape != OUTPUT,
            "my.yaml: quantizer 'fake' has no layer configuration for layers of these shapes"
            " (output × input features): block.0.output (64, 256), block.1.output (64, 256); it has"
            " bits 2 group_size 32 scheme symmetric, ",
        ),
        (
            lambda _, shape, one: one["bits"] != 3,
            "my.yaml: quantizer 'fake': no layer of this model takes bits 3 group_size 32 scheme"
            " symmetric, bits 3 group_size 64 scheme symmetric; leave them out (the layers have"
            " [64, 256] input features)",
        ),
    ],
)
def test_what_no_layer_can_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, takes: Any, said: str
) -> None:
    taking(monkeypatch, takes)
    assert refusal().startswith(said)


def test_check_asks_an_export_format_about_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, exporter = study_spec(), load_plugin("exporters", "json")
    assert check_study(spec, "my.yaml", ["json"])
    monkeypatch.setattr(exporter, "require_space", lambda *_: ["runs nowhere"], raising=False)
    assert ("note", "runs nowhere") in check_study(spec, "my.yaml", ["json"])

    def refusing(self: Any, model: Any, quantizer: Any, space: Any) -> Any:
        raise InputError(f"no room for {space.layers[0].name}")

    monkeypatch.setattr(exporter, "require_space", refusing)
    with pytest.raises(InputError, match=r"no room for block\.0\.query"):
        check_study(spec, "my.yaml", ["json"])
    with pytest.raises(InputError, match="'jsn': no exporter is called so"):
        check_study(spec, "my.yaml", ["jsn"])


@pytest.mark.parametrize(
    ("search", "evaluations"),
    [
        # A round after the first has the set and 2 baselines, but no more than there are.
        ({"initial": 5, "candidates": 1, "rounds": 3}, 6 + 7 + 8),
        ({"initial": 5, "candidates": 9, "rounds": 3}, 14 + 2 * (5 + 2 + 9)),
        ({"initial": 5, "candidates": 9, "rounds": 3, "keep": "all"}, 14 + 23 + 32),
        ({"initial": {"uniform": [2.5, 4.5], "random": 3}, "candidates": 9}, 14 + 5 + 2 + 9),
    ],
)
def test_check_counts_baselines_of_later_rounds(search: dict[str, Any], evaluations: int) -> None:
    changes = {f"search__{name}": value for name, value in search.items()}
    rounds = search.get("rounds", 2)
    lines = dict(check_study(study_spec(**changes), "my.yaml"))
    assert lines["rounds"] == f"{rounds}, about {evaluations} evaluations"


def test_what_check_counts_is_what_a_study_without_losers_evaluates(finished: Path) -> None:
    made = len(read_study(finished).trials)
    lines = dict(check_study(study_spec(), "my.yaml"))
    assert lines["rounds"] == f"2, about {made} evaluations"


def test_check_counts_the_memory_that_each_configuration_keeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = load_plugin("trainers", "fake")
    needs = trainer.requirements

    def keeping(self: Any) -> Any:
        return replace(needs(self), configuration_bytes=2**30)

    monkeypatch.setattr(trainer, "requirements", keeping)
    # Eight configurations at first, and four candidates.
    spec = study_spec(search__rounds=1, search__initial=8, search__candidates=4)
    assert dict(check_study(spec, "my.yaml"))["memory"] == "about 13.0 GiB"


def test_export_writes_the_picked_configuration(finished: Path, tmp_path: Path) -> None:
    row = export_configuration(
        finished, Criteria(Budget("bits", 4.0)), tmp_path / "new" / "out", "json"
    )
    best = best_under(read_study(finished), 4.0)
    assert int(row["trial"]) == int(best["trial"])
    written = json.loads((tmp_path / "new" / "out" / "configuration.json").read_text())
    assert written["configuration"] == json.loads(best["configuration"])
    # The adapter is the one of the round that the row belongs to.
    assert written["gain"] == pytest.approx(read_study(finished).rounds[-1].train_losses[-1])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_an_export_into_a_file_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for target, said in (("file", "not an empty folder"), ("file/out", "cannot be written")):
        with pytest.raises(InputError, match=said):
            export_configuration(finished, Criteria(Budget("bits", 4.0)), tmp_path / target, "json")
    assert (tmp_path / "file").read_text() == "mine"


def test_failed_export_leaves_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, job: Any, directory: Path) -> None:
        (directory / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(load_plugin("exporters", "json"), "write", fail)
    with pytest.raises(QsearchError, match="No space left on device; make room") as caught:
        export_configuration(finished, Criteria(Budget("bits", 4.0)), tmp_path / "out", "json")
    assert not isinstance(caught.value, InputError)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_tensors_are_written_is_an_input_error(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Any, job: Any, directory: Path) -> None:
        save_file({"weight": torch.zeros(10_000)}, directory / "model.safetensors")

    def export() -> None:
        # safetensors reports this as it reports a full disk: an error of its own.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(InputError, match=r"out: cannot be written: .*File too large"):
            export_configuration(finished, Criteria(Budget("bits", 4.0)), tmp_path / "out", "json")

    monkeypatch.setattr(load_plugin("exporters", "json"), "write", fill)
    assert in_child(export) == 0
    assert list(tmp_path.iterdir()) == []


def test_exported_study_is_read_as_it_stands(finished: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished, tmp_path / "copy")
    _, _, text = (copy / "study.yaml").read_text().partition("\n")
    text = text.replace("name: none", "name: ${QSEARCH_NOT_SET}")
    (copy / "study.yaml").write_bytes(yaml_with_checksum(text))
    export_configuration(copy, Criteria(Budget("bits", 4.0)), tmp_path / "out", "json")
