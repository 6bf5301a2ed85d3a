"""Exports of integers for inference engines."""

from __future__ import annotations

import pytest
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.errors import InputError
from tests.coalora.exported import export


@pytest.mark.parametrize(
    ("format", "said"),
    [("compressed-tensors", "not integers"), ("gguf", "neither such nor integers")],
)
def test_what_engines_do_not_compute_with_is_told_before_the_model_is_loaded(
    make_trainer, make_configuration, tmp_path, format, said
) -> None:
    trainer = make_trainer(plugin=NormalFloat(NormalFloat.Options()))
    chosen = make_configuration(trainer, 0)
    with pytest.raises(InputError, match=f"weights of quantizer 'normal-float' are {said}"):
        export(trainer, chosen, tmp_path, format)
    assert "loaded" not in vars(trainer.study)
