"""A model in parts is joined once, checked, and told with its terms."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from qsearch_coalora.methods.ptq import PTQTrainer
from qsearch_coalora.models import split_packages
from qsearch_coalora.models.loading import load_shape
from qsearch_coalora.models.source import locate_model
from qsearch_coalora.models.split_packages import SplitModel, terms_of

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec

NAME = "package:some_model"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return an installer of a file as two packages; it returns where their parts are."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def installer(content: bytes, files: dict[str, int], folder: str = "") -> list[Path]:
        parts = []
        for number, data in enumerate((content[:100], content[100:])):
            metadata = site / f"some_model_part_{number}-1.dist-info" / "METADATA"
            metadata.parent.mkdir(parents=True)
            metadata.write_text(
                f"Metadata-Version: 2.1\nName: some-model-part-{number}\nVersion: 1\n"
            )
            parts.append(site / f"part-{number}" / "file.00")
            parts[-1].parent.mkdir()
            parts[-1].write_bytes(data)
        model = SplitModel(
            tuple((f"some-model-part-{n}", f"part-{n}/file.00") for n in range(2)),
            hashlib.sha256(content).hexdigest(),
            files,
            folder,
            "Under terms",
        )
        monkeypatch.setitem(split_packages.SPLIT_MODELS, "some_model", model)
        return parts

    return installer


def zipped(folder: Path, **more: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"inner/{path.name}")
        for name, content in more.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_a_zip_file_in_parts_is_a_folder(install, llama_folder: Path, tmp_path: Path) -> None:
    files = {path.name: path.stat().st_size for path in llama_folder.iterdir()}
    install(zipped(llama_folder, **{"../outside": b"x"}), files, "inner")
    folder = Path(locate_model(ModelSpec(name=NAME)).path)
    assert folder.is_relative_to(tmp_path / "cache" / "qsearch" / "models")
    for path in llama_folder.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in folder.iterdir()} == set(files)
    assert len(load_shape(ModelSpec(name=NAME))[0].layers) == 14


def test_a_gguf_file_in_parts_is_joined_once(install) -> None:
    content = bytes(range(200))
    first, second = install(content, {"model.gguf": 200})
    source = locate_model(ModelSpec(name=NAME))
    assert source.gguf_file == "model.gguf"
    joined = Path(source.path) / "model.gguf"
    assert joined.read_bytes() == content
    before = joined.stat().st_mtime_ns
    second.write_bytes(b"")  # Not read again.
    assert locate_model(ModelSpec(name=NAME)) == source
    assert joined.stat().st_mtime_ns == before
    joined.write_bytes(b"cut")  # But a file of another size is made again, from all the parts.
    with pytest.raises(InputError, match="its parts are damaged"):
        locate_model(ModelSpec(name=NAME))
    first.write_bytes(content[:100])
    second.write_bytes(content[100:])
    locate_model(ModelSpec(name=NAME))
    assert joined.read_bytes() == content


def test_damaged_parts_are_refused_and_leave_nothing(install, tmp_path: Path) -> None:
    part, _ = install(bytes(200), {"model.gguf": 200})
    part.write_bytes(b"\1" * 100)
    with pytest.raises(InputError, match=r"'package:some_model': its parts are damaged.* SHA-256"):
        locate_model(ModelSpec(name=NAME))
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_a_missing_part_is_named(install) -> None:
    part, _ = install(bytes(200), {"model.gguf": 200})
    part.unlink()
    with pytest.raises(InputError, match=r"'some-model-part-0' is not installed.*pip install"):
        locate_model(ModelSpec(name=NAME))


def test_where_there_is_no_room_the_folder_is_named(install, tmp_path: Path) -> None:
    install(bytes(200), {"model.gguf": 200})
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be joined in .*cache.* XDG_CACHE_HOME"):
        locate_model(ModelSpec(name=NAME))


def test_terms_of_a_model_are_told(install, make_trainer) -> None:
    install(bytes(200), {"model.gguf": 200})
    assert terms_of(NAME) == "Under terms"
    assert make_trainer(method=PTQTrainer, model=NAME).terms() == "Under terms"
    assert make_trainer(method=PTQTrainer).terms() is None
