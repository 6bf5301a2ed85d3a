"""The rank of a layer's adapter as a knob of the search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from qsearch_coalora.adapter.layer_ranks import RANK
from qsearch_coalora.methods.composed_lora import ComposedLoRATrainer
from qsearch_coalora.models.loading import CAUSAL, load_pretrained
from qsearch_quantizers.integer.quantizer import Integer
from transformers import AutoModelForCausalLM

from qsearch.errors import InputError
from qsearch.plugins.components import build_components, space_of
from qsearch.plugins.trainer_knobs import all_choices
from qsearch.space.configuration import Configuration, LayerConfiguration
from qsearch.spec.study_spec import StudySpec
from qsearch.storage.measurements import read_footprint
from qsearch.storage.study_record import read_study, row_configuration
from qsearch.study.run import run_spec
from tests.coalora.conftest import WORDS, save_llama
from tests.coalora.exported import engine_logits, export, loaded_logits, weight_files

RANKS = (0, 2, 4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with rows of whole groups of 32."""
    return save_llama(tmp_path_factory.mktemp("llama"), 96, hidden_size=64)


@pytest.fixture
def make(make_trainer: Any, make_causal_task: Any, llama: Path) -> Any:
    """Return a maker of trainers that search ranks; half of the rank is a layer configuration's."""

    def trainer(**options: Any) -> Any:
        values = {"ranks": RANKS, "residual_norm": "frobenius", "steps": 4, "model": llama}
        return make_trainer(
            method=ComposedLoRATrainer,
            task=make_causal_task(),
            plugin=Integer(Integer.Options(bits=(2, 4), group_size=(32,))),
            learning_rate=2e-2,
            **(values | options),
        )

    return trainer


def with_ranks(trainer: Any, ranks: tuple[int, ...], bits: int = 2) -> Configuration:
    """Layers of some bits with ranks by turns."""
    chosen = [
        LayerConfiguration({"bits": bits, "group_size": 32, RANK: ranks[place % len(ranks)]})
        for place in range(len(trainer.layers()))
    ]
    names = [layer.name for layer in trainer.layers()]
    return Configuration(dict(zip(names, chosen, strict=True)))


@torch.no_grad()
def logits_of(trainer: Any, configuration: Configuration, batch: Any) -> torch.Tensor:
    adapted = trainer.study.adapted
    adapted.peft_model.eval()
    adapted.use(configuration)
    logits: torch.Tensor = adapted.logits(batch)
    adapted.projections.clear()
    return logits


def batch_of(trainer: Any) -> Any:
    return next(iter(trainer.study.task.batches("validation", 4)))


# Sizes


def test_a_rank_adds_the_bits_of_its_factors(make: Any) -> None:
    trainer = make()
    space = space_of(trainer.study.quantizer, trainer.layers(), trainer=trainer)
    assert space.choices == all_choices(trainer.study.quantizer, trainer)
    assert space.choices.names == ("bits", "group_size", RANK)
    chosen = with_ranks(trainer, RANKS, bits=4)
    bits = 0.0
    for layer in trainer.layers():
        rank = chosen[layer.name].integer(RANK)
        bits += layer.parameters * (4 + 16 / 32) + rank * sum(layer.shape) * 16
    expected = bits / sum(layer.parameters for layer in trainer.layers())
    assert space.average_bits(space.encode(chosen)) == pytest.approx(expected)


def test_embeddings_take_no_rank(make: Any) -> None:
    trainer = make(embeddings=True)
    space = space_of(trainer.study.quantizer, trainer.layers(), trainer=trainer)
    for group, possible in zip(space.groups, space.possible, strict=True):
        taken = [space.choices.layer_configurations[n] for n in np.flatnonzero(possible)]
        table = space.layers[group.members[0]].is_table
        assert {one[RANK] for one in taken} == ({0} if table else set(RANKS))


