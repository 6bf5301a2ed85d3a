from __future__ import annotations

from collections import Counter

import pytest
from qsearch_coalora.tasks.classification import Classification
from qsearch_coalora.tasks.docstrings import (
    DocstringSource,
    collect_docstrings,
    plain_description,
)

from qsearch.errors import InputError


@pytest.fixture
def packages(tmp_path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two importable packages of many small modules; importing them would fail."""
    for package, topic in (("fruitlib", "fruit"), ("metallib", "metal")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('was imported')\n")
        for module in range(20):
            functions = [
                f'def f{index}():\n    """{package} sorts the {topic} number {module} by its'
                f' weight of {index} grams.\n\n    Args:\n        x: hidden\n    """\n'
                for index in range(4)
            ]
            same = 'def same():\n    """One text that is found in every module of both."""\n'
            private = 'def _private():\n    """This text is private and must not be used."""\n'
            text = "\n".join([*functions, same, private])
            (tmp_path / package / f"module{module}.py").write_text(text)
        (tmp_path / package / "tests").mkdir()
        (tmp_path / package / "tests" / "test_x.py").write_text(
            'def t():\n    """This text is part of a test and must not be used."""\n'
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "fruitlib", "metallib"


def source(packages: tuple[str, ...], **options: object) -> DocstringSource:
    fields = {"train_texts": 20, "validation_texts": 4} | options
    return DocstringSource(packages=packages, **fields)


def test_splits_share_no_text_and_no_module(packages) -> None:
    splits = collect_docstrings(source(packages))
    texts = [text for pairs in splits.values() for text, _ in pairs]
    assert len(texts) == len(set(texts))
    train, *others = (
        {(label, text.split("number ")[1].split()[0]) for text, label in pairs if "number" in text}
        for pairs in splits.values()
    )
    assert not any(train & other for other in others)


def test_classes_are_balanced_in_each_split(packages) -> None:
    for split, count in (("train", 20), ("validation", 4), ("test", 4)):
        labels = Counter(label for _, label in collect_docstrings(source(packages))[split])
        assert labels == {"fruitlib": count, "metallib": count}


def test_texts_name_no_package_and_are_of_public_objects_that_are_not_tests(packages) -> None:
    for text, _ in collect_docstrings(source(packages))["train"]:
        assert not any(words in text for words in ("fruitlib", "metallib", "must not be used"))


def test_the_same_packages_always_give_the_same_texts(packages) -> None:
    first = collect_docstrings(source(packages, seed=3))["train"]
    collect_docstrings.cache_clear()
    assert collect_docstrings(source(packages, seed=3))["train"] == first
    assert collect_docstrings(source(packages, seed=4))["train"] != first


def test_a_package_with_too_few_texts_is_refused(packages) -> None:
    with pytest.raises(InputError, match="'fruitlib' lacks texts"):
        collect_docstrings(source(packages, train_texts=1000))["train"]


@pytest.mark.parametrize("name", ["no_such_package", "fruitlib.tests"])
def test_a_package_that_is_not_installed_is_named_before_and_in_a_run(name: str, packages) -> None:
    """One inside another would have to be imported to be found."""
    options = {"packages": [name, packages[1]]}
    task = Classification(Classification.Options(docstrings=options))
    for attempt in (task.require_data, lambda: task.labels):
        with pytest.raises(
            InputError, match=rf"packages: package '{name}' is not installed; name top-level ones"
        ):
            attempt()


@pytest.mark.parametrize(
    ("docstring", "plain"),
    [
        ("Return the mean.\n\nArgs:\n    x: values", "Return the mean."),
        ("Return the mean.\n\nParameters\n----------\nx : array", "Return the mean."),
        ("Return the mean.\n\n>>> mean([1])\n1", "Return the mean."),
        ("Return the mean.\n\n.. versionadded:: 2\n   more", "Return the mean."),
        ("See :func:`~pkg.mean` and ``x``, *now*.", "See pkg.mean and x, now."),
        ("Two\n   lines.", "Two lines."),
    ],
)
def test_a_description_ends_at_the_first_section_and_has_no_markup(docstring, plain) -> None:
    assert plain_description(docstring) == plain
