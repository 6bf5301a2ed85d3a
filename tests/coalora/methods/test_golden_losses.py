"""Losses that are the same to the digit whatever is reorganised: seeds, draws, operations."""

from __future__ import annotations

import pytest
from qsearch_quantizers.normal_float.quantizer import NormalFloat

from qsearch.plugins.registry import load_plugin

LOSSES = {
    "coa-lora": [0.692954, 0.691895, 0.693926, 0.699462, 0.694102],
    "shared-lora": [0.692956, 0.691901, 0.693933, 0.699448, 0.694113],
    "qlora": [0.691811, 0.695611, 0.693212, 0.698221, 0.690753],
    "lq-lora": [0.691817, 0.695594, 0.693193, 0.698228, 0.690771],
    "ptq": [0.691812, 0.695595, 0.693190, 0.698232, 0.690769],
}


@pytest.mark.parametrize("method", LOSSES)
def test_a_training_has_the_losses_it_had(make_trainer, make_configuration, method: str) -> None:
    plugin = NormalFloat(NormalFloat.Options())
    trainer = make_trainer(plugin=plugin, method=load_plugin("trainers", method), steps=5)
    report = trainer.train([make_configuration(trainer, index) for index in range(2)], 1)
    assert report.losses[:5] == pytest.approx(LOSSES[method], abs=2e-6)
