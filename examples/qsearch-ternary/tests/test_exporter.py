"""What qsearch counts on of every exporter, and that what is read is what was written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from qsearch_ternary.exporter import TernaryExporter, read_ternary
from qsearch_ternary.quantizer import Ternary

from qsearch.plugins.exporters import Storage
from qsearch.testing import ExporterConformance, sample_job


class TestTernaryExporter(ExporterConformance):
    def make(self) -> TernaryExporter:
        return TernaryExporter()

    def quantizer(self) -> Ternary:
        return Ternary(Ternary.Options())


@pytest.mark.parametrize("has_adapter", [True, False])
def test_weights_are_read_as_the_job_has_them(tmp_path: Path, has_adapter: bool) -> None:
    quantizer = Ternary(Ternary.Options())
    job = replace(sample_job(quantizer, has_adapter), storage=Storage(torch.float32))
    TernaryExporter().write(job, tmp_path)
    read = read_ternary(tmp_path)
    factors = list(job.factors())
    for position, path in enumerate(job.paths):
        expected = quantizer.dequantize(job.quantized(position))
        if factors:
            A, B = factors[position]
            expected += B @ A
        assert torch.equal(read[f"{path}.weight"], expected)
    job.module.load_state_dict(read)  # No name is missing, and none too many.
