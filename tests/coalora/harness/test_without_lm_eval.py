"""What is refused before lm_eval is needed, or where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.errors import InputError


def test_classifications_are_refused_before_anything_is_loaded(make_trainer: Any) -> None:
    trainer = make_trainer()
    with pytest.raises(InputError, match=r"is for causal language models .* 'classification'"):
        trainer.load_harness(["arc_easy"], None)
    assert "loaded" not in vars(trainer.study)


def test_a_missing_package_names_the_extra(
    make_trainer: Any, make_causal_task: Any, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    trainer = make_trainer(
        plugin=NormalFloat(NormalFloat.Options()), task=make_causal_task(), model=llama_folder
    )
    with pytest.raises(InputError, match=r"--lm-eval needs the package lm_eval.*\[lm-eval\]"):
        trainer.load_harness(["arc_easy"], None)
    assert "loaded" not in vars(trainer.study)


def test_weights_that_cannot_be_packed_are_refused(
    make_trainer: Any, make_causal_task: Any, llama_folder: Path
) -> None:
    trainer = make_trainer(task=make_causal_task(), model=llama_folder)
    with pytest.raises(InputError, match="quantizer 'rounding' cannot be exported as packed"):
        trainer.load_harness(["arc_easy"], None)
