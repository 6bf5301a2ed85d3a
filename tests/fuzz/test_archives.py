"""Hostile and broken archives: restored as they were archived, or refused with nothing written."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import strategies as st

from qsearch.errors import InputError
from qsearch.sharing.archive import MANIFEST, archive_study, restore_archive
from qsearch.storage.parquet import write_table
from qsearch.storage.paths import STUDY_FILE, TRIALS_FILE
from tests.engine.fake_study import command_here, results
from tests.fuzz.broken_input import (
    ODD_TEXT,
    Sandbox,
    changed_bytes,
    changed_table,
    changed_tree,
    fuzz,
    one_line,
    refused,
    write_forged,
)

Members = list[tuple[zipfile.ZipInfo, bytes]]


@pytest.fixture(scope="module")
def archive(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished study as an archive; read-only for tests."""
    path = tmp_path_factory.mktemp("archive") / "study.zip"
    archive_study(finished, path)
    return path


@pytest.fixture(scope="module")
def members(archive: Path) -> Members:
    with zipfile.ZipFile(archive) as opened:
        return [(info, opened.read(info)) for info in opened.infolist()]


def write(path: Path, members: Members, sign: bool) -> None:
    """Write an archive; signed, its manifest is of the members as they are."""
    names = {info.filename: content for info, content in members}
    if sign:
        manifest: dict[str, Any] = {"format": 1, "qsearch": "0"}
        manifest["files"] = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in names.items()
            if name != MANIFEST
        }
        text = json.dumps(manifest).encode()
        members = [(i, text if i.filename == MANIFEST else content) for i, content in members]
    with zipfile.ZipFile(path, "w") as opened:
        for info, content in members:
            opened.writestr(info, content)


def renamed(info: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("x")
    made.filename = name
    made.external_attr, made.compress_type = info.external_attr, info.compress_type
    return made


HOSTILE = [
    "../outside.txt",
    "/tmp/outside.txt",
    "//outside.txt",
    "..\\outside.txt",
    "C:\\outside.txt",
    "./study.yaml",
    "state//study.json",
    "state/adapter-1.safetensors\x00.txt",
    "study.yaml ",
    "state/ſtudy.json",
]
"""Those that must be refused by their name are in tests/engine/sharing/test_archive.py too."""

LINK = 0o120777 << 16
DEVICE = 0o020666 << 16
FOLDER = 0o040755 << 16


@st.composite
def hostile(draw: st.DrawFn, members: Members) -> Members:
    """Members with one more, renamed, doubled, lost, linked, changed or swollen."""
    made = list(members)
    at = draw(st.integers(0, len(made) - 1))
    info, content = made[at]
    kind = draw(
        st.sampled_from(
            ["more", "rename", "double", "lose", "special", "bytes", "values", "bomb", "swap"]
        )
    )
    name = draw(st.one_of(st.sampled_from(HOSTILE), ODD_TEXT.filter(bool)))
    if kind == "more":
        made.append((renamed(info, name), b"hostile"))
    elif kind == "rename":
        made[at] = (renamed(info, name), content)
    elif kind == "double":
        made.append((renamed(info, info.filename), draw(st.sampled_from([content, b"{}"]))))
    elif kind == "lose":
        del made[at]
    elif kind == "special":
        special = renamed(info, info.filename)
        special.external_attr = draw(st.sampled_from([LINK, DEVICE, FOLDER]))
        target = draw(st.sampled_from([b"../../outside.txt", b"/etc/passwd", content]))
        made[at] = (special, target)
    elif kind == "values" and info.filename.endswith(".json"):
        tree = draw(changed_tree(json.loads(content)))
        made[at] = (info, json.dumps(tree).encode())
    elif kind == "bomb":
        swollen = renamed(info, info.filename)
        swollen.compress_type = zipfile.ZIP_DEFLATED
        made[at] = (swollen, b" " * 2**20)
    elif kind == "swap":
        other = draw(st.integers(0, len(made) - 1))
        made[at], made[other] = (info, made[other][1]), (made[other][0], content)
    else:
        made[at] = (info, draw(changed_bytes(content)))
    return made


def restored_or_refused(path: Path, place: Path) -> bool:
    """Restore; a refusal leaves nothing behind, not even an empty folder."""
    if refused(lambda: restore_archive(path, place), InputError):
        assert not place.exists()
        return False
    return True


@fuzz("archives: members", 150, data=st.data(), signed=st.booleans())
def test_changed_archives_are_refused_or_hold_what_their_manifest_says(
    data: st.DataObject,
    signed: bool,
    members: Members,
    finished: Path,
    sandbox: Sandbox,
    tmp_path: Path,
) -> None:
    path = tmp_path / "hostile.zip"
    write(path, data.draw(hostile(members)), signed)
    with sandbox.writes_only_in_place() as place:
        if not restored_or_refused(path, place):
            return
        if not signed:  # Then nothing that counts was changed.
            pd.testing.assert_frame_equal(results(place), results(finished))
        one_line(command_here("status", place))


@fuzz("archives: {part}", 300, data=st.data(), part=st.sampled_from(["bytes", "central directory"]))
def test_archives_with_changed_bytes_are_refused_or_as_they_were(
    data: st.DataObject, part: str, archive: Path, finished: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    """The central directory has sizes, offsets and flags of the members."""
    content = archive.read_bytes()
    (start,) = struct.unpack("<I", content[-6:-2]) if part == "central directory" else (0,)
    path = tmp_path / "damaged.zip"
    path.write_bytes(content[:start] + data.draw(changed_bytes(content[start:])))
    with sandbox.writes_only_in_place() as place:
        if restored_or_refused(path, place):
            pd.testing.assert_frame_equal(results(place), results(finished))


@fuzz("archives: resumed", 40, data=st.data())
def test_a_study_from_a_changed_archive_is_resumed_or_says_why_not(
    data: st.DataObject, members: Members, finished: Path, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Whoever signs the archive can change results; nothing else may come of it."""
    changed = data.draw(hostile(members))
    path = tmp_path / "signed.zip"
    write(path, changed, sign=True)
    with sandbox.writes_only_in_place() as place:
        answer = command_here("restore", path, "--to", place)
        one_line(answer)
        if answer.code == 0:
            if data.draw(st.booleans()):
                change_results(finished, place, data)
            answer = command_here("run", place / "study.yaml", "--out", place)
            assert answer.code in (0, 1, 2), answer
            assert "Traceback" not in answer.output + answer.errors


def change_results(finished: Path, place: Path, data: st.DataObject) -> None:
    """Forge a file of results, checksum included."""
    if data.draw(st.booleans()):
        table = pd.read_parquet(finished / TRIALS_FILE)
        write_table(place / TRIALS_FILE, data.draw(changed_table(table)))
    else:
        tree = json.loads((finished / STUDY_FILE).read_text())
        write_forged(place / STUDY_FILE, data.draw(changed_tree(tree)))
