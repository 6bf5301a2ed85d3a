"""Formats for the models of transformers of any trainer, with a job that is not one of ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from qsearch_coalora.export.formats import MergedExporter, PackedExporter
from qsearch_quantizers.integer.quantizer import Integer
from safetensors.torch import load_file

from qsearch.errors import InputError
from qsearch.models.discovery import discover_layers, full_layer_names
from qsearch.plugins.exporters import Exporter, Storage
from qsearch.plugins.registry import load_plugin
from qsearch.testing import ExporterConformance, sample_job
from qsearch.testing.exporter.job import SampleJob
from qsearch.testing.samples import draw_configurations
from tests.coalora.conftest import small_config


def transformers_job(quantizer: Integer, has_adapter: bool = True) -> SampleJob:
    torch.manual_seed(0)
    module = transformers.BertForSequenceClassification(small_config("Bert")).requires_grad_(False)
    layers = discover_layers(module)
    return replace(
        sample_job(quantizer, has_adapter),
        module=module,
        layers=layers,
        paths=full_layer_names(module, layers),
        configuration=draw_configurations(layers, quantizer.choices(), 1)[0],
    )


class OfAnyTrainer(ExporterConformance):
    name: str

    def make(self) -> Exporter:
        exporter: Exporter = load_plugin("exporters", self.name)()
        return exporter

    def quantizer(self) -> Integer:
        return Integer(Integer.Options())

    def job(self, has_adapter: bool) -> SampleJob:
        return transformers_job(self.quantizer(), has_adapter)


class TestPacked(OfAnyTrainer):
    name = "packed"


class TestMerged(OfAnyTrainer):
    name = "merged"


def test_a_merged_weight_is_the_dequantized_one_with_the_adapter(tmp_path: Path) -> None:
    quantizer = Integer(Integer.Options())
    job = replace(transformers_job(quantizer), storage=Storage(torch.float32))
    MergedExporter().write(job, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert set(written) == set(job.state())
    for position, (path, (A, B)) in enumerate(zip(job.paths, job.factors(), strict=True)):
        expected = quantizer.dequantize(job.quantized(position)) + B @ A
        assert torch.equal(written[f"{path}.weight"], expected)


@pytest.mark.parametrize("exporter", [PackedExporter(), MergedExporter()])
def test_a_model_that_is_not_of_transformers_is_refused(exporter: Exporter, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is for models of transformers; this study's is a Modul"):
        exporter.write(sample_job(Integer(Integer.Options())), tmp_path)


@pytest.mark.parametrize("has_adapter", [True, False])
def test_a_card_speaks_of_a_lora_where_there_is_one(has_adapter: bool, tmp_path: Path) -> None:
    PackedExporter().write(transformers_job(Integer(Integer.Options()), has_adapter), tmp_path)
    tags = ModelCard.load(tmp_path / "README.md").data.tags
    assert ("lora" in tags) == has_adapter
    assert {"quantization", "qsearch"} <= set(tags)
