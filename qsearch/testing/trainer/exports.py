"""Checks of what a trainer gives exporters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsExport, SupportsQuantizerCheck
from qsearch.plugins.protocols import QuantizedTensor, Trainer
from qsearch.plugins.registry import load_plugin
from qsearch.plugins.trainer_knobs import without_trainer_knobs
from qsearch.space.configuration import Configuration
from qsearch.testing.exporter.files import assert_no_pickles
from qsearch.testing.samples import sample_layer_configurations
from qsearch.testing.trainer.base import TrainerChecks, copied


class ExportChecks(TrainerChecks):
    """A configuration is given whole, its exports are plain files, and the study stays as it was.

    Attributes:
        formats: Installed export formats that are written, too.
    """

    formats: ClassVar[tuple[str, ...]] = ()

    def test_an_export_job_holds_the_configuration(self) -> None:
        trainer, exporting, configurations = self._exporting()
        before = copied(trainer.state())
        job = exporting.export_job(configurations[0])
        knobs = self.quantizer().choices().names
        expected = {
            name: without_trainer_knobs(knobs, one) for name, one in configurations[0].items()
        }
        assert job.configuration == Configuration(expected), "without the trainer's knobs"
        assert list(job.layers) == list(trainer.layers()), "layers"
        assert len(set(job.paths)) == len(job.layers), "paths"
        assert job.storage.dtype.itemsize == 2, "storage: a type of 16 bits"
        assert job.storage.adapter_bits is None, "storage"
        state, factors = job.state(), list(job.factors())
        assert len(factors) == len(job.layers) * job.has_adapter, "factors"
        for position, (layer, path) in enumerate(zip(job.layers, job.paths, strict=True)):
            assert tuple(state[f"{path}.weight"].shape) == layer.shape, f"weight of {path}"
            quantized = job.quantized(position)
            assert isinstance(quantized, QuantizedTensor)
            assert quantized.shape == layer.shape, f"quantized weight of {path}"
            assert quantized.configuration == expected[layer.name], path
            if job.has_adapter:
                A, B = factors[position]
                assert (len(B), A.shape[1]) == layer.shape, f"factors of {path}"
                assert B.shape[1] == len(A), f"rank of {path}"
        again = exporting.export_job(configurations[0]).state()
        assert all(torch.equal(again[name], tensor) for name, tensor in state.items()), "again"
        self.assert_kept_state(trainer.state(), before, "state after an export")

    def test_exports_are_files_without_pickles(self, tmp_path: Path) -> None:
        trainer, exporting, _ = self._exporting()
        before = copied(trainer.state())
        for format in self.formats:
            exporter = load_plugin("exporters", format)()
            if isinstance(exporter, SupportsQuantizerCheck):
                exporter.require_quantizer(self.quantizer())
            for number, configuration in enumerate(self._uniform(trainer)):
                directory = tmp_path / format / str(number)
                directory.mkdir(parents=True)
                try:
                    exporter.write(exporting.export_job(configuration), directory)
                except InputError as error:
                    print(error)  # It may refuse some bits.
                else:
                    assert_no_pickles(directory, format)
                    break
            else:
                pytest.fail(f"format {format!r}: no configuration with all layers alike is written")
            self.assert_kept_state(trainer.state(), before, f"state after {format!r}")

    def _exporting(self) -> tuple[Trainer, SupportsExport, list[Configuration]]:
        """Return one trained trainer in its two roles, and the set that it was trained on."""
        trainer, configurations, _ = self.trained()
        if not isinstance(trainer, SupportsExport):
            pytest.skip("this trainer exports nothing")
        return trainer, trainer, configurations

    def _uniform(self, trainer: Trainer) -> Iterator[Configuration]:
        """Yield configurations with all layers alike, since engines fuse some of them."""
        for choice in sample_layer_configurations(self.choices(trainer), 12):
            yield Configuration({layer.name: choice for layer in trainer.layers()})
