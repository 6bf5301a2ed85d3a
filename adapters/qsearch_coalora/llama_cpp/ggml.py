"""Matrix products as ggml computes them on the CPU: graphs of them, ready to be timed.

The functions are those of ggml's C interface (``ggml.h``, ``ggml-backend.h``, ``ggml-cpu.h``).
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from qsearch_quantizers.gguf.ggml_library import quantize_rows
from qsearch_quantizers.gguf.ggml_types import GGMLType

from qsearch.errors import InputError
from qsearch_coalora.export.llama_library import PACKAGE, load_library

_F32 = 0
_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_QUANTIZED_ROWS = 64
"""Rows that are quantized of random numbers; a weight repeats them."""

_BASE = {
    "ggml_init": (_POINTER, None),  # Its argument is a structure.
    "ggml_free": (None, (_POINTER,)),
    "ggml_new_tensor_2d": (_POINTER, (_POINTER, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)),
    "ggml_mul_mat": (_POINTER, (_POINTER, _POINTER, _POINTER)),
    "ggml_new_graph_custom": (_POINTER, (_POINTER, _SIZE, ctypes.c_bool)),
    "ggml_build_forward_expand": (None, (_POINTER, _POINTER)),
    "ggml_graph_overhead_custom": (_SIZE, (_SIZE, ctypes.c_bool)),
    "ggml_tensor_overhead": (_SIZE, ()),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_POINTER, (_POINTER, _POINTER)),
    "ggml_backend_buffer_free": (None, (_POINTER,)),
    "ggml_backend_tensor_set": (None, (_POINTER, _POINTER, _SIZE, _SIZE)),
    "ggml_backend_graph_compute": (ctypes.c_int, (_POINTER, _POINTER)),
    "ggml_backend_get_default_buffer_type": (_POINTER, (_POINTER,)),
    "ggml_backend_reg_get_proc_address": (_POINTER, (_POINTER, ctypes.c_char_p)),
    "ggml_backend_reg_dev_get": (_POINTER, (_POINTER, _SIZE)),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, (_POINTER, _POINTER)),
    "ggml_backend_free": (None, (_POINTER,)),
}
_CPU = {
    "ggml_backend_cpu_init": (_POINTER, ()),
    "ggml_backend_cpu_reg": (_POINTER, ()),
    "ggml_backend_cpu_set_n_threads": (None, (_POINTER, ctypes.c_int)),
}


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", _SIZE), ("mem_buffer", _POINTER), ("no_alloc", ctypes.c_bool))


class _Feature(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


@dataclass(frozen=True)
class Products:
    """Products of some weights of one type and shape with the same inputs, ready to be computed.

    ``weights`` is the number of weights in all of them; ``compute`` computes all, and waits.
    """

    weights: int
    compute: Callable[[], None]


def cpu_features() -> str:
    """Return which instructions and libraries ggml was built to use, such as ``AVX2 FMA``."""
    base, cpu = _libraries()
    address = base.ggml_backend_reg_get_proc_address(
        cpu.ggml_backend_cpu_reg(), b"ggml_backend_get_features"
    )
    if not address:
        return ""
    features = ctypes.CFUNCTYPE(ctypes.POINTER(_Feature), _POINTER)(address)(
        cpu.ggml_backend_cpu_reg()
    )
    names: list[str] = []
    for feature in features:
        if feature.name is None:
            return " ".join(names)
        names.append(feature.name.decode())
    raise AssertionError("an array of features without end")


@contextmanager
def products(
    kind: GGMLType, shape: tuple[int, int], copies: int, tokens: int, threads: int
) -> Iterator[Products]:
    """Give the products of some weights of a shape with inputs of some tokens.

    The weights lie in memory as llama.cpp has them: in another order, where its CPU code has faster
    functions for that.
    """
    base, cpu = _libraries()
    rows, columns = shape
    with ExitStack() as stack:
        backend = cpu.ggml_backend_cpu_init()
        stack.callback(base.ggml_backend_free, backend)
        cpu.ggml_backend_cpu_set_n_threads(backend, threads)
        plain = base.ggml_backend_get_default_buffer_type(backend)
        for buffer_type in (*_other_buffer_types(), plain):
            with ExitStack() as attempt:
                weights = [(kind.number, columns, rows)] * copies
                context, tensors = _tensors(attempt, weights)
                buffer = base.ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type)
                if not buffer:
                    continue
                attempt.callback(base.ggml_backend_buffer_free, buffer)
                own, (inputs,) = _tensors(attempt, [(_F32, columns, tokens)], copies)
                outputs = [base.ggml_mul_mat(own, weight, inputs) for weight in tensors]
                device = base.ggml_backend_reg_dev_get(cpu.ggml_backend_cpu_reg(), 0)
                if not base.ggml_backend_dev_supports_op(device, outputs[0]):
                    continue
                values = base.ggml_backend_alloc_ctx_tensors_from_buft(own, plain)
                attempt.callback(base.ggml_backend_buffer_free, values)
                _fill(tensors, inputs, kind, shape, tokens)
                graph = base.ggml_new_graph_custom(own, 2 * copies + 2, False)
                for output in outputs:
                    base.ggml_build_forward_expand(graph, output)
                stack.push(attempt.pop_all())
                break
        else:
            raise InputError(f"llama.cpp's CPU code does not multiply weights of {kind.name}")

        def compute() -> None:
            code = base.ggml_backend_graph_compute(backend, graph)
            assert code == 0, f"ggml returned {code}"

        yield Products(rows * columns * copies, compute)


def _tensors(
    stack: ExitStack, shapes: Sequence[tuple[int, int, int]], outputs: int = 0
) -> tuple[Any, list[Any]]:
    """Return a context with room for outputs and their graph, and tensors (type, columns, rows)."""
    base, _ = _libraries()
    size = (len(shapes) + outputs + 1) * base.ggml_tensor_overhead()
    if outputs:
        size += base.ggml_graph_overhead_custom(2 * outputs + 2, False)
    context = base.ggml_init(_InitParams(size, None, True))
    stack.callback(base.ggml_free, context)
    return context, [base.ggml_new_tensor_2d(context, *shape) for shape in shapes]


def _fill(
    weights: Sequence[Any], inputs: Any, kind: GGMLType, shape: tuple[int, int], tokens: int
) -> None:
    """Write numbers as models have them: some are slower to compute with, such as denormal ones."""
    base, _ = _libraries()
    rows, columns = shape
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(min(rows, _QUANTIZED_ROWS), columns, generator=generator)
    blocks = quantize_rows(kind, drawn, torch.ones(columns))
    blocks = blocks.repeat(-(-rows // len(blocks)), 1)[:rows].contiguous()
    for weight in weights:
        base.ggml_backend_tensor_set(weight, blocks.data_ptr(), 0, blocks.nbytes)
    values = torch.randn(tokens, columns, generator=generator)
    base.ggml_backend_tensor_set(inputs, values.data_ptr(), 0, values.nbytes)


@cache
def _other_buffer_types() -> tuple[Any, ...]:
    """Return how else weights can lie in memory, such as in interleaved rows, the best first."""
    base, cpu = _libraries()
    register = cpu.ggml_backend_cpu_reg()
    address = base.ggml_backend_reg_get_proc_address(register, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return ()
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(_POINTER), _POINTER)(address)(
        base.ggml_backend_reg_dev_get(register, 0)
    )
    found = []
    for buffer_type in listed:
        if buffer_type is None:
            break
        found.append(buffer_type)
    return tuple(found)


@cache
def _libraries() -> tuple[Any, Any]:
    """Return the functions of ggml's base, and of its CPU code, as the package has them."""
    load_library()  # Which says what is missing, and silences ggml.
    package = importlib.import_module("llama_cpp_py_sync")
    folder = Path(str(package.__file__)).parent
    return _functions(folder, "ggml-base", _BASE), _functions(folder, "ggml-cpu", _CPU)


def _functions(folder: Path, name: str, signatures: dict[str, tuple[Any, Any]]) -> Any:
    path = next((one for one in sorted(folder.rglob(f"*{name}*")) if one.suffix != ".py"), None)
    if path is None:
        raise InputError(f"{PACKAGE} has no library {name} in {folder}; install it again")
    library = ctypes.CDLL(str(path))
    for function, (result, arguments) in signatures.items():
        try:
            own = getattr(library, function)
        except AttributeError as error:
            raise InputError(
                f"{PACKAGE} has another {name} than this qsearch is tested with: {error}"
            ) from error
        own.restype = result
        if arguments is not None:
            own.argtypes = arguments
    return library
