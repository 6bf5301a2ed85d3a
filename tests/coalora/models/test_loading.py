from __future__ import annotations

from pathlib import Path

import pytest
from qsearch_coalora.models import loading as models
from qsearch_coalora.models.loading import load_config, load_pretrained, skeleton
from qsearch_coalora.models.source import resolve_model

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec


def test_a_folder_is_local(bert_folder: Path) -> None:
    source = resolve_model(str(bert_folder))
    assert source.is_local
    assert source.path == str(bert_folder)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "nowhere/model.gguf", "a/b/c"])
def test_a_missing_folder_or_file_is_named(name: str) -> None:
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        resolve_model(name)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        resolve_model(str(tmp_path))


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(InputError, match="pip install no-such-package"):
        resolve_model("package:no_such_package/model")


def test_a_path_missing_inside_a_package_is_named() -> None:
    with pytest.raises(InputError, match="has no 'no/such/folder'"):
        resolve_model("package:torch/no/such/folder")


def test_a_path_inside_a_package_may_not_leave_it() -> None:
    with pytest.raises(InputError, match="package:MODULE/PATH"):
        resolve_model("package:torch/../numpy")


@pytest.mark.parametrize("name", ["package:torch//etc", "package:numpy.linalg/x", "package:/x"])
def test_a_package_is_a_top_level_one_and_the_path_inside_it(name: str) -> None:
    with pytest.raises(InputError, match="package:MODULE/PATH"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["package:__main__/x", f"package:torch/{'x' * 300}"])
def test_a_package_without_a_folder_or_a_path_that_none_can_have_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"model\.name 'package:"):
        resolve_model(name)


@pytest.mark.parametrize("inner", ["", ".inner"])
def test_a_package_is_found_and_not_imported(
    inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "explosive" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (tmp_path / "explosive" / "__init__.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    if inner:
        with pytest.raises(InputError, match="a top-level module"):
            resolve_model(f"package:explosive{inner}/model")
    else:
        assert resolve_model("package:explosive/model").path == str(folder)


class UnreachableHub:
    attempts = 0

    def model_info(self, *_: object, **__: object) -> None:
        UnreachableHub.attempts += 1
        raise ConnectionError("no route")


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> type[UnreachableHub]:
    UnreachableHub.attempts = 0
    monkeypatch.setattr("huggingface_hub.HfApi", UnreachableHub)
    monkeypatch.setattr(models, "is_in_hub_cache", lambda source: False)
    return UnreachableHub


def test_an_unreachable_hub_is_tried_once_and_told_in_one_line(unreachable_hub) -> None:
    with pytest.raises(InputError, match="cannot be reached") as caught:
        load_pretrained(ModelSpec(name="owner/model"), "AutoModelForCausalLM")
    assert unreachable_hub.attempts == 1
    assert "\n" not in str(caught.value)


def test_configuration_fields_stand_in_for_an_unreachable_model(unreachable_hub) -> None:
    fields = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3}
    config, notes = load_config(ModelSpec(name="owner/model", config=fields))
    assert len(skeleton(config).layers) == 3
    assert "downloaded" in notes[0]


def test_an_unknown_model_type_is_refused(unreachable_hub) -> None:
    with pytest.raises(InputError, match="no-such-type"):
        load_config(ModelSpec(name="owner/model", config={"model_type": "no-such-type"}))
