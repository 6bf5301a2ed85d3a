"""Exports for vLLM, as the packages transformers and compressed-tensors load them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.models.loading import CAUSAL, load_pretrained
from qsearch_coalora.models.tokenizers import load_tokenizer
from qsearch_quantizers.compressed_tensors.quantizer import CompressedTensors
from qsearch_quantizers.integer.quantizer import Integer
from safetensors.torch import load_file

from qsearch.errors import InputError
from qsearch.space.configuration import Configuration
from qsearch.space.layers import FUSED_ROLES, tied_groups
from qsearch.spec.sections import ModelSpec
from tests.coalora.conftest import save_llama
from tests.coalora.exported import export, loaded_logits, study_logits, weight_files

FORMAT = "compressed-tensors"

MIXED = (
    "W2A16-g32",
    "W3A16-channel",
    "W4A16-g32",
    "W4A16-channel",
    "FP8",
    "W8A16-channel",
    "W8A16-g32",
)
ASYMMETRIC = ("W2A16-g32-asym", "W3A16-channel", "W4A16-channel-asym", "FP8", "W8A16-g32-asym")


@pytest.fixture(scope="module")
def even_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with rows that groups of 32 divide, and an output head of its own."""
    return save_llama(tmp_path_factory.mktemp("even"), 96, hidden_size=64)


def integers(**options: object) -> Integer:
    return Integer(Integer.Options(bits=(3, 4, 8), group_size=(32,), **options))


def schemes(names: tuple[str, ...], **options: object) -> CompressedTensors:
    return CompressedTensors(CompressedTensors.Options(scheme=names, **options))


def spread(trainer: Any, tied: bool = True) -> Configuration:
    """A configuration with all choices, in which layers that engines fuse are alike."""
    layers, choices = trainer.layers(), trainer.study.quantizer.choices()
    return Configuration(
        {
            layers[member].name: choices.layer_configuration(number * 7 % choices.size)
            for number, group in enumerate(tied_groups(layers, FUSED_ROLES if tied else ()))
            for member in group.members
        }
    )


@pytest.fixture
def study(make_trainer: Any, even_llama_folder: Path, make_causal_task: Any) -> Any:
    """Return a maker of a study on a small Llama, and one of its configurations."""

    def make(plugin: Any, tied: bool = True, **options: Any) -> tuple[Any, Configuration]:
        options = {"model": even_llama_folder, "learning_rate": 1e-2} | options
        trainer = make_trainer(plugin=plugin, task=make_causal_task(length=32), **options)
        return trainer, spread(trainer, tied)

    return make


def batch_of(trainer: Any) -> Any:
    assert trainer.study.loaded  # What trains nothing has not loaded its texts yet.
    return next(iter(trainer.study.task.batches("validation", 4)))


def loaded_as_the_card_says(folder: Path) -> Any:
    """Return the model that the code of an export's model card makes."""
    pytest.importorskip("compressed_tensors")
    names: dict[str, Any] = {}
    exec(card_code(folder), names)
    return names["model"].eval()


def card_code(folder: Path) -> str:
    code = (folder / "README.md").read_text().split("```")[1].removeprefix("python\n")
    return code.replace("path/to/this/folder", str(folder))


