"""Bytes of weight files, and the interval of average bits that an interval of them is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.errors import InputError
from qsearch.monitoring.status import study_status
from qsearch.monitoring.status_text import status_lines
from qsearch.plugins.components import build_components, space_of
from qsearch.plugins.footprint import Footprint
from qsearch.space.layers import LayerSpec
from qsearch.spec.study_spec import load_spec
from qsearch.study.file_bytes import FileBytes
from qsearch.study.run import run_spec
from tests.engine.fake_study import SMALL, study_spec

# No block of scales divides these shapes, so that each choice is filled up differently.
SHAPES = [(7, 33), (64, 65), (3, 5)]
LAYERS = [LayerSpec(f"layer.{at}", "linear", at, shape) for at, shape in enumerate(SHAPES)]
QUANTIZER = NormalFloat(NormalFloat.Options(bits=(2, 3, 8), scale_bits=(4, 8)))
SPACE = space_of(QUANTIZER, LAYERS)
FOOTPRINT = Footprint(sum(layer.parameters for layer in LAYERS), 1000, 200)
FILE_BYTES = FileBytes(SPACE, QUANTIZER, FOOTPRINT)
INDICES = st.lists(st.integers(0, SPACE.choices.size - 1), min_size=3, max_size=3).map(np.array)


@given(index=INDICES)
def test_bytes_are_those_of_the_stored_tensors_and_of_what_is_fixed(index: np.ndarray) -> None:
    chosen = SPACE.decode(index)
    stored = sum(
        tensor.stored_bytes
        for layer in LAYERS
        for tensor in QUANTIZER.layout(layer.shape, chosen[layer.name]).values()
    )
    assert FILE_BYTES(index) == stored + 1200
    assert FILE_BYTES(np.stack([index, index])).tolist() == [stored + 1200] * 2


@given(index=INDICES, ends=st.tuples(INDICES, INDICES))
def test_average_bits_within_an_interval_are_bytes_within_it(
    index: np.ndarray, ends: tuple[np.ndarray, np.ndarray]
) -> None:
    low, high = sorted(int(FILE_BYTES(end)) for end in ends)
    try:
        bits = FILE_BYTES.average_bits((low, high))
    except InputError:
        return  # So narrow that filling up may miss it.
    if bits[0] <= SPACE.average_bits(index) <= bits[1]:
        assert low <= FILE_BYTES(index) <= high


def test_choices_that_layers_cannot_take_do_not_count() -> None:
    taken = {LAYERS[1].shape: (3, 8), LAYERS[2].shape: (0,)}
    some = FileBytes(replace(SPACE, shape_choices=taken), QUANTIZER, FOOTPRINT)
    every = [(one, two, 0) for one in range(SPACE.choices.size) for two in (3, 8)]
    sizes = [int(FILE_BYTES(np.array(index))) for index in every]
    assert some.range == (min(sizes), max(sizes))
    with pytest.raises(InputError, match=f"this study take: {min(sizes)} to {max(sizes)} bytes"):
        some.average_bits((max(sizes), 10**6))


@pytest.mark.parametrize("nbytes", [(1, 1200), (10**6, 10**7)])
def test_an_interval_that_no_configuration_takes_is_refused(nbytes: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"search\.bytes: .* 1200 \(1\.2 kB\) are not quantized"):
        FILE_BYTES.average_bits(nbytes)


def test_a_study_of_an_interval_of_bytes_stays_in_it(tmp_path: Path) -> None:
    spec = study_spec(
        **SMALL,
        search__size="bytes",
        search__bytes=["14kB", 20_000],
        search__average_bits=None,
    )
    record = run_spec(spec, tmp_path)
    assert record.size == "bytes"
    assert record.trials["bytes"].between(14_000, 20_000).all()
    weights = sum(layer.parameters for layer in record.layers)
    expected = 1200 + record.trials["average_bits"] * weights / 8
    assert np.allclose(record.trials["bytes"], expected)
    assert len(set(record.trials["average_bits"])) > 5
    # Average bits follow from the model's size, which the resolved study does not know.
    assert load_spec(tmp_path / "study.yaml").search.average_bits is None
    status = study_status(tmp_path)
    assert status.bytes == (14_000, 20_000)
    assert status.average_bits == record.searched_bits == pytest.approx((25 / 7, 5.25), abs=0.05)
    assert dict(status_lines(status))["searched"].endswith(" average bits, from 14.0 kB to 20.0 kB")


def test_a_trainer_that_does_not_say_its_size_searches_average_bits(tmp_path: Path) -> None:
    spec = study_spec(**SMALL, trainer__name="whole", search__size="bytes")
    with pytest.raises(InputError, match="trainer 'whole' does not say how large the model is"):
        run_spec(spec, tmp_path)
    record = run_spec(study_spec(**SMALL, trainer__name="whole"), tmp_path)
    assert record.trials["bytes"].isna().all()


def test_the_interval_may_be_of_either_size_but_not_of_both() -> None:
    both = {"search__size": "bytes", "search__bytes": [1, 2]}
    with pytest.raises(ValueError, match="give one interval, average_bits or bytes, not both"):
        study_spec(**both)
    with pytest.raises(ValueError, match="bytes is the interval of size: bytes"):
        study_spec(search__bytes=[1, 2], search__average_bits=None)
    assert study_spec(search__average_bits=None).search.bits == (2.25, 7.25)
    assert build_components(study_spec(**both, search__average_bits=None)).spec.search.bits is None


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        (
            {"size": "bytes", "bytes": ["9.41kB", 9_420], "average_bits": None},
            r"search\.bytes: \[9410, 9420\] \(\[2\.29\d+, 2\.29\d+\] average bits\) has 0 of the",
        ),
        (
            {"average_bits": [3.0001, 3.0002]},
            r"search\.average_bits: \[3\.0001, 3\.0002\] has 0 of",
        ),
    ],
    ids=["bytes", "average bits"],
)
def test_a_narrow_interval_is_refused_by_its_own_name(
    interval: dict[str, Any], message: str, tmp_path: Path
) -> None:
    fields = {f"search__{name}": value for name, value in interval.items()}
    with pytest.raises(InputError, match=message):
        run_spec(study_spec(**SMALL, **fields), tmp_path)


def test_a_study_of_bytes_that_was_refused_may_be_corrected(tmp_path: Path) -> None:
    wrong = {"search__size": "bytes", "search__average_bits": None}
    spec = study_spec(**SMALL, **wrong, search__bytes=["14MB", "20MB"])
    with pytest.raises(InputError, match=r"search\.bytes: \[14000000, 20000000\] lies outside"):
        run_spec(spec, tmp_path)
    record = run_spec(study_spec(**SMALL, **wrong, search__bytes=["14kB", "20kB"]), tmp_path)
    assert record.trials["bytes"].between(14_000, 20_000).all()
