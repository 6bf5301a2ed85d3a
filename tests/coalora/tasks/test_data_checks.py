"""What limits results on data is said before any long work, in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling

from qsearch.errors import InputError
from qsearch.plugins.data_warnings import SupportsDataWarnings
from tests.coalora.conftest import classification

TRAIN = [f"training text number {n} has words enough to count in an overlap" for n in range(400)]
OTHERS = [f"another text of number {n} has words enough to count in an overlap" for n in range(400)]


def labelled(path: Path, texts: list[str], labels: tuple[str, ...] = ("a", "b")) -> Path:
    rows = [f"{text}\t{labels[n % len(labels)]}" for n, text in enumerate(texts)]
    path.write_text("\n".join(["text\tlabel", *rows]) + "\n")
    return path


@pytest.fixture(params=["classification", "text", "messages"])
def task_of(request: pytest.FixtureRequest, tmp_path: Path):
    """Return a maker of tasks on texts by split."""

    def make(**splits: list[str]) -> SupportsDataWarnings:
        suffix = {"classification": "tsv", "text": "txt", "messages": "jsonl"}[request.param]
        paths = {split: tmp_path / f"{split}.{suffix}" for split in splits}
        for split, texts in splits.items():
            if request.param == "classification":
                labelled(paths[split], texts)
            elif request.param == "text":
                paths[split].write_text("\n".join(["Heading", "", *texts]))
            else:
                rows = [{"messages": [{"role": "assistant", "content": text}]} for text in texts]
                paths[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
        if request.param == "classification":
            files = (paths.pop("train"), paths.pop("validation"))
            return classification(files, **paths)
        more = {"messages": "messages"} if request.param == "messages" else {}
        options = CausalLanguageModelling.Options(**paths, **more, length=2)
        return CausalLanguageModelling(options)

    return make


def test_separate_splits_have_no_warning(task_of) -> None:
    task = task_of(train=TRAIN, validation=OTHERS, test=[f"{text}, too" for text in OTHERS])
    assert isinstance(task, SupportsDataWarnings)
    assert task.data_warnings() == ()


@pytest.mark.parametrize(("common", "share"), [(400, "100.0%"), (12, "3.0%")])
def test_validation_texts_in_the_training_data_are_a_warning(
    task_of, common: int, share: str
) -> None:
    (warning,) = task_of(train=TRAIN, validation=TRAIN[:common] + OTHERS[common:]).data_warnings()
    assert warning.startswith(f"{share} of the validation texts (task.validation) are in the train")


def test_a_few_equal_texts_are_none(task_of) -> None:
    assert not task_of(train=TRAIN, validation=TRAIN[:8] + OTHERS[8:]).data_warnings()


@pytest.mark.parametrize("other", ["train", "validation"])
def test_test_texts_in_other_splits_are_refused(task_of, other: str) -> None:
    splits = {"train": TRAIN, "validation": OTHERS}
    task = task_of(**splits, test=[text.upper() for text in splits[other]])
    with pytest.raises(InputError, match=rf"task\.test: 100\.0% .* in task\.{other} too.* most 2%"):
        task.data_warnings()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_label_in_a_file_is_refused(split: str, tmp_path: Path) -> None:
    files = {
        name: labelled(tmp_path / f"{name}.tsv", texts, ("a",) if name == split else ("a", "b"))
        for name, texts in (("train", TRAIN), ("validation", OTHERS), ("test", OTHERS[:9]))
    }
    task = classification((files["train"], files["validation"]), test=files["test"])
    with pytest.raises(InputError, match=rf"{split}\.tsv has one label only, 'a'"):
        task.data_warnings()


@pytest.mark.parametrize("rows", ["", "\ta\n\tb\n", "a text\ta\n"])
def test_a_validation_file_without_two_examples_is_refused(rows: str, tmp_path: Path) -> None:
    train = labelled(tmp_path / "train.tsv", TRAIN)
    (tmp_path / "few.tsv").write_text(f"text\tlabel\n{rows}")
    with pytest.raises(InputError, match=r"few\.tsv has (no rows|one label)"):
        classification((train, tmp_path / "few.tsv")).data_warnings()


@pytest.mark.parametrize(("count", "warns"), [(100, True), (278, False)])
def test_few_examples_are_a_warning_with_their_standard_error(
    count: int, warns: bool, tmp_path: Path
) -> None:
    files = labelled(tmp_path / "a.tsv", TRAIN), labelled(tmp_path / "b.tsv", OTHERS)
    warnings = classification(files, validation_examples=count).data_warnings()
    assert len(warnings) == warns
    if warns:
        assert "100 validation examples give an accuracy a standard error of up to 5.0" in str(
            warnings
        )


@pytest.mark.parametrize(("tokens", "warns"), [(2048, True), (4096, False)])
def test_few_tokens_are_a_warning(tokens: int, warns: bool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TRAIN))
    (tmp_path / "b.txt").write_text("\n".join(OTHERS))
    options = CausalLanguageModelling.Options(
        train=tmp_path / "a.txt", validation=tmp_path / "b.txt", validation_tokens=tokens
    )
    warnings = CausalLanguageModelling(options).data_warnings()
    assert len(warnings) == warns
    if warns:
        assert (
            "about 2,044 validation tokens give a perplexity a standard error of about 6%"
            in (warnings[0])
        )


def test_docstrings_are_not_read_for_it() -> None:
    options = CausalLanguageModelling.Options(docstrings={"packages": ["absent_library"]})
    assert not CausalLanguageModelling(options).data_warnings()
