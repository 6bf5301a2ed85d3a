"""Where models are looked for, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from qsearch_coalora.models.loading import load_config, load_pretrained, skeleton
from qsearch_coalora.models.source import locate_model

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere", r"'\./nowhere'"),
        ("/nowhere/model", "/nowhere/model"),
        ("nowhere/model.gguf", r"nowhere/model\.gguf"),
        ("a/b/c", "a/b/c"),
        ("package:no_such_package/model", "pip install no-such-package"),
        ("package:torch/no/such/folder", "has no 'no/such/folder'"),
        ("package:torch/../numpy", "package:MODULE/PATH"),
        ("package:torch//etc", "package:MODULE/PATH"),
        ("package:numpy.linalg/x", "a top-level module"),  # Finding it would import what holds it.
        ("package:/x", "package:MODULE/PATH"),
        ("package:__main__/x", r"model\.name 'package:"),
        (f"package:torch/{'x' * 300}", r"model\.name 'package:"),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        locate_model(ModelSpec(name=name))


@pytest.mark.parametrize(
    ("name", "said"), [("", r"holds no config\.json"), ("a.bin", r"must end in \.gguf")]
)
def test_a_folder_or_file_of_another_kind_is_refused(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    with pytest.raises(InputError, match=said):
        locate_model(ModelSpec(name=str(tmp_path / name)))


def test_a_package_is_found_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "explosive" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "explosive" / "__init__.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = locate_model(ModelSpec(name="package:explosive/model"))
    assert (source.path, source.is_local) == (str(folder), True)


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> mock.Mock:
    """What the hub is asked with; it never answers."""
    asked = mock.Mock(side_effect=ConnectionError("no route"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return asked


def test_an_unreachable_hub_is_tried_once_and_reported_in_one_line(unreachable_hub) -> None:
    with pytest.raises(InputError, match="cannot be reached") as caught:
        load_pretrained(ModelSpec(name="owner/model"), "AutoModelForCausalLM")
    assert unreachable_hub.call_count == 1
    assert "\n" not in str(caught.value)


def test_configuration_fields_stand_in_for_an_unreachable_model(unreachable_hub) -> None:
    fields = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3}
    config, notes = load_config(ModelSpec(name="owner/model", config=fields))
    assert len(skeleton(config).layers) == 3
    assert "downloaded" in notes[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "no-such-type"}, "no-such-type"),
        ({"model_type": "bert", "auto_map": {"AutoModel": "x--y.Z"}}, "auto_map names code"),
    ],
)
def test_configuration_fields_that_cannot_be_used_are_refused(
    fields: dict[str, object], said: str, unreachable_hub
) -> None:
    with pytest.raises(InputError, match=said):
        load_config(ModelSpec(name="owner/model", config=fields))
