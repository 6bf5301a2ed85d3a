"""GGUF files in llama.cpp: logits of sequences, and what is said where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from qsearch_coalora.export.llama_library import load_library
from qsearch_coalora.llama_cpp import engine as module
from qsearch_coalora.llama_cpp.engine import opened
from qsearch_coalora.llama_cpp.timing import PROMPT, file_speed

from qsearch.errors import EvaluationError, InputError
from tests.coalora.export.small_gguf import TOKENS, write_small
from tests.coalora.exported import engine_logits

pytest.importorskip("llama_cpp_py_sync", reason="the extra gguf is not installed")

SEQUENCE = list(range(100, 124))


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small(tmp_path_factory.mktemp("small") / "small.gguf", 64, 128)


def test_logits_come_in_pieces_of_a_bounded_size(
    small_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine_logits(small_file, SEQUENCE)
    assert whole.shape == (len(SEQUENCE), len(TOKENS))
    monkeypatch.setattr(module, "_LOGIT_BYTES", 4 * len(TOKENS) * 10)
    with opened(small_file, len(SEQUENCE), threads=1) as engine:
        pieces = [torch.from_numpy(piece.copy()) for piece in engine.logits(SEQUENCE)]
    assert [len(piece) for piece in pieces] == [10, 10, 4]
    torch.testing.assert_close(torch.cat(pieces), whole, atol=1e-2, rtol=1e-2)


def test_a_sequence_does_not_see_the_one_before_it(small_file: Path) -> None:
    with opened(small_file, len(SEQUENCE), threads=1) as engine:
        first, _, again = (
            next(engine.logits(tokens)).copy() for tokens in (SEQUENCE, SEQUENCE[::-1], SEQUENCE)
        )
    assert (first == again).all()


def test_what_llama_cpp_says_is_in_the_message(small_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(small_file.read_bytes()[:5000])
    with (
        pytest.raises(EvaluationError, match=r"cannot load .*broken\.gguf: .*failed to "),
        opened(broken, 8, threads=1),
    ):
        pass
    with opened(small_file, 8, threads=1) as engine:
        with pytest.raises(EvaluationError, match="has room for 8 of 24 tokens"):
            next(engine.logits(SEQUENCE))
        with pytest.raises(EvaluationError, match=r"returned -1: .*invalid token\[1\] = 9999"):
            next(engine.logits([100, 9999]))
        assert next(engine.logits(SEQUENCE[:8])).shape == (8, len(TOKENS))


def test_a_missing_package_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp_py_sync", None)
    monkeypatch.setitem(sys.modules, "llama_cpp_py_sync._cffi_bindings", None)
    load_library.cache_clear()
    with pytest.raises(InputError, match=r"needs the package llama-cpp-py-sync; .*gguf"):
        load_library()


def test_speed_and_memory_are_measured_in_a_process_of_its_own(
    small_file: Path, tmp_path: Path
) -> None:
    speed = file_speed(small_file, None, threads=1)
    assert (speed.threads, speed.prompt_tokens) == (1, PROMPT)
    assert speed.prompt_tokens_per_second > speed.generation_tokens_per_second > 0
    assert small_file.stat().st_size < speed.peak_bytes < 2**30
    with pytest.raises(EvaluationError, match=r"speed of none\.gguf .*llama\.cpp cannot load"):
        file_speed(tmp_path / "none.gguf", None, threads=1)
