"""Checks of what a trainer exports."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import SkipTest

from qsearch.errors import InputError
from qsearch.plugins.protocols import Trainer
from qsearch.space.configuration import Configuration
from qsearch.testing.base import require, require_equal, require_refusal
from qsearch.testing.samples import sample_layer_configurations
from qsearch.testing.trainer.base import TrainerChecks, copied

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
"""Names of files whose loading runs code that is in them."""


class ExportChecks(TrainerChecks):
    """What leaves a study is plain files, and the study stays as it was."""

    __test__ = False

    def test_an_unknown_export_format_is_refused(self) -> None:
        trainer, chosen, _ = self.trained()
        # Those that trainers usually have are unknown too to one that does not name them.
        for format in sorted({"no such format", "adapter", "packed"} - {*trainer.export_formats}):
            with TemporaryDirectory() as folder:
                require_refusal(
                    f"format {format!r}, where export_formats are {trainer.export_formats}",
                    partial(trainer.export, chosen[0], Path(folder), format),
                )

    def test_exports_are_files_without_pickles(self) -> None:
        trainer, _, _ = self.trained()
        if not trainer.export_formats:
            raise SkipTest("this trainer exports nothing")
        before = copied(trainer.state())
        for format in trainer.export_formats:
            with TemporaryDirectory() as folder:
                directory, refusal = self._exported(trainer, Path(folder), format)
                if format in self.refused_formats:
                    taken = "expected InputError, found that it is taken"
                    require(directory is None, f"format {format!r} of refused_formats: {taken}")
                    continue
                if directory is None:
                    raise AssertionError(
                        f"format {format!r}: expected that a configuration with all layers alike"
                        f" can be exported, found that none can: {refusal}"
                    )
                files = [path for path in directory.rglob("*") if path.is_file()]
                sizes = {path.name: path.stat().st_size for path in files}
                require(any(sizes.values()), f"format {format!r}: expected files, found {sizes}")
                pickles = sorted(path.name for path in files if _is_pickle(path))
                require_equal(f"format {format!r}: files that are pickles", pickles, [])
            self.require_kept_state(f"state after {format!r}", trainer.state(), before)

    def _exported(
        self, trainer: Trainer, folder: Path, format: str
    ) -> tuple[Path | None, InputError | None]:
        """Export a configuration with all layers alike, the first that the format can hold.

        Formats may refuse what they cannot hold, such as some bits, or layers that engines fuse
        and the configuration quantizes differently.

        Args:
            trainer: The trainer.
            folder: Where to make a folder for each try.
            format: The format.

        Returns:
            The folder that was written, or None and the last refusal.
        """
        refusal = None
        sample = sample_layer_configurations(self.quantizer().choices(), 12)
        for number, chosen in enumerate(sample):
            directory = folder / str(number)
            directory.mkdir()
            uniform = Configuration({layer.name: chosen for layer in trainer.layers()})
            try:
                trainer.export(uniform, directory, format)
            except InputError as error:
                refusal = error
            else:
                return directory, None
        return None, refusal


def _is_pickle(path: Path) -> bool:
    """Return whether a file has the name of a pickle, or holds one as ``torch.save`` writes it."""
    if path.suffix in PICKLES:
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(Path(name).suffix in PICKLES for name in archive.namelist())
