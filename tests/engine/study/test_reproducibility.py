"""Equal seeds give equal studies, whichever the seed; the fake study in fresh directories."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from qsearch.storage.study_record import read_study
from qsearch.study.run import run_study
from tests.engine.support import SMALL, results, study_spec


@settings(max_examples=2)
@given(st.integers(0, 2**31 - 1))
def test_equal_seeds_give_equal_studies(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("seed")
    for name in ("first", "second"):
        run_study(study_spec(seed=seed, **SMALL), folder / name)
    assert_frame_equal(results(folder / "second"), results(folder / "first"), check_exact=True)
    for one, other in zip(
        read_study(folder / "first").rounds, read_study(folder / "second").rounds, strict=True
    ):
        assert one.training_set == other.training_set
        assert one.hypervolume == other.hypervolume
        assert one.train_losses == other.train_losses


@settings(max_examples=2)
@given(st.integers(0, 2**31 - 2))
def test_neighbouring_seeds_give_other_studies(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("seeds")
    for name, own in (("first", seed), ("second", seed + 1)):
        run_study(study_spec(seed=own, search__rounds=1, **SMALL), folder / name)
    first, second = (set(results(folder / name)["loss"]) for name in ("first", "second"))
    assert not first & second
