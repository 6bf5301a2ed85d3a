"""Broken packed exports, adapters and models: loaded as they were, or refused in words."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import small_tokenizer
from tests.fuzz.broken_input import (
    ODD_TEXT,
    ODD_VALUES,
    TRIED,
    Sandbox,
    changed_bytes,
    changed_tree,
    fuzz,
    refused,
)

transformers = pytest.importorskip("transformers")

from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from qsearch_coalora.models.loading import load_config, load_pretrained  # noqa: E402
from qsearch_coalora.models.tokenizers import load_tokenizer  # noqa: E402
from qsearch_quantizers.integer.quantizer import Integer  # noqa: E402
from qsearch_quantizers.packed.adapter_owner import owner_digest, owner_mark  # noqa: E402
from qsearch_quantizers.packed.verification import file_digests, settings_digest  # noqa: E402
from qsearch_quantizers.packed.writing import PackedExport, QuantizedLayer  # noqa: E402
from transformers import AutoModelForSequenceClassification  # noqa: E402

WEIGHTS = "model.safetensors"


def small_bert() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=63, intermediate_size=48, **sizes)
    return transformers.BertForSequenceClassification(config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(6)[None]).logits
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed export of one block; read-only for tests."""
    folder = tmp_path_factory.mktemp("packed") / "checkpoint"
    model = small_bert()
    names = [
        n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and ".layer" in n
    ]
    quantizer = Integer(Integer.Options())
    chosen = quantizer.choices().layer_configuration(4)
    weights = {name: model.get_submodule(name).weight for name in names}
    layers = (QuantizedLayer(n, quantizer.quantize(w, chosen)) for n, w in weights.items())
    configuration = dict.fromkeys(names, chosen)
    state = model.state_dict()
    export = PackedExport(model, state, quantizer, {}, configuration, 0, torch.bfloat16)
    export.write(layers, folder)
    return folder


@pytest.fixture(scope="module")
def expected(packed: Path) -> torch.Tensor:
    return logits(AutoModelForSequenceClassification.from_pretrained(packed))


def load(folder: Path) -> torch.Tensor:
    return logits(AutoModelForSequenceClassification.from_pretrained(folder))


def same_or_refused(folder: Path, expected: torch.Tensor) -> None:
    """Require the model that was written, or our error."""
    found: list[torch.Tensor] = []
    if not refused(lambda: found.append(load(folder)), InputError):
        torch.testing.assert_close(found[0], expected)


def quantization_config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text())["quantization_config"])