@pytest.mark.parametrize("ranks", [(4,), (0, 2), (4, 2), (2, 2, 4), (-1, 4)])
def test_ranks_rise_to_the_rank(ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        ComposedLoRATrainer.Options(rank=4, ranks=ranks)


def test_errors_are_what_a_rank_leaves(make: Any) -> None:
    trainer, plain = make(), make(ranks=None)
    choices = all_choices(trainer.study.quantizer, trainer).layer_configurations
    of_quantizer = plain.study.quantizer.choices().layer_configurations
    errors = trainer.quantization_error(choices)
    # Half of the rank is the residual's: rank 4 leaves as much as rank 2.
    assert np.allclose(errors[:, 0::3], plain.quantization_error(of_quantizer))
    assert (errors[:, 1::3] < 0.97 * errors[:, 0::3]).all()
    assert np.allclose(errors[:, 2::3], errors[:, 1::3])
    adapted = trainer.study.adapted
    weight, chosen = adapted.weights.originals[0], of_quantizer[0]
    residual = weight - adapted.weights.dequantized(0, chosen)
    values = torch.linalg.svdvals(residual)
    left = (values[2:].square().sum() / values.square().sum()).item()
    assert errors[0, 1] / errors[0, 0] == pytest.approx(left, rel=1e-3)


# What is computed


def test_a_layer_computes_with_its_first_rows(make: Any) -> None:
    trainer = make(steps=10)
    trainer.train([with_ranks(trainer, (4,))], 1)
    batch = batch_of(trainer)
    whole = [*trainer.study.adapted.folded_factors(with_ranks(trainer, (4,)))]
    own = [*trainer.study.adapted.folded_factors(with_ranks(trainer, RANKS))]
    for place, ((A, B), (all_A, all_B)) in enumerate(zip(own, whole, strict=True)):
        rank = RANKS[place % 3]
        assert torch.equal(A, all_A[:rank])
        assert torch.equal(B, all_B[:, :rank])
    none = logits_of(trainer, with_ranks(trainer, (0,)), batch)
    with trainer.study.adapted.peft_model.disable_adapter():
        quantized = logits_of(trainer, with_ranks(trainer, (4,)), batch)
    torch.testing.assert_close(none, quantized)
    assert not torch.allclose(none, logits_of(trainer, with_ranks(trainer, (2,)), batch))


def test_a_configuration_without_the_knob_has_the_whole_rank(make: Any) -> None:
    trainer = make(steps=10)
    whole = with_ranks(trainer, (4,))
    trainer.train([whole], 1)
    plain = trainer.study.adapted.ranks.plain(whole)
    assert set(plain[trainer.layers()[0].name]) == {"bits", "group_size"}
    batch = batch_of(trainer)
    assert torch.equal(logits_of(trainer, whole, batch), logits_of(trainer, plain, batch))


def test_what_a_rank_leaves_out_is_not_trained(make: Any) -> None:
    trainer = make(steps=3)
    before = [*trainer.study.adapted.folded_factors(with_ranks(trainer, (4,)))]
    trainer.train([with_ranks(trainer, (2,))], 1)
    after = [*trainer.study.adapted.folded_factors(with_ranks(trainer, (4,)))]
    for (A, B), (old_A, old_B) in zip(after, before, strict=True):
        assert not torch.equal(B[:, :2], old_B[:, :2])
        assert torch.equal(A[2:], old_A[2:])
        assert torch.equal(B[:, 2:], old_B[:, 2:])


# Exports


@pytest.fixture
def trained(make: Any) -> tuple[Any, Configuration, Any, torch.Tensor]:
    """Return a trained study, a configuration of mixed ranks, a batch, and its logits."""
    trainer = make(steps=10)
    trainer.train([with_ranks(trainer, (4,))], 1)
    chosen, batch = with_ranks(trainer, (4, 0, 2)), batch_of(trainer)
    return trainer, chosen, batch, logits_of(trainer, chosen, batch)


def bits_of(trainer: Any, chosen: Configuration) -> float:
    space = space_of(trainer.study.quantizer, trainer.layers(), trainer=trainer)
    return float(space.average_bits(space.encode(chosen)))


def test_a_packed_export_has_each_layers_rank(trained: Any, tmp_path: Path) -> None:
    trainer, chosen, batch, expected = trained
    planned = export(trainer, chosen, tmp_path / "packed", "packed")
    assert weight_files(tmp_path / "packed") == planned
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "packed").eval()
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    torch.testing.assert_close(loaded_logits(again, batch), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adapter_bits", [None, 8])
def test_bytes_of_a_packed_export_are_those_of_the_search(
    make: Any, tmp_path: Path, adapter_bits: int | None
) -> None:
    trainer = make(adapter_bits=adapter_bits)
    assert trainer.export_job(with_ranks(trainer, RANKS)).storage.adapter_bits == adapter_bits
    chosen, none = with_ranks(trainer, (4, 0, 2)), with_ranks(trainer, (0,))
    export(trainer, chosen, tmp_path / "own", "packed", "bfloat16", adapter_bits)
    export(trainer, none, tmp_path / "none", "packed", "bfloat16")
    sizes = [sum(weight_files(tmp_path / name).values()) for name in ("own", "none")]
    weights = sum(layer.parameters for layer in trainer.layers())
    added = (bits_of(trainer, chosen) - bits_of(trainer, none)) * weights / 8
    assert sizes[0] - sizes[1] == pytest.approx(added, abs=6_000)  # Names in headers.
    assert trainer.footprint().adapter_bytes == 0


def test_peft_loads_an_adapter_of_mixed_ranks(trained: Any, tmp_path: Path) -> None:
    trainer, chosen, batch, expected = trained
    export(trainer, chosen, tmp_path, "adapter")
    base, _ = load_pretrained(trainer.study.model, CAUSAL)
    names = trainer.study.quantizer.choices().names
    with torch.no_grad():
        for name, one in chosen.items():
            linear = base.base_model.get_submodule(name)
            plain = LayerConfiguration({knob: one[knob] for knob in names})
            quantizer = trainer.study.quantizer
            linear.weight.copy_(quantizer.dequantize(quantizer.quantize(linear.weight, plain)))
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_llama_cpp_loads_an_adapter_of_mixed_ranks(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")
    from tests.coalora.export.small_gguf import write_small

    trainer = make(model=write_small(tmp_path / "small.gguf", 64, 256), steps=10)
    trainer.train([with_ranks(trainer, (4,), bits=4)], 1)
    chosen, tokens = with_ranks(trainer, (4, 0, 2), bits=4), torch.arange(10, 34)[None]
    planned = export(trainer, chosen, tmp_path / "files", "gguf")
    assert weight_files(tmp_path / "files") == planned
    expected = logits_of(trainer, chosen, {"input_ids": tokens})[0]
    model, adapter = (tmp_path / "files" / f"{name}.gguf" for name in ("model", "adapter"))
    found = engine_logits(model, tokens[0].tolist(), adapter)
    without = engine_logits(model, tokens[0].tolist())
    # llama.cpp rounds the inputs of quantized products to 8 bits.
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert (found - expected).norm() < 0.5 * (without - expected).norm()


def test_a_merged_export_has_what_the_ranks_add(trained: Any, tmp_path: Path) -> None:
    trainer, chosen, batch, expected = trained
    export(trainer, chosen, tmp_path, "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded_logits(model, batch), expected, atol=1e-5, rtol=1e-4)


def test_without_any_rank_there_is_no_adapter(trained: Any, tmp_path: Path) -> None:
    trainer, *_ = trained
    none = with_ranks(trainer, (0,))
    assert not trainer.export_job(none).has_adapter
    with pytest.raises(InputError, match="have no adapter"):
        export(trainer, none, tmp_path, "adapter")


# A study


def test_a_study_searches_ranks_with_their_bytes(llama: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(40)))
    other = tmp_path / "other.txt"
    other.write_text("\n".join(" ".join(WORDS[n:] + WORDS[: n // 2]) for n in range(40)))
    spec = StudySpec.model_validate(
        {
            "name": "ranks",
            "model": {"name": str(llama)},
            "task": {"name": "causal-lm", "train": str(text), "validation": str(other)}
            | {"length": 24},
            "quantizer": {"name": "integer", "bits": [2, 4], "group_size": [32]},
            "trainer": {"name": "composed-lora", "rank": 4, "ranks": list(RANKS), "steps": 2}
            | {"batch_size": 4, "loss": "kl", "calibration_batches": 1},
            "search": {"rounds": 1, "initial": 8, "candidates": 4, "size": "bytes"}
            | {"average_bits": [2.5, 9.0]},
        }
    )
    record = run_spec(spec, tmp_path / "run")
    components = build_components(spec)
    ranks = set()
    for _, row in record.latest.iterrows():
        chosen = row_configuration(row)
        ranks |= {one[RANK] for one in chosen.values()}
        bits = float(components.space.average_bits(components.space.encode(chosen)))
        assert row["average_bits"] == pytest.approx(bits)
    assert ranks == set(RANKS)
    assert read_footprint(tmp_path / "run").adapter_bytes == 0
    assert read_study(tmp_path / "run").latest["bytes"].notna().all()
