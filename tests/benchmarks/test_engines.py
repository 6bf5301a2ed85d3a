"""Files of llama.cpp's presets next to qsearch's: what is claimed and shown."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import engines
from benchmarks.recording import Benchmark


def side(nbytes: int, bits: float, sequences: list[float]) -> dict[str, Any]:
    return {
        "nbytes": nbytes,
        "bits": bits,
        "kl": sum(sequences) / len(sequences),
        "kl_error": 0.01,
        "same_top": 0.9,
        "perplexity": 20.0,
        "sequences": sequences,
        "speed": {"generation_tokens_per_second": 50.0},
    }


FILES = [
    {
        "preset": "IQ3_XXS",
        "llama.cpp": side(1000, 4.1, [0.2, 0.3, 0.4]),
        "qsearch": side(900, 3.7, [0.1, 0.12, 0.14]),
    },
    {
        "preset": "Q6_K",
        "llama.cpp": side(2000, 6.6, [0.10, 0.12, 0.14]),
        "qsearch": side(1900, 6.3, [0.05, 0.06, 0.07]),
    },
    {
        "preset": "Q3_K_M",
        "llama.cpp": side(1200, 4.4, [0.2, 0.3, 0.4]),
        "qsearch": side(1100, 4.2, [0.1, 0.12, 0.14]),
    },
]

RECORD = {
    "model": "small",
    "minutes": 12.0,
    "evaluations": 40,
    "files": FILES,
    "left out": {"Q3_K_S": "has the tensors of Q2_K"},
}


def test_targets_are_of_the_preset_s_bits_per_weight() -> None:
    benchmark = Benchmark("engines")
    engines.report(benchmark, "Small", RECORD)
    assert [(one.value, one.target) for one in benchmark.claims] == [
        (pytest.approx(0.5), 1.0),
        (pytest.approx(0.4), engines.SMALL_TARGET),
        (pytest.approx(0.5), engines.LARGE_TARGET),
        (pytest.approx(0.4), engines.SMALL_TARGET),
    ]


def test_a_ratio_above_the_target_is_met_by_a_tenth_of_the_bytes() -> None:
    close = {**FILES[2], "qsearch": side(1150, 4.3, [0.19, 0.28, 0.38])}
    benchmark = Benchmark("engines")
    engines.report(benchmark, "Small", {**RECORD, "files": [FILES[0], close]})
    last = benchmark.claims[-1]
    assert (last.value, last.target) == (pytest.approx(0.25), engines.SAVED_TARGET)
    benchmark = Benchmark("engines")
    engines.report(benchmark, "Small", {**RECORD, "files": [close]})
    last = benchmark.claims[-1]
    assert (last.value, last.target) == (pytest.approx(0.944, abs=1e-3), engines.SMALL_TARGET)


def test_presets_that_are_left_out_have_their_reason() -> None:
    benchmark = Benchmark("engines")
    lines = engines.report(benchmark, "Small", RECORD)
    assert "Q3_K_S is left out: has the tensors of Q2_K." in lines
    reasons = {row["preset"]: row["reason"] for row in benchmark.rows if "reason" in row}
    assert reasons == RECORD["left out"]


def test_bytes_saved_are_those_of_the_smallest_file_that_is_as_good() -> None:
    benchmark = Benchmark("engines")
    engines.report(benchmark, "Small", RECORD)
    # Q6_K's KL of 0.12 is reached by the file of 900 bytes.
    saved = [row["saved_at_equal_kl"] for row in benchmark.rows if "reason" not in row]
    assert saved == [0.1, 0.55, 0.25]


def test_the_readme_shows_final_presets_on_the_whole_text_where_it_was_measured() -> None:
    by_preset = [line.split()[1] for line in engines.shown(RECORD)[2:]]
    assert by_preset == ["IQ3_XXS", "Q6_K"]
    whole = {**RECORD, "whole test": FILES[1:2]}
    assert [line.split()[1] for line in engines.shown(whole)[2:]] == ["Q6_K"]
    lines = engines.report(Benchmark("engines"), "Small", whole)
    assert "The same on the whole test text:" in lines
