"""The list of studies in a database or a folder."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from qsearch.cli import main as cli
from qsearch.errors import InputError
from qsearch.experiment.schema import create_tables
from qsearch.experiment.url import open_engine
from qsearch.sharing.listing import ListedStudy, list_database, list_folder
from qsearch.storage.lock import study_lock
from qsearch.storage.study_record import read_study, write_study
from qsearch.study.run import run_spec
from tests.engine.fake_study import (
    FAULTS,
    SMALL,
    Stop,
    imported_by,
    of_objective,
    stopping_at,
    study_spec,
)


@pytest.fixture(scope="module")
def shared(fake_plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two studies: ``good``, and ``faulty``, some of whose trials fail."""
    folder = tmp_path_factory.mktemp("shared")
    url = f"sqlite:///{folder / 'shared.db'}"
    run_spec(study_spec(**SMALL, name="good", search__rounds=1), folder / "good", url)
    run_spec(study_spec(**SMALL, name="faulty", trainer__faults=FAULTS), folder / "faulty", url)
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def url(shared: Path) -> str:
    return f"sqlite:///{shared / 'shared.db'}"


def test_database_tells_what_its_studies_directories_tell(shared: Path, url: str) -> None:
    faulty, good = list_database(url)
    assert (faulty.name, good.name) == ("faulty", "good")
    for study in (faulty, good):
        record = read_study(shared / study.name)
        failed = record.trials[record.trials["status"] == "failed"]
        done = record.trials[record.trials["status"] == "completed"]
        assert study.failed == len(failed)
        assert study.completed == len(set(done["trial"]) - set(failed["trial"]))
        assert study.waiting == 0
        assert study.running == ""
        assert study.created is not None
        assert study.changed is not None
        assert study.created <= study.changed
    assert faulty.failed > 0


def test_folder_lists_the_studies_of_its_directories(shared: Path, url: str) -> None:
    listed = list_folder(shared)
    assert [Path(study.directory or "").name for study in listed] == ["faulty", "good"]
    for here, there in zip(listed, list_database(url), strict=True):
        assert alike(here, there)
        record = read_study(shared / here.name)
        assert here.rounds == len(record.rounds)
        assert here.least_loss == record.latest["loss"].min()
    assert list_folder(shared / "good") == [listed[1]]


def alike(here: ListedStudy, there: ListedStudy) -> bool:
    """Whether a directory tells of its study what the database does, as far as it can."""
    unknown = ("rounds", "least_loss", "waiting", "created", "changed", "directory")
    apart = dict.fromkeys(unknown, None)
    return replace(here, **apart) == replace(there, **apart)


def test_unfinished_study_is_listed_alike_from_its_directory_and_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    with pytest.raises(Stop):
        run_spec(study_spec(**SMALL), tmp_path / "run", url, stopping_at("searched", 2))
    (here,), (there,) = list_folder(tmp_path), list_database(url)
    assert alike(here, there)
    assert (here.rounds, here.waiting, there.waiting) == (2, None, 2)


@pytest.fixture
def some(shared: Path, tmp_path: Path) -> Path:
    """A folder with the directories of two studies, to be broken."""
    for name in ("faulty", "good"):
        shutil.copytree(shared / name, tmp_path / name)
    return tmp_path


def test_study_that_cannot_be_read_is_left_out_and_told(some: Path) -> None:
    (some / "faulty" / "state" / "study.json").write_text("{")
    told: list[str] = []
    assert [study.name for study in list_folder(some, told.append)] == ["good"]
    (line,) = told
    assert line.startswith(f"{some / 'faulty' / 'state' / 'study.json'}: damaged: ")
    assert line.endswith(f"; {some / 'faulty'} is left out of the list")
    with pytest.raises(InputError, match="damaged"):
        list_folder(some / "faulty")


def test_an_objective_is_listed_without_rounds(some: Path) -> None:
    record = of_objective(read_study(some / "good"))
    write_study(some / "good", replace(record, trials=record.trials.assign(loss=3.98255e-05)))
    (listed,) = list_folder(some / "good")
    assert listed.rounds is None
    assert " 3.983e-05 " in qsearch_list(some / "good").output


def test_study_without_its_identity_is_listed(some: Path) -> None:
    (some / "good" / "state" / "identity.json").unlink()
    assert [study.created is None for study in list_folder(some)] == [False, True]


def test_who_runs_a_study_is_listed(shared: Path) -> None:
    with study_lock(shared / "good"):
        assert [study.running != "" for study in list_folder(shared)] == [False, True]


def test_experiments_of_others_are_left_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mixed.db'}"
    create_tables(open_engine(url))
    columns = "experiment_v2 (name, is_test, time_created, description)"
    with open_engine(url).begin() as connection:
        connection.execute(text(f"INSERT INTO {columns} VALUES ('theirs', 0, 0, 'cookies')"))
    assert list_database(url) == []


@pytest.mark.postgres
def test_empty_databases_hold_no_studies(postgres_url: str, tmp_path: Path) -> None:
    assert list_database(postgres_url) == []
    sqlite3.connect(tmp_path / "empty.db").close()
    assert list_database(f"sqlite:///{tmp_path / 'empty.db'}") == []


def other_database(folder: Path) -> str:
    with sqlite3.connect(folder / "other.db") as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    return f"sqlite:///{folder / 'other.db'}"


def no_database(folder: Path) -> str:
    (folder / "text.db").write_text("no database, but a text of some length\n" * 99)
    return f"sqlite:///{folder / 'text.db'}"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (other_database, "another program: it has a table 'recipes'"),
        (no_database, "file is not a database"),
        (lambda folder: f"sqlite:///{folder / 'missing.db'}", "there is no file"),
        (lambda _: "postgres://host/name", "URL begins with postgresql://"),
        (lambda _: "oracle://host/name", "needs a driver that is not installed"),
    ],
)
def test_what_cannot_be_listed_is_named_in_one_line(make, reason: str, tmp_path: Path) -> None:
    url = make(tmp_path)
    with pytest.raises(InputError) as caught:
        list_database(url)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "missing.db").exists()


def qsearch_list(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, ["list", *map(str, arguments)])


def test_command_prints_a_table_or_json(shared: Path, url: str) -> None:
    table = qsearch_list("--storage", url)
    assert table.exit_code == 0
    heading, faulty, good = table.stdout.splitlines()
    assert heading.split()[:4] == ["study", "rounds", "completed", "failed"]
    assert faulty.startswith("faulty")
    assert good.startswith("good")
    rows = json.loads(qsearch_list(shared, "--json").stdout)
    assert [row["name"] for row in rows] == ["faulty", "good"]


@pytest.mark.parametrize("arguments", [[], ["runs", "--storage", "sqlite:///x.db"], ["missing"]])
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    assert isinstance(qsearch_list(*arguments).exception, InputError)


def test_listing_a_database_starts_without_heavy_imports(url: str) -> None:
    heavy = {"torch", "ax", "pandas", "botorch"}
    assert imported_by(["list", "--storage", url], heavy) == "[]"