def write_quantization_config(folder: Path, section: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": section}))


def sign(folder: Path) -> None:
    """Make digests those of the files as they are, as who changes them on purpose would."""
    section = quantization_config(folder)
    names = ("quantizer", "quantizer_options", "layers", "adapter_rank")
    section["sha256"] = {
        **file_digests(sorted(folder.glob("model*.safetensors"))),
        "quantization_config": settings_digest({name: section.get(name) for name in names}),
    }
    write_quantization_config(folder, section)


@fuzz("packed exports: weights", 150, data=st.data())
def test_changed_weight_files_are_refused(
    data: st.DataObject, packed: Path, expected: torch.Tensor, sandbox: Sandbox
) -> None:
    content = data.draw(changed_bytes((packed / WEIGHTS).read_bytes()))
    with sandbox.copy_of(packed) as place:
        (place / WEIGHTS).write_bytes(content)
        same_or_refused(place, expected)


@st.composite
def changed_header(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose JSON header is changed, or whose header's length is."""
    (length,) = struct.unpack("<Q", content[:8])
    if draw(st.integers(0, 4)) == 0:
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + content[8:]
    tree = json.loads(content[8 : 8 + length])
    header = json.dumps(draw(changed_tree(tree))).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@fuzz("packed exports: headers", 150, data=st.data())
def test_headers_changed_on_purpose_are_read_or_refused(
    data: st.DataObject, packed: Path, sandbox: Sandbox
) -> None:
    content = data.draw(changed_header((packed / WEIGHTS).read_bytes()))
    with sandbox.copy_of(packed) as place:
        (place / WEIGHTS).write_bytes(content)
        sign(place)
        # Tensors that are not packed are transformers' own to check.
        refused(lambda: load(place), (InputError, RuntimeError))


@fuzz("packed exports: settings", 300, data=st.data(), signed=st.booleans())
def test_changed_settings_are_refused(
    data: st.DataObject, signed: bool, packed: Path, expected: torch.Tensor, sandbox: Sandbox
) -> None:
    section = data.draw(changed_tree(quantization_config(packed)))
    # Without these, it is not an export of ours, and transformers reads it.
    section = {**section, "quant_method": "qsearch"}
    with sandbox.copy_of(packed) as place:
        write_quantization_config(place, section)
        if signed:
            refused(lambda: sign(place), InputError)
            refused(lambda: load(place), InputError)
        else:
            same_or_refused(place, expected)


LINKS = ["outside.txt", "work/neighbour", "nowhere", "work/run/" + WEIGHTS, "/dev/null"]


@pytest.mark.parametrize("target", LINKS)
def test_weights_that_are_a_link_to_something_else_are_refused(
    target: str, packed: Path, sandbox: Sandbox
) -> None:
    TRIED["packed exports: links"] += 1
    with sandbox.copy_of(packed) as place:
        weights = place / WEIGHTS
        weights.unlink()
        weights.symlink_to(sandbox.root / target)
        with pytest.raises((InputError, OSError)):
            load(place)


# Adapters


@pytest.fixture(scope="module")
def adapter(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEFT adapter that says which packed weights it belongs to; read-only for tests."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    section = quantization_config(packed)
    digest = owner_digest(section["quantizer"], {}, section["layers"], "bert")
    config = LoraConfig(r=2, target_modules=["query"], auto_mapping=owner_mark(digest))
    get_peft_model(small_bert(), config).save_pretrained(str(folder))
    return folder


@fuzz("adapters: marks", 150, mark=st.fixed_dictionaries({"qsearch": ODD_VALUES}))
def test_an_adapter_with_an_odd_mark_is_taken_or_refused(
    mark: dict[str, Any], packed: Path, adapter: Path, sandbox: Sandbox
) -> None:
    with sandbox.copy_of(adapter) as place:
        path = place / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_mapping": mark}))
        base = AutoModelForSequenceClassification.from_pretrained(packed)
        refused(lambda: logits(PeftModel.from_pretrained(base, str(place))), InputError)


# Models, whose errors from whatever library become ours


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its tokenizer; read-only for tests."""
    folder = tmp_path_factory.mktemp("model") / "model"
    small_bert().save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@fuzz("model folders", 350, data=st.data())
def test_broken_model_folders_are_refused_in_words(
    data: st.DataObject, model_folder: Path, sandbox: Sandbox
) -> None:
    names = ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"]
    name = data.draw(st.sampled_from(names))
    content = (model_folder / name).read_bytes()
    if name != WEIGHTS and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed_tree(json.loads(content)))).encode()
    else:
        content = data.draw(changed_bytes(content))
    with sandbox.copy_of(model_folder) as place:
        (place / name).write_bytes(content)
        model = ModelSpec(name=str(place))
        if name == "config.json":
            refused(lambda: load_config(model), InputError)
        if "tokenizer" in name:
            refused(lambda: load_tokenizer(model), InputError)
        else:
            refused(
                lambda: load_pretrained(model, "AutoModelForSequenceClassification"), InputError
            )


@fuzz("model names", 200, name=ODD_TEXT, revision=st.none() | ODD_TEXT)
def test_odd_names_of_models_are_refused_before_the_hub_is_asked(
    name: str, revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    try:
        model = ModelSpec(name=name, revision=revision)
    except ValueError:
        return
    assert refused(lambda: load_config(model), InputError)
