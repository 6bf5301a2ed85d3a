"""Exports of integers for inference engines."""

from __future__ import annotations

import pytest
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.errors import InputError
from tests.coalora.exported import export


@pytest.mark.parametrize("format", ["compressed-tensors", "gguf"])
def test_engines_get_integers_alone_which_is_told_before_the_model_is_loaded(
    make_trainer, make_configuration, tmp_path, format
) -> None:
    trainer = make_trainer(plugin=NormalFloat(NormalFloat.Options()))
    chosen = make_configuration(trainer, 0)
    with pytest.raises(
        InputError, match=r"quantizer 'normal-float' are n(ot|either such nor) integers"
    ):
        export(trainer, chosen, tmp_path, format)
    assert "loaded" not in vars(trainer.study)
