"""The kit for exporters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qsearch.deployment.storage_options import with_answers
from qsearch.plugins.capabilities import SupportsDryRun
from qsearch.plugins.contract import require_contract
from qsearch.plugins.exporters import Exporter, ExportJob, Storage
from qsearch.plugins.protocols import Quantizer
from qsearch.testing.comparison import assert_same_tensors
from qsearch.testing.exporter.files import WEIGHTS, assert_no_pickles, files_of
from qsearch.testing.exporter.job import sample_job


class ExporterConformance:
    """What every exporter must do; a subclass says which one, and for which quantizer it is tried.

    ::

        class TestMine(ExporterConformance):
            def make(self) -> Mine:
                return Mine()

            def quantizer(self) -> Quantizer:
                return Integer(Integer.Options())
    """

    def make(self) -> Exporter:
        """Return the exporter; called in each check."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make")

    def quantizer(self) -> Quantizer:
        """Return a quantizer that the format is for."""
        raise NotImplementedError(f"{type(self).__name__} needs a method quantizer")

    def job(self, has_adapter: bool) -> ExportJob:
        """Return a job, always the same; an exporter for certain trainers returns one of those.

        By default, of a small torch module: exporters for all trainers use what the contract has.
        """
        return sample_job(self.quantizer(), has_adapter)

    def test_it_says_what_it_is_for(self) -> None:
        exporter = self.make()
        assert isinstance(exporter.description, str), "description"
        assert exporter.description.strip(), "description"
        assert "\n" not in exporter.description, "description: one line"
        for names in (exporter.trainers, exporter.quantizers):
            assert names is None or isinstance(names, tuple), f"None or names: {names!r}"
        assert isinstance(exporter.weight_files, tuple), "weight_files"
        assert all(suffix.startswith(".") for suffix in exporter.weight_files), "weight_files"
        require_contract(exporter, "the exporter")

    @pytest.mark.parametrize("has_adapter", [True, False])
    def test_it_writes_weights_and_no_pickles(self, tmp_path: Path, has_adapter: bool) -> None:
        exporter = self.make()
        out = _folder(tmp_path / "out")
        exporter.write(self.job(has_adapter), out)
        assert [path.name for path in tmp_path.iterdir()] == ["out"], "files next to the folder"
        assert_no_pickles(out, "export")
        suffixes = {path.suffix for path in out.rglob("*")}
        if exporter.weight_files:
            assert suffixes & set(exporter.weight_files), f"weight files: {sorted(suffixes)}"
        else:  # A recipe.
            assert not suffixes & WEIGHTS, f"weight_files: none, but there are {sorted(suffixes)}"

    def test_an_adapter_is_written(self, tmp_path: Path) -> None:
        exporter = self.make()
        _require_weights(exporter)
        for name, has_adapter in (("with", True), ("without", False)):
            exporter.write(self.job(has_adapter), _folder(tmp_path / name))
        assert files_of(tmp_path / "with") != files_of(tmp_path / "without"), "adapter"

    def test_equal_jobs_give_equal_files(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            self.make().write(self.job(True), _folder(tmp_path / name))
        one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
        assert list(one) == list(two), "names of files"
        assert [name for name in one if one[name] != two[name]] == [], "files that differ"

    def test_it_stores_the_type_that_the_job_says(self, tmp_path: Path) -> None:
        sizes = []
        _require_weights(self.make())
        for dtype in (torch.float16, torch.float32):
            job = with_answers(self.job(True), {"storage": Storage(dtype)})
            out = _folder(tmp_path / str(dtype))
            self.make().write(job, out)
            sizes.append(sum(_weight_files(self.make(), out).values()))
        assert sizes[0] < sizes[1], f"storage: as many bytes in 16 bits as in 32: {sizes}"

    def test_a_dry_run_says_what_is_written(self, tmp_path: Path) -> None:
        exporter = self.make()
        if not isinstance(exporter, SupportsDryRun):
            pytest.skip("this exporter does not say what it would write")
        exporter.write(self.job(True), _folder(tmp_path / "out"))
        written = _weight_files(exporter, tmp_path / "out")
        assert dict(exporter.weight_bytes(self.job(True))) == written, "bytes of a dry run"

    def test_the_job_stays_as_it_was(self, tmp_path: Path) -> None:
        job = self.job(True)
        before = {name: tensor.clone() for name, tensor in job.state().items()}
        self.make().write(job, _folder(tmp_path / "out"))
        assert_same_tensors(job.state(), before, "tensors of the model")


def _require_weights(exporter: Exporter) -> None:
    if not exporter.weight_files:
        pytest.skip("this exporter writes recipes, which hold no weights")


def _weight_files(exporter: Exporter, directory: Path) -> dict[str, int]:
    """Return the bytes of each weight file by its path."""
    files = files_of(directory)
    suffixes = exporter.weight_files
    return {name: len(data) for name, data in files.items() if Path(name).suffix in suffixes}


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
