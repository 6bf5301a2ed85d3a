"""The kit for plugin authors, run on our own quantizers."""

from __future__ import annotations

from typing import Any

import pytest
from qsearch_quantizers.gguf.quantizer import DEFAULT

from qsearch.errors import InputError
from qsearch.plugins.protocols import Quantizer
from qsearch.plugins.registry import load_plugin
from qsearch.space.configuration import LayerConfiguration
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


class TestNormalFloatRoundedForInputs(OurQuantizer):
    name = "normal-float"
    options = {"rounding": "gptq", "bits": [2, 4], "scale_bits": [8]}  # noqa: RUF012

    def tolerance(self, check: str, configuration: LayerConfiguration) -> float:
        """Allow that neighbouring rows have scales in common."""
        return 1.0 if check == "rows" else super().tolerance(check, configuration)


class TestNormalFloatWithFittedScales(TestNormalFloatRoundedForInputs):
    options = {"fit_scales": True, "bits": [2, 4], "scale_bits": [8]}  # noqa: RUF012


class TestSymmetricInteger(OurQuantizer):
    name = "integer"


class TestIntegerOfBothSchemes(OurQuantizer):
    name = "integer"
    options = {"scheme": ["symmetric", "asymmetric"]}  # noqa: RUF012


class TestIntegerRoundedForInputs(OurQuantizer):
    name = "integer"
    options = {"rounding": "gptq", "bits": [2, 4], "group_size": [32, 128]}  # noqa: RUF012


class TestIntegerWithFittedScales(OurQuantizer):
    name = "integer"
    options = {"fit_scales": True, "bits": [2, 4], "group_size": [32, 128]}  # noqa: RUF012


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
    """A quantizer that needs a package, of its own name where no other is given."""

    package = ""

    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        try:
            load_plugin("quantizers", self.name)
        except InputError as error:
            pytest.skip(str(error))
        package = self.package or self.name
        pytest.importorskip(package, reason=f"the package {package} is not installed")


class TestBitsAndBytes(OptionalQuantizer):
    name = "bitsandbytes"


class TestHQQ(OptionalQuantizer):
    name = "hqq"
    options = {"bits": [2, 3, 8], "group_size": [32, 128]}  # noqa: RUF012


class TestTorchAO(OptionalQuantizer):
    name = "torchao"


class TestGGUF(OptionalQuantizer):
    name = "gguf"
    package = "llama_cpp_py_sync"
    configurations = len(DEFAULT)


class TestGGUFWithoutInputs(OptionalQuantizer):
    """With types that are not among the defaults; others of them take seconds to begin."""

    name = "gguf"
    package = "llama_cpp_py_sync"
    options = {"types": ["IQ2_XXS", "IQ3_XXS", "IQ3_S", "Q8_0"], "importance": "none"}  # noqa: RUF012
