"""Arrays that are mapped: written in parts, readable by safetensors, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from qsearch.errors import DamagedFileError
from qsearch.storage.mapped_arrays import Array, ArrayForm, form_of, read_mapped, write_mapped

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)
CODES = np.array([5, 7], dtype=np.int32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    def fill(arrays: dict[str, Array]) -> None:
        for row in range(3):
            arrays["values"][row] = VALUES[row]
        arrays["codes"][:] = CODES

    forms = {"values": form_of(VALUES), "codes": form_of(CODES), "none": ArrayForm("F32", (0, 4))}
    write_mapped(tmp_path / "arrays", forms, {"of": "a model"}, fill)  # type: ignore[arg-type]
    return tmp_path / "arrays"


def test_arrays_and_texts_read_back(path: Path) -> None:
    facts, arrays = read_mapped(path)
    assert facts["of"] == "a model"
    assert np.array_equal(arrays["values"], VALUES)
    assert np.array_equal(arrays["codes"], CODES)
    assert arrays["none"].shape == (0, 4)
    assert isinstance(arrays["values"], np.memmap)
    assert np.array_equal(load_file(path)["values"], VALUES), "as safetensors reads it"


def test_writing_into_a_mapped_array_changes_no_file(path: Path) -> None:
    before = path.read_bytes()
    read_mapped(path)[1]["values"][:] = 0
    assert path.read_bytes() == before
    assert read_mapped(path)[1]["values"][2, 3] == 11


@pytest.mark.parametrize("place", [20, 100, -1])
def test_a_changed_byte_is_found(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="arrays: damaged: "):
        read_mapped(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_of_something_else_is_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="arrays: damaged: "):
        read_mapped(path)


def test_a_file_that_was_cut_is_damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DamagedFileError, match="its checksum differs"):
        read_mapped(path)
