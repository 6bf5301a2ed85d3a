"""One token at a time on the CPU: packed layers and models next to floats and to other libraries.

All take turns on one thread, and CPU seconds are counted: what other processes do at the same time
costs no more than their share of memory bandwidth and caches.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import qsearch_quantizers
import torch
from qsearch_coalora.llama_cpp.engine import Engine, opened
from qsearch_quantizers.integer.quantizer import Integer
from qsearch_quantizers.normal_float.quantizer import NormalFloat
from qsearch_quantizers.packed.bit_packing import packed_tensors
from qsearch_quantizers.packed.linear import PackedLinear
from qsearch_quantizers.packed.weight import PackedModule
from torch import Tensor, nn

from benchmarks.llama_quantize import quantize
from benchmarks.recording import Benchmark
from benchmarks.timing import alternate, median_ratio, medians
from qsearch.plugins.tensor_layout import PackableQuantizer
from qsearch.space.configuration import LayerConfiguration

BITS = (2, 3, 4, 8)
NORMAL_FLOAT, INTEGER = NormalFloat(NormalFloat.Options()), Integer(Integer.Options())
QUANTIZERS: Mapping[str, PackableQuantizer] = {"normal float": NORMAL_FLOAT, "integer": INTEGER}
LAYERS = {
    "MiniLM": ((384, 384), (1536, 384), (384, 1536)),
    "SmolLM2": ((192, 576), (576, 576), (1536, 576), (576, 1536)),
    "a 7B model": ((4096, 11008),),
}
"""Output and input features of layers."""
TOKENS, TURNS, LAYER_TURNS = 3, 9, 41
FTYPES = {4: "Q4_0", 8: "Q8_0"}
"""llama.cpp's types by bits; rows of 576 have none of 2 and 3 bits."""
GROUP = 64


def configuration(quantizer: str, bits: int) -> LayerConfiguration:
    """Return a layer configuration with scales for 64 weights: 8.25 bits and less."""
    if quantizer == "integer":
        return LayerConfiguration({"bits": bits, "group_size": GROUP})
    return LayerConfiguration(
        {
            "bits": bits,
            "scale_bits": 8,
            "scale_dtype": "float16",
            "block_size": GROUP,
            "scale_block_size": 256,
        }
    )


def packed_layer(weight: Tensor, quantizer: str, bits: int) -> PackedLinear:
    """Return a packed layer without an adapter."""
    made, chosen = QUANTIZERS[quantizer], configuration(quantizer, bits)
    layer = PackedLinear(weight.shape[1], weight.shape[0], False, chosen, made)
    layer.load_state_dict(packed_tensors(made.quantize(weight, chosen), made))
    return layer


def other_layers(layer: nn.Linear) -> dict[str, Callable[[], nn.Module]]:
    """Return how the libraries make their layer of a float one, by name; weights are copied."""
    return {
        "bitsandbytes, 4 bits": partial(_bitsandbytes, layer, 4),
        "bitsandbytes, 8 bits": partial(_bitsandbytes, layer, 8),
        "torchao, 4 bits": partial(_torchao, layer, 4),
        "torchao, 8 bits": partial(_torchao, layer, 8),
        "torchao, 4 bits, in bfloat16": lambda: _torchao(layer.to(torch.bfloat16), 4),
    }


