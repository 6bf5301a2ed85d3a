"""Studies of which a file is damaged: what takes its place, and that results stay the same."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from qsearch.errors import DamagedFileError, InputError
from qsearch.monitoring.events import Event, read_events
from qsearch.storage.checkpoints import read_adapter_file
from qsearch.storage.files import write_json
from qsearch.storage.measurements import read_footprint
from qsearch.storage.paths import damaged_path, previous_path
from qsearch.storage.repair import repair
from qsearch.storage.study_record import read_study
from qsearch.study.run import run_study
from tests.engine.support import command, results, study_spec

# A study that writes every kind of file.
SPEC = study_spec(
    trainer__blocks=1,
    trainer__name="resuming",
    trainer__faults=[{"kind": "error", "layer": "block.0.query", "bits": 4, "first_round": 1}],
    task__name="counting",
    search__initial=5,
    search__candidates=2,
    search__scores="measured",
    search__screening={"factor": 2},
)
NO_STATE = ("log.jsonl", "lock", "study.db", "progress.json")
MADE_AGAIN = (
    *("adapter-*", "quantization_error*", "screening-*", "probes-*"),
    *("full_precision-*", "layer_scores-*"),
)
"""Files without a version before."""


def cut_off(content: bytes) -> bytes:
    """Half of a file."""
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """A file with a bit of a letter in its middle flipped; in a Parquet file, in its first page.

    Most other bytes of a small Parquet file are statistics and the like, which nobody reads.
    """
    place = next(at for at in range(len(content) // 2, len(content)) if content[at] > 64)
    place = 40 if content.startswith(b"PAR1") else place
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def emptied(content: bytes) -> bytes:
    """An empty file."""
    return b""


def zeroed(content: bytes) -> bytes:
    """A file of zeros, as some file systems leave it."""
    return bytes(len(content))


def another(content: bytes) -> bytes:
    """A file of JSON that says something else."""
    return b'{"seconds": "none", "study": 3}'


DAMAGES: tuple[Callable[[bytes], bytes], ...] = (cut_off, flipped, emptied, zeroed, another)


class Stop(Exception):  # noqa: N818
    """Ends a study from its observer."""


def run_until(directory: Path, kind: str, round: int, count: int) -> None:
    """Run the study until an event of a round comes for the so-manieth time."""
    seen = 0

    def observe(event: Event) -> None:
        nonlocal seen
        seen += (event.kind, event.round) == (kind, round)
        if seen == count:
            raise Stop

    with pytest.raises(Stop):
        run_study(SPEC, directory, observer=observe)


def state_of(directory: Path) -> list[Path]:
    """The files that hold a study's state, but for versions before."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    return [path for path in files if path.name not in NO_STATE and path.suffix != ".previous"]