def assert_like(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def assert_held(trainer: Any, chosen: Configuration, folder: Path) -> None:
    """An export of a study without adapters has its logits."""
    trainer.train([chosen], 1)
    trainer.load_state(trainer.state())  # As an export does.
    batch = batch_of(trainer)
    trainer.place(chosen)
    expected = trainer.study.adapted.logits(batch).detach()
    assert export(trainer, chosen, folder, FORMAT) == weight_files(folder)
    assert_like(loaded_logits(loaded_as_the_card_says(folder), batch), expected)


@pytest.mark.parametrize(
    "plugin",
    [
        integers(),
        integers(rounding="gptq", scheme="asymmetric"),
        schemes(MIXED),
        schemes(ASYMMETRIC),
        schemes(MIXED, rounding="gptq"),
    ],
    ids=["integer", "integer-asymmetric-gptq", "schemes", "schemes-asymmetric", "schemes-gptq"],
)
def test_what_transformers_loads_has_the_studys_logits(
    study: Any, tmp_path: Path, plugin: Any
) -> None:
    trainer, chosen = study(plugin)
    trainer.train([chosen], 1)
    batch = batch_of(trainer)
    expected = study_logits(trainer, chosen, batch)
    assert export(trainer, chosen, tmp_path, FORMAT) == weight_files(tmp_path)
    model = loaded_as_the_card_says(tmp_path)
    found = loaded_logits(model, batch)
    assert_like(found, expected)
    with model.disable_adapter():
        assert not torch.allclose(found, loaded_logits(model, batch), atol=1e-3)


@pytest.mark.parametrize("plugin", [schemes(MIXED), integers()], ids=["schemes", "integers"])
@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_study_without_an_adapter_has_its_logits_too(
    study: Any, tmp_path: Path, fine_tune: bool, plugin: Any
) -> None:
    trainer, chosen = study(plugin, method=PTQTrainer, fine_tune=fine_tune)
    assert_held(trainer, chosen, tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_an_embedding_with_a_head_of_its_own_is_held(study: Any, tmp_path: Path) -> None:
    names = ("W4A16-g32", "W8A16-channel")
    trainer, chosen = study(schemes(names), method=PTQTrainer, fine_tune=False, embeddings=True)
    assert_held(trainer, chosen, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "model.embed_tokens.weight" not in stored
    assert "lm_head.weight" not in stored


@pytest.fixture(scope="module")
def smollm2_folder(smollm2_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first blocks of SmolLM2, with their real weights."""
    source = ModelSpec(name=str(smollm2_file))
    module, _ = load_pretrained(source, CAUSAL)
    folder = tmp_path_factory.mktemp("smollm2")
    module.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


def test_smollm2_has_the_studys_logits_in_a_process_without_qsearch(
    study: Any, smollm2_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    names = ("W4A16-g64-asym", "W4A16-g32", "FP8", "W8A16-channel")
    trainer, chosen = study(
        schemes(names), method=PTQTrainer, fine_tune=False, model=smollm2_folder
    )
    trainer.train([chosen], 1)
    trainer.load_state(trainer.state())
    batch = batch_of(trainer)
    trainer.place(chosen)
    expected = trainer.study.adapted.logits(batch).detach()
    out = tmp_path / "out"
    assert export(trainer, chosen, out, FORMAT) == weight_files(out)
    script = f"{card_code(out)}\nimport sys, torch\ntokens = {batch['input_ids'].tolist()}\n"
    script += "logits = model.eval()(torch.tensor(tokens)).logits\n"
    script += f"torch.save(logits.detach(), {str(tmp_path / 'logits.pt')!r})\n"
    script += "assert not any(name.startswith('qsearch') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
def test_weights_are_decompressed_to_the_studys(study: Any, tmp_path: Path, scheme: str) -> None:
    package = pytest.importorskip("compressed_tensors")
    trainer, chosen = study(integers(scheme=scheme))
    assert export(trainer, chosen, tmp_path, FORMAT, "auto") == weight_files(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    config = package.quantization.QuantizationConfig.model_validate(written)
    tensors = load_file(tmp_path / "model.safetensors")
    names = [layer.name for layer in trainer.layers()]
    compressor = package.compressors.PackedQuantizationCompressor
    decompressed = 0
    for group in config.config_groups.values():
        for target in group.targets:
            prefix = f"{target}."
            layer = {k.removeprefix(prefix): v for k, v in tensors.items() if prefix in k}
            layer["weight_scale"] = layer["weight_scale"].float()
            found = compressor.decompress(layer, group)["weight"]
            name = target.removeprefix("model.")
            assert group.weights.num_bits == chosen[name]["bits"]
            expected = trainer.study.adapted.weights.dequantized(names.index(name), chosen[name])
            assert torch.equal(found, expected)
            decompressed += 1
    assert decompressed == len(names)


def test_exporting_twice_gives_the_same_bytes(study: Any, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors")
    trainer, chosen = study(schemes(ASYMMETRIC))
    files = []
    for name in ("one", "two"):
        export(trainer, chosen, tmp_path / name, FORMAT)
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append({path.relative_to(tmp_path / name): path.read_bytes() for path in paths})
    assert files[0] == files[1]
    assert Path("adapter/adapter_model.safetensors") in files[0]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tied": False}, ["q_proj", "k_proj", "v_proj", "'bits': 8", "; and 2 more groups; "]),
        ({"layers": ("*q_proj", "*o_proj", "*up_proj", "*down_proj")}, ["k_proj not quantized"]),
    ],
)
def test_layers_that_engines_cannot_fuse_are_refused(
    study: Any, tmp_path: Path, options: Any, parts: list[str]
) -> None:
    trainer, chosen = study(integers(), **options)
    with pytest.raises(InputError, match=r"search with space\.tied: fused") as caught:
        export(trainer, chosen, tmp_path, FORMAT)
    for part in parts:
        assert part in str(caught.value)


def test_groups_that_do_not_divide_a_row_are_refused(
    study: Any, llama_folder: Path, tmp_path: Path
) -> None:
    trainer, chosen = study(integers(), model=llama_folder)
    named = r"'model\.layers\.0\.mlp\.down_proj', .* has 48 input features.*groups of 32"
    with pytest.raises(InputError, match=named):
        export(trainer, chosen, tmp_path, FORMAT)


def test_an_embedding_that_is_the_output_head_is_refused(
    study: Any, tied_llama_folder: Path, tmp_path: Path
) -> None:
    trainer, chosen = study(schemes(MIXED), model=tied_llama_folder, embeddings=True)
    with pytest.raises(InputError, match=r"embed_tokens' is an embedding without an output head"):
        export(trainer, chosen, tmp_path, FORMAT)


def test_zero_points_that_engines_cannot_fuse_are_refused(
    study: Any, tied_llama_folder: Path, tmp_path: Path
) -> None:
    plugin = schemes(("W3A16-g32-asym", "W3A16-channel-asym"))
    trainer, chosen = study(plugin, model=tied_llama_folder)
    named = r"k_proj', .*v_proj', .* and 1 more: each has 16 output features, whose zero points"
    with pytest.raises(InputError, match=named):
        export(trainer, chosen, tmp_path, FORMAT)


def test_an_embedding_of_asymmetric_integers_is_refused(study: Any, tmp_path: Path) -> None:
    trainer, chosen = study(schemes(("W4A16-g32-asym", "W4A16-channel-asym")), embeddings=True)
    with pytest.raises(InputError, match=r"embed_tokens' .* not of 4 bits, asymmetric"):
        export(trainer, chosen, tmp_path, FORMAT)


def test_a_missing_package_names_its_extra(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, chosen = study(integers())
    for name in [name for name in sys.modules if name.split(".")[0] == "compressed_tensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "compressed_tensors", None)
    with pytest.raises(InputError, match=r"qsearch-llm\[compressed-tensors\]"):
        export(trainer, chosen, tmp_path, FORMAT)
