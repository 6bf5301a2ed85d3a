"""Code that comes with a model runs where the study says so in words, and nowhere else."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers
import yaml
from pydantic import ValidationError
from qsearch_coalora.models.loading import load_config, load_pretrained, skeleton
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.models.tokenizers import load_tokenizer
from transformers import dynamic_module_utils

from qsearch.deployment.criteria import chosen_criteria
from qsearch.deployment.exporting import export_configuration
from qsearch.errors import InputError
from qsearch.spec.sections import REMOTE_CODE, ModelSpec
from qsearch.spec.study_spec import load_spec
from qsearch.storage.study_record import read_study
from qsearch.study.checking import check_study
from qsearch.study.run import run_spec
from tests.end_to_end.tiny_study import write_tiny_study

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SENTENCE = f"model.remote_code={REMOTE_CODE}"
NOTE = "runs code that comes with the model (model.remote_code)"

CODE = {
    "configuration": """
from transformers import BertConfig

class OwnConfig(BertConfig):
    model_type = "qsearch-test-own"
""",
    "modeling": """
from transformers import BertForSequenceClassification, BertModel
from .configuration_own import OwnConfig

class OwnModel(BertModel):
    config_class = OwnConfig

class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
""",
    "tokenization": """
from transformers import BertTokenizer

class OwnTokenizer(BertTokenizer):
    pass
""",
}
CLASSES = {
    "AutoConfig": "configuration_own.OwnConfig",
    "AutoModel": "modeling_own.OwnModel",
    "AutoModelForSequenceClassification": "modeling_own.OwnForSequenceClassification",
}


@pytest.fixture(scope="module", autouse=True)
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep transformers' copies of code out of the user's cache, and out of other tests."""
    folder = str(tmp_path_factory.mktemp("modules"))
    before = list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", folder)
        yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that the model's code writes when it is imported."""
    return tmp_path / "it-ran"


@pytest.fixture
def study(tmp_path: Path, marker: Path) -> Path:
    """A tiny study whose model is a BERT by code of its own."""
    path = write_tiny_study(tmp_path, "integer", (2.5, 6.0))
    folder = tmp_path / "model"
    for kind, code in CODE.items():
        mark = f"import pathlib; pathlib.Path({str(marker)!r}).open('a').write('{kind} ')\n"
        (folder / f"{kind}_own.py").write_text(mark + code)
    edit_json(folder / "config.json", model_type="qsearch-test-own", auto_map=CLASSES)
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]},
    )
    return path


