"""Checks of what a trainer exports."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path

import pytest

from qsearch.errors import InputError
from qsearch.plugins.protocols import Trainer
from qsearch.space.configuration import Configuration
from qsearch.testing.comparison import assert_refused
from qsearch.testing.samples import sample_layer_configurations
from qsearch.testing.trainer.base import TrainerChecks, copied

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
"""Names of files whose loading runs code that is in them."""


class ExportChecks(TrainerChecks):
    """What leaves a study is plain files, and the study stays as it was."""

    def test_an_unknown_export_format_is_refused(self, tmp_path: Path) -> None:
        trainer, configurations, _ = self.trained()
        # Those that trainers usually have are unknown too to one that does not name them.
        for format in sorted({"no such format", "adapter", "packed"} - {*trainer.export_formats}):
            directory = tmp_path / format
            directory.mkdir()
            export = partial(trainer.export, configurations[0], directory, format)
            assert_refused(export, f"{format!r}, where export_formats are {trainer.export_formats}")

    def test_exports_are_files_without_pickles(self, tmp_path: Path) -> None:
        trainer = self.trained().trainer
        if not trainer.export_formats:
            pytest.skip("this trainer exports nothing")
        before = copied(trainer.state())
        for format in trainer.export_formats:
            directory = self._exported(trainer, tmp_path / format, format)
            assert (directory is None) == (format in self.refused_formats), (
                f"format {format!r}: whether a configuration with all layers alike is exported"
            )
            if directory is not None:
                files = [path for path in directory.rglob("*") if path.is_file()]
                assert any(path.stat().st_size for path in files), f"format {format!r}: no files"
                pickles = sorted(path.name for path in files if _is_pickle(path))
                assert pickles == [], f"format {format!r}: files that are pickles"
            self.assert_kept_state(trainer.state(), before, f"state after {format!r}")

    def _exported(self, trainer: Trainer, folder: Path, format: str) -> Path | None:
        """Export a configuration with all layers alike, the first that the format can hold.

        Formats may refuse what they cannot hold, such as some bits, or layers that engines fuse
        and the configuration quantizes differently.

        Returns:
            The folder that was written, or None if each was refused.
        """
        sample = sample_layer_configurations(self.quantizer().choices(), 12)
        for number, choice in enumerate(sample):
            directory = folder / str(number)
            directory.mkdir(parents=True)
            uniform = Configuration({layer.name: choice for layer in trainer.layers()})
            try:
                trainer.export(uniform, directory, format)
            except InputError as error:
                print(error)
            else:
                return directory
        return None


def _is_pickle(path: Path) -> bool:
    """Return whether a file has the name of a pickle, or holds one as ``torch.save`` writes it."""
    if path.suffix in PICKLES:
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).suffix in PICKLES for name in archive.namelist())
