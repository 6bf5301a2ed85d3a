"""What the paper's comparison trains on shares no sentence with what it validates on."""

from __future__ import annotations

from pathlib import Path

import pytest
from qsearch_coalora.tasks.data_files import read_table

from benchmarks import paper_text
from benchmarks.method_studies import study_of
from benchmarks.paper import PLANS
from benchmarks.paper_text import prepare_text
from qsearch.errors import InputError

SENTENCE = 'a film as long as it is dull , and " worse " than the last'
OTHER = "one of those that you would rather not have seen at all"
TESTED = "a test like any other"
KEPT = ["as it is", "is long as a film", "quite another film , and a better one than that"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paper_text, "ROOT", tmp_path)
    monkeypatch.setenv("QSEARCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def write_table(path: Path, sentences: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(["sentence\tlabel\n", *(f"{text}\t1\n" for text in sentences)]))


def prepared(study: str) -> dict[str, Path]:
    prepare_text(PLANS[study].study)
    options = study_of(PLANS[study].study, "coa-lora", 0, PLANS[study].entries).task.options
    return {split: Path(options[split]) for split in ("train", "validation", "test")}


def sentences(files: dict[str, Path], split: str) -> list[str]:
    table = read_table(files[split])
    assert set(table["label"]) == {"1"}
    return table["sentence"].tolist()


def test_the_splits_of_reviews_share_no_phrase_and_validation_has_the_first_long_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_text, "VALIDATION_PHRASES", 1)
    folder = data / "sst2"
    write_table(folder / "train.tsv", ["it is dull , and", "a test like", TESTED, SENTENCE, *KEPT])
    write_table(folder / "dev.tsv", ["too short", SENTENCE, f"{SENTENCE} , really", OTHER])
    write_table(folder / "test.tsv", [TESTED])
    files = prepared("minilm")
    # No training phrase shares four words in a row with what is evaluated.
    assert sentences(files, "train") == ["a test like", *KEPT]
    assert sentences(files, "validation") == [SENTENCE]
    # The other long phrases are tested unless they share words with validation.
    assert sentences(files, "test") == [TESTED, OTHER]


def test_wikitexts_validation_lines_are_parted_into_training_and_validation(data: Path) -> None:
    source = data / "wikitext2" / "valid.txt"
    source.parent.mkdir(parents=True)
    source.write_text("".join(f"line {number}\n" for number in range(20)))
    files = prepared("smollm2")
    assert len(files["train"].read_text().splitlines()) == 18
    assert files["validation"].read_text() == "line 18\nline 19\n"


@pytest.mark.parametrize("name", PLANS)
def test_absent_data_is_named(data: Path, name: str) -> None:
    with pytest.raises(InputError, match="does not exist; name its data folder by QSEARCH_DATA"):
        prepare_text(PLANS[name].study)