def test_without_the_words_no_code_runs_and_the_message_names_them(
    study: Path, marker: Path, tmp_path: Path
) -> None:
    spec = load_spec(study)
    for attempt in (
        lambda: check_study(spec, "study"),
        lambda: run_spec(spec, tmp_path / "run"),
        lambda: load_config(spec.model),
        lambda: load_pretrained(spec.model, "AutoModel"),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert f"'model.remote_code: {REMOTE_CODE}'" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_a_tokenizers_code_needs_the_words_too(study: Path, marker: Path) -> None:
    edit_json(study.parent / "model" / "config.json", model_type="bert", auto_map={})
    without = load_tokenizer(load_spec(study).model)
    assert not type(without).__module__.startswith("transformers_modules")
    assert not marker.exists()
    load_tokenizer(load_spec(study, [SENTENCE]).model)
    assert marker.read_text() == "tokenization "


def test_code_of_a_model_that_transformers_knows_stays_unused(study: Path, marker: Path) -> None:
    edit_json(study.parent / "model" / "config.json", model_type="bert")
    config, notes = load_config(load_spec(study).model)
    assert (type(config), notes) == (transformers.BertConfig, ())
    assert type(skeleton(config)) is transformers.BertModel
    assert not marker.exists()


def test_with_the_words_the_study_runs_end_to_end(
    study: Path, marker: Path, tmp_path: Path
) -> None:
    less = ("search.rounds=1", "search.initial=2", "search.candidates=0", "trainer.steps=1")
    spec = load_spec(study, [SENTENCE, *less])
    assert ("note", NOTE) in check_study(spec, "study")
    run_spec(spec, tmp_path / "run")
    assert set(read_study(tmp_path / "run").trials["status"]) == {"completed"}
    assert set(CODE) == set(marker.read_text().split())
    assert yaml.safe_load((tmp_path / "run/study.yaml").read_text())["model"]["remote_code"] == (
        REMOTE_CODE
    )

    export_configuration(tmp_path / "run", chosen_criteria(6.0)[0], tmp_path / "packed", "packed")
    assert "trust_remote_code=True" in (tmp_path / "packed/README.md").read_text()
    kind = transformers.AutoModelForSequenceClassification
    with pytest.raises(ValueError, match="trust_remote_code"):
        kind.from_pretrained(tmp_path / "packed", trust_remote_code=False)
    loaded = kind.from_pretrained(tmp_path / "packed", trust_remote_code=True)
    assert type(loaded).__name__ == "OwnForSequenceClassification"


def test_a_model_whose_code_has_no_class_without_head_is_laid_out_by_one_that_has(
    study: Path,
) -> None:
    only = {name: value for name, value in CLASSES.items() if name != "AutoModel"}
    edit_json(study.parent / "model" / "config.json", auto_map=only)
    model = load_spec(study, [SENTENCE]).model
    assert type(skeleton(load_config(model)[0], model)).__name__ == "OwnForSequenceClassification"


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_another_model_is_refused(study: Path, marker: Path, file: str) -> None:
    elsewhere = {"AutoTokenizer": ["owner/other--tokenization_own.OwnTokenizer", None]}
    if file == "config.json":
        elsewhere = {**CLASSES, "AutoModel": "owner/other--modeling_own.OwnModel"}
    edit_json(study.parent / "model" / file, auto_map=elsewhere)
    model = load_spec(study, [SENTENCE]).model
    with pytest.raises(InputError, match="its code is another model's, 'owner/other'"):
        load_config(model)
    assert not marker.exists()


def test_the_code_of_a_hub_model_is_that_of_the_commit(
    study: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A hub cache that holds the model at one commit, which its main branch has left.
    cache = tmp_path / "hub" / "models--owner--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("f" * 40)
    (cache / "snapshots" / COMMIT).parent.mkdir()
    (study.parent / "model").rename(cache / "snapshots" / COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = ModelSpec(name="owner/model", remote_code=REMOTE_CODE, revision=COMMIT)
    config, notes = load_config(model)
    assert type(skeleton(config, model)).__name__ == "OwnModel"
    module, _ = load_pretrained(model, "AutoModelForSequenceClassification", num_labels=2)
    assert COMMIT in type(module).__module__
    assert "configuration modeling" in marker.read_text()
    assert notes == (NOTE,)


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:-1], COMMIT.upper()])
def test_code_of_a_hub_model_is_pinned_to_a_commit(revision: str | None) -> None:
    model = ModelSpec(name="owner/model", remote_code=REMOTE_CODE, revision=revision)
    with pytest.raises(InputError, match=r"model\.revision must be a full commit hash"):
        locate_model(model)


def test_a_revision_of_a_folder_is_refused(bert_folder: Path) -> None:
    with pytest.raises(InputError, match=r"model\.revision 'main' is for models of the hub"):
        locate_model(ModelSpec(name=str(bert_folder), revision="main"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("remote_code", value) for value in (True, "true", "yes", REMOTE_CODE.capitalize())]
    + [("revision", value) for value in ("", "../main", "a/../b", "a b", "-x", "/etc", "x\n")],
)
def test_other_words_and_what_is_no_branch_tag_or_commit_are_refused(
    field: str, value: object
) -> None:
    with pytest.raises(ValidationError, match=field):
        ModelSpec(name="owner/model", **{field: value})
