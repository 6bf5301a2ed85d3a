"""The kit for plugin authors, run on our own quantizers."""

from __future__ import annotations

from typing import Any

import pytest

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.registry import load_plugin
from qsearch.testing import QuantizerConformance


class OurQuantizer(QuantizerConformance):
    """A quantizer by the name of its entry point, with the options that a study would give."""

    configurations = 4
    name: str
    options: dict[str, Any] = {}  # noqa: RUF012

    def make(self) -> Quantizer:
        plugin = load_plugin("quantizers", self.name)
        quantizer: Quantizer = plugin(plugin.Options.model_validate(self.options))
        return quantizer


class TestNormalFloat(OurQuantizer):
    name = "normal-float"


class TestSymmetricInteger(OurQuantizer):
    name = "integer"


class TestIntegerOfBothSchemes(OurQuantizer):
    name = "integer"
    options = {"scheme": ["symmetric", "asymmetric"]}  # noqa: RUF012


class TestIntegerRoundedForInputs(OurQuantizer):
    name = "integer"
    options = {"rounding": "gptq", "bits": [2, 4], "group_size": [32, 128]}  # noqa: RUF012


class TestCompressedTensors(OurQuantizer):
    name = "compressed-tensors"
    options = {  # noqa: RUF012
        "scheme": ["W3A16-channel", "W4A16-g32-asym", "FP8", "W8A16-channel-asym"]
    }


class TestCompressedTensorsRoundedForInputs(OurQuantizer):
    name = "compressed-tensors"
    options = {  # noqa: RUF012
        "rounding": "gptq",
        "scheme": ["W3A16-g64", "W4A16-channel", "FP8"],
    }


class OptionalQuantizer(OurQuantizer):
    """A quantizer that needs a package of its own name."""

    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        try:
            load_plugin("quantizers", self.name)
        except InputError as error:
            pytest.skip(str(error))
        pytest.importorskip(self.name, reason=f"the package {self.name} is not installed")


class TestBitsAndBytes(OptionalQuantizer):
    name = "bitsandbytes"


class TestHQQ(OptionalQuantizer):
    name = "hqq"
    options = {"bits": [2, 3, 8], "group_size": [32, 128]}  # noqa: RUF012


class TestTorchAO(OptionalQuantizer):
    name = "torchao"