def damage_of(position: int) -> Callable[[bytes], bytes]:
    return DAMAGES[position % len(DAMAGES)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, run to its end."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    run_study(SPEC, directory)
    return directory


@pytest.fixture(scope="module")
def expected(whole: Path) -> pd.DataFrame:
    """Its results."""
    return results(whole)


STAGES = {
    "in the first training": ("training", 0, 3),
    "in the first probes": ("measuring sensitivity", 0, 1),
    "in the second training": ("training", 1, 2),
    "in the second screening": ("screening", 1, 3),
    "in the second round's evaluations": ("evaluated", 1, 4),
}


def check_each_damage(
    directory: Path, expected: pd.DataFrame, scratch: Path, one_in: int = 1, part: int = 0
) -> list[str]:
    """Damage each file (one in so many) in turn, run the study, and return the files' names."""
    names = []
    for position, path in enumerate(state_of(directory)):
        if position % one_in != part:
            continue
        own = scratch / str(position)
        shutil.copytree(directory, own)
        name = path.relative_to(directory).as_posix()
        damaged = damage_of(position)(path.read_bytes())
        (own / name).write_bytes(damaged)
        told: list[Event] = []
        run_study(SPEC, own, observer=told.append)
        assert_frame_equal(results(own), expected, check_exact=True, obj=name)
        (event,) = [event for event in told if event.kind == "state damaged"]
        assert event.fields["file"] == name
        has_previous = previous_path(directory / name).is_file()
        assert event.fields["used"] == (f"{name}.previous" if has_previous else None)
        assert event.fields["reason"].startswith(f"{own / name}: damaged: ")
        assert damaged_path(own / name).read_bytes() == damaged
        names.append(name)
        shutil.rmtree(own)
    return names


def test_any_damaged_file_of_a_finished_study_changes_no_result(
    whole: Path, expected: pd.DataFrame, tmp_path: Path
) -> None:
    names = check_each_damage(whole, expected, tmp_path)
    kinds = {Path(name).name.partition("-")[0] for name in names}
    assert kinds >= {
        *("study.yaml", "trials.parquet", "study.json", "identity.json", "clock.json"),
        *("footprint.json", "quantization_error.safetensors", "round", "candidates"),
        *("adapter", "screening", "probes", "full_precision", "layer_scores"),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_any_damaged_file_of_an_unfinished_study_changes_no_result(
    stage: str, expected: pd.DataFrame, tmp_path: Path
) -> None:
    """A fifth of the files at each stage; all with QSEARCH_EVERY_KILL=1, which takes minutes."""
    run_until(tmp_path / "run", *STAGES[stage])
    one_in = 1 if os.environ.get("QSEARCH_EVERY_KILL") else len(STAGES)
    part = list(STAGES).index(stage) % one_in
    assert check_each_damage(tmp_path / "run", expected, tmp_path / "damaged", one_in, part)
    written = {path.name.partition("-")[0] for path in state_of(tmp_path / "run")}
    assert ("training" in written) == ("training" in stage)


def test_every_state_file_has_a_version_before_or_can_be_made_again(whole: Path) -> None:
    for path in state_of(whole):
        alone = any(path.match(pattern) for pattern in MADE_AGAIN)
        assert previous_path(path).is_file() != alone, path


def damage_both(path: Path) -> None:
    for version in (path, previous_path(path)):
        version.write_bytes(b"{")


@pytest.mark.parametrize("name", ["round-2.json", "candidates-2.json", "footprint.json"])
def test_a_file_with_both_versions_damaged_is_made_again(
    name: str, whole: Path, expected: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "state" / name).read_bytes()
    damage_both(tmp_path / "run" / "state" / name)
    run_study(SPEC, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), expected, check_exact=True)
    if not name.startswith("candidates"):  # Only an unfinished round needs these.
        again = json.loads((tmp_path / "run" / "state" / name).read_bytes())
        assert again.keys() == json.loads(before).keys()


def test_a_finished_round_is_finished_again_even_when_time_is_up(
    whole: Path, expected: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    damage_both(tmp_path / "run" / "state" / "round-2.json")
    stop = SPEC.search.stop.model_copy(update={"hours": 1e-9})
    search = SPEC.search.model_copy(update={"stop": stop})
    record = run_study(SPEC.model_copy(update={"search": search}), tmp_path / "run")
    assert len(record.rounds) == 2
    assert_frame_equal(results(tmp_path / "run"), expected, check_exact=True)


@pytest.mark.parametrize("name", ["state/round-1.json", "state/identity.json", "study.yaml"])
def test_what_nothing_else_tells_is_asked_for(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    damage_both(tmp_path / "run" / name)
    with pytest.raises(DamagedFileError, match="restore the file, or the whole directory"):
        run_study(SPEC, tmp_path / "run")
    assert (tmp_path / "run" / name).read_bytes() == b"{"
    for version in ("", ".previous"):
        shutil.copy(whole / f"{name}{version}", tmp_path / "run" / f"{name}{version}")
    run_study(SPEC, tmp_path / "run")


def adapter_values(path: Path) -> tuple[object, ...]:
    state, report = read_adapter_file(path)
    return {name: tensor.tolist() for name, tensor in state.tensors.items()}, report


def test_two_adapters_are_trained_again_one_after_the_other(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    files = [tmp_path / "run" / "state" / f"adapter-{n}.safetensors" for n in (0, 1)]
    before = [adapter_values(path) for path in files]
    for path in files:
        path.write_bytes(b"")
    run_study(SPEC, tmp_path / "run")
    assert [adapter_values(path) for path in files] == before


def test_an_adapter_that_nothing_needs_is_not_trained_again(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "state" / "adapter-1.safetensors").write_bytes(b"")
    told: list[Event] = []
    run_study(SPEC, tmp_path / "run", observer=told.append)
    assert "trained" not in {event.kind for event in told}
    run_study(SPEC.model_copy(), tmp_path / "run")


def test_damage_is_logged(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "state" / "clock.json").write_bytes(b"")
    run_study(SPEC, tmp_path / "run")
    logged = read_events(tmp_path / "run" / "log.jsonl")
    (line,) = [line for line in logged if line["event"] == "state damaged"]
    assert (line["file"], line["used"]) == ("state/clock.json", "state/clock.json.previous")


def test_a_study_of_an_earlier_version_has_no_checksums_and_goes_on(
    whole: Path, expected: pd.DataFrame, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*.previous"):
        path.unlink()
    for path in (tmp_path / "run" / "state").glob("*.json"):
        loaded = json.loads(path.read_text())
        loaded.pop("checksum", None)
        if path.name.startswith("candidates"):
            loaded = loaded["chosen"]
        write_json(path, loaded)
    yaml = tmp_path / "run" / "study.yaml"
    yaml.write_text(yaml.read_text().partition("\n")[2])
    table = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    table.to_parquet(tmp_path / "run" / "trials.parquet", index=False)
    assert repair(tmp_path / "run") == []
    assert_frame_equal(results(tmp_path / "run"), expected, check_exact=True)
    run_study(SPEC, tmp_path / "run")
    assert_frame_equal(results(tmp_path / "run"), expected, check_exact=True)


# Readers


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["state/study.json", "trials.parquet"])
def test_readers_use_the_version_before_and_say_so(
    name: str, copied: Path, expected: pd.DataFrame
) -> None:
    (copied / name).write_bytes(b"")
    told: list[str] = []
    record = read_study(copied, told.append)
    assert len(record.trials) == len(expected)
    assert [text.partition(": damaged: ")[0] for text in told] == [str(copied / name)]


def test_the_footprints_version_before_is_read(copied: Path, whole: Path) -> None:
    (copied / "state" / "footprint.json").write_bytes(b"")
    told: list[str] = []
    assert read_footprint(copied, told.append) == read_footprint(whole)
    assert len(told) == 1


@pytest.mark.parametrize("name", ["state/study.json", "trials.parquet", "state/footprint.json"])
def test_readers_that_find_no_good_version_say_what_to_do(name: str, copied: Path) -> None:
    damage_both(copied / name)
    read = read_footprint if "footprint" in name else read_study
    with pytest.raises(InputError, match=r"damaged: .* running the study again"):
        read(copied)


def export_of(directory: Path) -> list[str | Path]:
    """The command line of an export into the study's directory."""
    return ["export", directory, "--bits", "8", "--to", directory / "out", "--format", "json"]


def test_commands_read_on_and_tell_on_standard_error(copied: Path) -> None:
    for name in ("state/study.json", "study.yaml", "state/footprint.json"):
        (copied / name).write_bytes(b"")
    picked = command(["pick", copied, "--bits", "8", "--json"])
    assert json.loads(picked.stdout)["trial"] >= 0
    assert picked.stderr.count("what is read is its previous version") == 2
    exported = command(
        ["export", copied, "--bits", "8", "--to", copied / "out", "--format", "json"]
    )
    assert exported.returncode == 0, exported.stderr
    assert f"{copied / 'study.yaml'}: damaged" in exported.stderr


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_tells_of_a_damaged_file_on_standard_error(options: list[str], copied: Path) -> None:
    (copied / "state" / "study.json").write_bytes(b"")
    status = command(["status", copied, *options])
    assert status.returncode == 0
    assert status.stderr.startswith(f"qsearch: {copied / 'state' / 'study.json'}: damaged: ")
    assert status.stderr.count("\n") == 1
    if options:
        assert f"qsearch: {json.loads(status.stdout)['notes'][0]}\n" == status.stderr
    else:
        assert "damaged" not in status.stdout


def test_an_export_without_its_adapter_says_what_to_do(copied: Path) -> None:
    (copied / "state" / "adapter-2.safetensors").write_bytes(b"")
    result = command(export_of(copied))
    assert result.returncode == 1
    assert "adapter-2.safetensors: damaged" in result.stderr
    assert "running the study again, as it was run, makes it anew" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("subcommand", ["run", "check"])
def test_a_damaged_study_yaml_is_not_taken_for_a_study(subcommand: str, copied: Path) -> None:
    path = copied / "study.yaml"
    path.write_text(path.read_text().replace("rounds: 2", "rounds: 3"))
    arguments: list[str | Path] = [subcommand, path]
    result = command([*arguments, "--out", copied] if subcommand == "run" else arguments)
    assert result.returncode == 2
    assert f"{path}: damaged: " in result.stderr
    assert f"run {path}.previous, which has what it held" in result.stderr
    assert "Traceback" not in result.stderr
    assert "rounds: 2" in previous_path(path).read_text()


# The database


@pytest.mark.parametrize("damage", [cut_off, zeroed, emptied], ids=lambda one: str(one.__name__))
def test_a_damaged_database_says_what_to_do(damage: Callable[[bytes], bytes], copied: Path) -> None:
    database = copied / "study.db"
    database.write_bytes(damage(database.read_bytes()))
    with pytest.raises(InputError, match=r"study\.db: .*restore") as caught:
        run_study(SPEC, copied)
    assert "\n" not in str(caught.value)


def test_flipped_bits_of_a_database_are_told_or_change_nothing(
    copied: Path, expected: pd.DataFrame
) -> None:
    database = copied / "study.db"
    whole = database.read_bytes()
    found = 0
    for position in np.random.default_rng(0).choice(len(whole), 6, replace=False):
        damaged = bytearray(whole)
        damaged[position : position + 200] = bytes(value ^ 4 for value in whole[position:][:200])
        database.write_bytes(damaged)
        try:
            run_study(SPEC, copied)
        except InputError as error:
            assert "restore" in str(error)  # noqa: PT017
            found += 1
        assert_frame_equal(results(copied), expected, check_exact=True)
    assert found > 0
    database.write_bytes(whole)
    run_study(SPEC, copied)
    assert_frame_equal(results(copied), expected, check_exact=True)


def change_database(directory: Path, statement: str, *values: object) -> None:
    """Change rows of a study's database."""
    with closing(sqlite3.connect(directory / "study.db")) as connection, connection:
        connection.execute(statement, values)


def test_a_database_whose_losses_differ_from_the_tables_is_refused(
    copied: Path, expected: pd.DataFrame
) -> None:
    loss = expected.loc[expected["status"] == "completed", "loss"].iloc[-1]
    digits = f"{loss:.12f}"[:8]
    other = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    change_database(
        copied, "UPDATE data_v2 SET data_json = replace(data_json, ?, ?)", digits, other
    )
    with pytest.raises(InputError) as caught:
        run_study(SPEC, copied)
    message = str(caught.value)
    assert f"it has loss {digits}" in message
    assert f"but the database has loss {other}" in message
    assert "restore it, or remove this file" in message
    assert_frame_equal(results(copied), expected, check_exact=True)


def test_a_database_without_what_a_finished_round_measured_is_refused(
    copied: Path, expected: pd.DataFrame
) -> None:
    last = int(expected.loc[expected["round"] == 0, "trial"].iloc[-1])
    change_database(copied, "DELETE FROM data_v2 WHERE trial_index = ?", last)
    with pytest.raises(InputError, match=f"of trial {last} in round 1 .* the database has nothing"):
        run_study(SPEC, copied)
    assert_frame_equal(results(copied), expected, check_exact=True)


def test_a_database_older_than_an_unfinished_rounds_search_searches_again(
    expected: pd.DataFrame, tmp_path: Path
) -> None:
    directory, backup = tmp_path / "run", tmp_path / "backup.db"

    def back_up_then_stop(event: Event) -> None:
        if event.kind == "searching" and event.round == 1 and not backup.exists():
            shutil.copy(directory / "study.db", backup)
        if event.kind == "searched" and event.round == 1:
            raise Stop

    with pytest.raises(Stop):
        run_study(SPEC, directory, observer=back_up_then_stop)
    shutil.copy(backup, directory / "study.db")
    run_study(SPEC, directory)
    assert [e for e in read_events(directory / "log.jsonl") if e["event"] == "searching again"]
    assert_frame_equal(results(directory), expected, check_exact=True)
