"""Text that is packed, with the token that opens texts, and corpora of docstrings."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from pydantic import ValidationError
from qsearch_coalora.models.tokenizers import opening_tokens
from qsearch_coalora.tasks.causal_lm import CausalLanguageModelling
from qsearch_coalora.tasks.documentation import DocumentationSource, collect_documentation
from qsearch_coalora.tasks.sequences import pack
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from qsearch.errors import InputError
from qsearch.plugins.capabilities import SupportsDataCheck
from tests.coalora.conftest import small_tokenizer


@pytest.fixture
def opening_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a token before every text, as Llama's and Gemma's do."""
    tokenizer = small_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "[CLS]"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    return tokenizer


def test_sequences_begin_with_the_token_that_the_tokenizer_begins_texts_with(
    opening_tokenizer,
) -> None:
    assert opening_tokens(small_tokenizer()) == []
    assert opening_tokens(opening_tokenizer) == [2]
    words = [f"w{index}" for index in range(20)]
    sequences = pack(opening_tokenizer, [" ".join(words)], 8, None, "train")
    rows = [opening_tokenizer.convert_ids_to_tokens(row.tolist()) for row in sequences.tokens]
    assert rows == [["[CLS]", *words[:7]], ["[CLS]", *words[7:14]]]
    # The opening token is given, so every token of the text is predicted.
    assert sequences.predicted == 14
    limited = pack(opening_tokenizer, [" ".join(words)], 8, 15, "train")
    assert len(limited) == 1
    with pytest.raises(InputError, match=r"train text has 20 tokens, fewer than task\.length 40"):
        pack(opening_tokenizer, [" ".join(words)], 40, None, "train")


def test_a_split_counts_and_scores_the_tokens_of_the_text(
    opening_tokenizer, make_causal_task
) -> None:
    task = make_causal_task(length=16, validation_tokens=100)
    task.prepare(opening_tokenizer)
    (batch,) = task.batches("validation", 8)
    assert batch["input_ids"].shape == (6, 16)
    assert (batch["input_ids"][:, 0] == 2).all()
    scores = task.score(torch.zeros(6, 16, 63), batch)
    assert task.examples("validation") == scores.weights.sum() == 6 * 15


def test_language_tasks_read_512_tokens_unless_told_otherwise(make_causal_task) -> None:
    options = CausalLanguageModelling.Options(train="a.txt", validation="b.txt")
    assert options.length == 512
    assert make_causal_task(length=2048).workload().example_tokens == 2048


# Docstrings


@pytest.fixture
def package(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package; importing it would fail."""
    folder = tmp_path / "seedlib"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('was imported')\n")
    for module in range(30):
        own = "\n\n".join(
            f"    Paragraph {part} of file {module} speaks of the seeds of plant {module * part}."
            for part in range(1, 4)
        )
        text = f'''"""File {module} of the library has a docstring of its own, like any other."""
def grow():
    """Grow.

{own}

    This paragraph of many words stands in every single file.
    """
'''
        (folder / f"module{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "seedlib"


def corpus(package: str, **changes: int) -> DocumentationSource:
    sizes = {f"{split}_characters": 300 for split in ("train", "validation", "test")}
    return DocumentationSource(packages=(package,), **sizes | changes)


def test_no_long_line_is_in_two_splits(package: str) -> None:
    texts = collect_documentation(corpus(package))
    lines = {
        split: [line.strip() for text in of_split for line in text.splitlines()]
        for split, of_split in texts.items()
    }
    for split, of_split in lines.items():
        long = [line for line in of_split if len(line) >= 40]
        assert sum(map(len, long)) > 200
        assert len(long) == len(set(long)), split
    for one, other in combinations(lines.values(), 2):
        assert {line for line in one if len(line) >= 40}.isdisjoint(other)
    everywhere = [line for of_split in lines.values() for line in of_split]
    assert everywhere.count("This paragraph of many words stands in every single file.") == 1
    assert texts == collect_documentation(corpus(package))


def test_a_package_with_too_little_text_is_refused(package: str) -> None:
    options = CausalLanguageModelling.Options(docstrings=corpus(package, train_characters=100_000))
    with pytest.raises(InputError, match=r"packages seedlib lack text .*train.*ask for fewer"):
        CausalLanguageModelling(options).require_data()
    task = CausalLanguageModelling(
        CausalLanguageModelling.Options(docstrings={"packages": ["absent_library"]})
    )
    assert isinstance(task, SupportsDataCheck)
    with pytest.raises(InputError, match=r"package 'absent_library' is not installed"):
        task.require_data()


def test_what_a_package_lacks_those_after_it_give(package: str) -> None:
    alone = collect_documentation(corpus(package, test_characters=1))
    both = DocumentationSource(
        packages=(package, "numpy"),
        train_characters=100_000,
        validation_characters=300,
        test_characters=1,
    )
    texts = collect_documentation(both)
    assert sum(map(len, texts["train"])) >= 100_000
    assert set(alone["train"]) < set(texts["train"])


def test_the_packages_of_every_installation_have_enough_text() -> None:
    sizes = {
        split: sum(map(len, texts))
        for split, texts in collect_documentation(DocumentationSource()).items()
    }
    assert sizes["train"] >= 1_500_000
    assert sizes["validation"] >= 300_000
    assert sizes["test"] >= 600_000


def test_docstrings_are_packed_as_any_text(package: str) -> None:
    options = CausalLanguageModelling.Options(docstrings=corpus(package), length=8)
    task = CausalLanguageModelling(options)
    task.require_data()
    task.prepare(small_tokenizer())
    (batch, *_) = task.batches("train", 4)
    assert batch["input_ids"].shape == (4, 8)
    with pytest.raises(ValidationError, match="docstrings"):
        CausalLanguageModelling.Options(docstrings=corpus(package), train="a", validation="b")
