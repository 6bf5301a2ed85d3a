"""Exports as vLLM's reader has them: by facts of its source, and by vLLM itself where it is."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from qsearch_coalora.export.compressed_tensors_config import WeightScheme
from qsearch_coalora.export.vllm import VERSION, kernel_notes
from safetensors import safe_open

from qsearch.space.layers import FUSED_ROLES, LayerSpec
from tests.coalora.conftest import save_llama
from tests.coalora.export.test_compressed_tensors import (
    ASYMMETRIC,
    FORMAT,
    MIXED,
    batch_of,
    loaded_as_the_card_says,
    schemes,
    spread,
)
from tests.coalora.exported import export, loaded_logits, study_logits

FACTS = json.loads(Path(__file__).with_name("vllm_facts.json").read_text())
PYTHON = "QSEARCH_VLLM_PYTHON"
SEQUENCES = 2
SCRIPT = Path(__file__).with_name("vllm_logits.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama of sizes that vLLM's kernels take."""
    return save_llama(tmp_path_factory.mktemp("llama"), 96, hidden_size=64)


@pytest.fixture
def exported(make_trainer: Any, make_causal_task: Any, folder: Path, tmp_path: Path) -> Any:
    """Return a maker of an export of some schemes: its folder, the trainer, the configuration."""

    def make(names: tuple[str, ...], **options: Any) -> tuple[Path, Any, Any]:
        pytest.importorskip("compressed_tensors")
        task = make_causal_task(length=32)
        trainer = make_trainer(plugin=schemes(names), task=task, model=folder, **options)
        chosen = spread(trainer)
        trainer.train([chosen], 1)
        export(trainer, chosen, tmp_path / "out", FORMAT)
        return tmp_path / "out", trainer, chosen

    return make


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def scheme_of(group: Any, config: Any) -> str:
    """The class that vLLM has for a group; each of its fields must be one that the class takes."""
    weights = group["weights"]
    values = {
        **{
            name: weights[name] for name in ("type", "strategy", "num_bits", "symmetric", "dynamic")
        },
        "format": group["format"] or config["format"],
        "activations": group["input_activations"],
    }
    fitting = [
        name
        for name, facts in FACTS["schemes"].items()
        if all(value in facts[field] for field, value in values.items())
    ]
    assert len(fitting) == 1, (values, fitting)
    return fitting[0]


@pytest.mark.parametrize("names", [MIXED, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_the_configuration_has_what_vllm_reads(exported: Any, names: tuple[str, ...]) -> None:
    assert FACTS["source"].startswith(f"vLLM {VERSION}.")
    out, trainer, _ = exported(names)
    config = config_of(out)
    assert set(config) >= {"config_groups", "format", "ignore", "quant_method"}
    for name in FACTS["config"]["must_be_empty"]:
        assert not config.get(name)
    targets: dict[str, str] = {}
    for name, group in config["config_groups"].items():
        assert set(group) <= set(FACTS["group"]["read"])
        assert set(group["weights"]) <= set(FACTS["weights"]["allowed"])
        assert (group["weights"]["strategy"] == "group") == bool(group["weights"]["group_size"])
        assert scheme_of(group, config)
        # A target with a dot is the path of a module, which must be in one group.
        assert all("." in target and target not in targets for target in group["targets"])
        targets |= dict.fromkeys(group["targets"], name)
    assert len(targets) == len(trainer.layers())
    assert not set(config["ignore"]) & set(targets)
    for parts in FACTS["fused_parts"].values():
        for path in [path for path in targets if path.endswith(parts[0])]:
            others = [path.removesuffix(parts[0]) + part for part in parts]
            assert len({targets[other] for other in others}) == 1


@pytest.mark.parametrize("names", [MIXED, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_tensors_have_the_names_types_and_shapes_that_vllm_reads(
    exported: Any, names: tuple[str, ...]
) -> None:
    out, trainer, _ = exported(names)
    config = config_of(out)
    shapes = {f"model.{layer.name}": layer.shape for layer in trainer.layers()}
    with safe_open(out / "model.safetensors", "pt") as file:
        stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        for group in config["config_groups"].values():
            facts, weights = FACTS["schemes"][scheme_of(group, config)], group["weights"]
            for path in group["targets"]:
                rows, columns = shapes[path]
                groups = columns // (weights["group_size"] or columns)
                expected = {
                    "weight": [rows, columns],
                    "weight_packed": [rows, math.ceil(columns * weights["num_bits"] / 32)],
                    "weight_scale": [rows, groups],
                    "weight_shape": [2],
                    "weight_zero_point": [math.ceil(rows * weights["num_bits"] / 32), groups],
                }
                own = {
                    name: tensor
                    for name, tensor in stored.items()
                    if name.rpartition(".")[0] == path
                }
                wanted = set(facts["tensors"])
                if weights["symmetric"]:
                    wanted.discard("weight_zero_point")
                assert {name.rpartition(".")[2] for name in own} == wanted
                for name, tensor in own.items():
                    last = name.rpartition(".")[2]
                    assert tensor.get_dtype() == facts["tensors"][last]
                    assert tensor.get_shape() == expected[last], name


def test_fused_layers_are_those_of_vllm() -> None:
    roles = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "gate_proj": "gate"}
    roles["up_proj"] = "up"
    parts = {tuple(roles[part] for part in parts) for parts in FACTS["fused_parts"].values()}
    assert parts == set(FUSED_ROLES)


def test_hardware_without_kernels_is_named_by_bits() -> None:
    layer = LayerSpec("layers.0.up", "up", 0, (64, 96))
    four, eight = WeightScheme(4, 32), WeightScheme(8, 0)
    assert kernel_notes([(layer, four)]) == []
    assert kernel_notes([(layer, four), (layer, eight), (layer, WeightScheme(2, 32, False))]) == [
        "vLLM 0.32 has no kernel on CPUs for 8 bits, 2 bits asymmetric",
        "vLLM 0.32 runs 2 bits asymmetric on NVIDIA GPUs alone, by the package humming-kernels",
    ]
    narrow = LayerSpec("layers.0.up", "up", 0, (48, 96))
    assert kernel_notes([(narrow, four)]) == ["vLLM 0.32 has no kernel on CPUs for 4 bits"]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "names",
    [("W4A16-channel", "W4A16-g32"), ("W4A16-channel-asym", "W4A16-g32-asym", "W4A16-g32")],
    ids=["symmetric", "asymmetric"],
)
def test_vllm_has_the_studys_log_probabilities(exported: Any, names: tuple[str, ...]) -> None:
    if not (python := os.environ.get(PYTHON)):
        pytest.skip(f"{PYTHON} names no Python that has vLLM for CPUs")
    out, trainer, chosen = exported(names, rank=8, learning_rate=1e-2)
    batch = batch_of(trainer)
    model = loaded_as_the_card_says(out)
    with model.disable_adapter():
        base = loaded_logits(model, batch)
    expected = {"base": base, "adapter": study_logits(trainer, chosen, batch)}
    (out / "tokens.json").write_text(json.dumps(batch["input_ids"][:SEQUENCES].tolist()))
    # Its kernels for CPUs compute in 16 bits alone, and bfloat16 would round scales.
    subprocess.run([python, SCRIPT, out, "float16"], check=True, timeout=3500)
    found = json.loads((out / "log_probabilities.json").read_text())
    for kind, logits in expected.items():
        own = logits[:SEQUENCES, :-1].log_softmax(-1)
        kl = (own.exp() * (own - torch.tensor(found[kind]))).sum(-1)
        assert kl.mean() < 1e-5, kind