def _bitsandbytes(layer: nn.Linear, bits: int) -> nn.Module:
    from bitsandbytes.nn.modules import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    made: nn.Module
    weight, features = layer.weight.data.clone(), (layer.in_features, layer.out_features)
    if bits == 4:
        made = Linear4bit(  # type: ignore[no-untyped-call]
            *features, bias=False, compute_dtype=torch.float32, quant_type="nf4"
        )
        made.weight = Params4bit(
            weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
    else:
        made = Linear8bitLt(*features, bias=False, has_fp16_weights=False)
        made.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.to("cpu")  # It quantizes.
    return made


def _torchao(layer: nn.Linear, bits: int) -> nn.Module:
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    made = nn.Sequential(copy.deepcopy(layer))
    quantize_(made, PrototypeInt4WeightOnlyConfig(GROUP) if bits == 4 else Int8WeightOnlyConfig())
    return made[0]


@torch.no_grad()
def layers(benchmark: Benchmark) -> None:
    """Time single layers, without adapters."""
    for model, shapes in LAYERS.items():
        for rows, columns in shapes:
            generator = torch.Generator().manual_seed(0)
            plain = nn.Linear(columns, rows, bias=False)
            plain.weight.data = torch.randn(rows, columns, generator=generator) * 0.02
            inputs = torch.randn(1, columns, generator=generator)
            calls: dict[str, Callable[[], object]] = {"float32": partial(plain, inputs)}
            half = inputs.to(torch.bfloat16)
            calls["bfloat16"] = partial(copy.deepcopy(plain).to(torch.bfloat16), half)
            for quantizer in QUANTIZERS:
                for bits in BITS:
                    layer = packed_layer(plain.weight.data, quantizer, bits)
                    calls[f"packed {quantizer}, {bits} bits"] = partial(layer, inputs)
                    compiled = copy.deepcopy(layer)
                    assert qsearch_quantizers.use_compiled_product(compiled) == []
                    calls[f"compiled {quantizer}, {bits} bits"] = partial(compiled, inputs)
            for name, make in other_layers(copy.deepcopy(plain)).items():
                calls[name] = partial(make(), half if "bfloat16" in name else inputs)
            turns = 7 if rows * columns > 10**7 else LAYER_TURNS
            times = alternate(calls, turns, clock=time.process_time)
            _report(benchmark, f"a layer of {model}, {rows}x{columns}", times, 1)


@torch.no_grad()
def models(benchmark: Benchmark, cases: Mapping[str, Path], source: Path) -> None:
    """Generate by SmolLM2: exports by their name, and the model that the libraries quantize.

    Args:
        benchmark: Where to.
        cases: Folders of ``float32`` and of packed exports.
        source: A GGUF file of the model.
    """
    from transformers.models.auto import AutoModelForCausalLM

    load = partial(AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    plain = load(cases["float32"]).eval()
    calls: dict[str, Callable[[], object]] = {"float32": _Steps(plain)}
    calls["bfloat16"] = _Steps(copy.deepcopy(plain).to(torch.bfloat16))
    for name, folder in cases.items():
        if name.startswith("packed"):
            model = load(folder).eval()
            calls[name] = _Steps(model)
            assert qsearch_quantizers.use_compiled_product(model) == []
            calls[name.replace("packed", "compiled", 1)] = _Steps(model)
    for name in other_layers(nn.Linear(1, 1)):
        calls[name] = _Steps(_with_layers(plain, name))
    with _llama_cpp(source) as engines:
        times = alternate({**calls, **engines}, TURNS, clock=time.process_time)
    _report(benchmark, "SmolLM2", times, TOKENS)


def _with_layers(model: nn.Module, name: str) -> nn.Module:
    """Return a copy of a model whose layers a library quantizes."""
    made = copy.deepcopy(model)
    if "bfloat16" in name:
        made.to(torch.bfloat16)
    for path, module in list(made.named_modules()):
        if isinstance(module, nn.Linear) and ".layers." in path:
            made.set_submodule(path, other_layers(module)[name]())
    return made


class _Steps:
    """Generates some tokens more at each call."""

    def __init__(self, model: Any) -> None:
        self._model = model
        first = model(torch.arange(5, 13)[None], use_cache=True)
        self._cache, self._token = first.past_key_values, first.logits[:, -1:].argmax(dim=-1)
        packed = (one for one in model.modules() if isinstance(one, PackedModule))
        self._products = {module: module.compiled for module in packed}

    def __call__(self) -> None:
        for module, product in self._products.items():  # One model is run in both ways.
            module.compiled = product
        for _ in range(TOKENS):
            out = self._model(self._token, past_key_values=self._cache, use_cache=True)
            self._token = out.logits[:, -1:].argmax(dim=-1)


@contextmanager
def _llama_cpp(source: Path) -> Iterator[dict[str, Callable[[], object]]]:
    """Give llama.cpp with a file in each of its types, on one thread."""
    with ExitStack() as stack:
        folder, engines = Path(stack.enter_context(TemporaryDirectory())), {}
        for bits, kind in FTYPES.items():
            path = folder / f"{kind}.gguf"
            quantize(source, path, kind)
            engine = stack.enter_context(opened(path, 512, threads=1))
            engines[f"llama.cpp {kind}, {bits} bits"] = _generation(engine)
        yield engines


def _generation(engine: Engine) -> Callable[[], object]:
    ffi, library = engine.ffi, engine.library
    width, token = engine.vocabulary, ffi.new("llama_token[]", [5])

    def generate() -> None:
        for _ in range(TOKENS):
            engine.decode(library.llama_batch_get_one(token, 1))
            raw = ffi.buffer(library.llama_get_logits(engine.context), 4 * width)
            token[0] = int(torch.frombuffer(raw, dtype=torch.float32).argmax())

    return generate


def _report(benchmark: Benchmark, what: str, times: Mapping[str, list[float]], tokens: int) -> None:
    """Record milliseconds of a token, and speeds as parts of float32's; claims for the models."""
    for name, seconds in medians(times).items():
        speed = median_ratio(times["float32"], times[name])
        milliseconds = 1e3 * seconds / tokens
        benchmark.row(
            measure=f"one token through {what}",
            method=name,
            **{"CPU ms": round(milliseconds, 4), "speed over float32": round(speed, 3)},
        )
        if what == "SmolLM2" and name.startswith("compiled"):
            claim = f"generated tokens a CPU second: {name} over float32"
            benchmark.claim(claim, speed, 1.0, "higher")
