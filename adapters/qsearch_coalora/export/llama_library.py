"""llama.cpp's own library, from the package llama-cpp-py-sync; PyTorch is not imported."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections import deque
from functools import cache
from typing import Any

from qsearch._distribution import install_extra
from qsearch.errors import InputError

PACKAGE = "llama-cpp-py-sync"

_ERROR = 4
"""Level of what llama.cpp logs as an error."""

_errors: deque[str] = deque(maxlen=3)


@cache
def load_library() -> tuple[Any, Any]:
    """Return cffi's interface and llama.cpp's functions, which print nothing.

    Raises:
        InputError: If the package is not installed, or its library cannot be loaded.
    """
    try:
        bindings: Any = importlib.import_module("llama_cpp_py_sync._cffi_bindings")
        ffi, library = bindings.get_ffi(), bindings.get_lib()
    except (ImportError, OSError, RuntimeError) as error:
        raise InputError(
            f"llama.cpp needs the package {PACKAGE}; install the extra: {install_extra('gguf')}"
            f" ({error})"
        ) from error
    library.llama_log_set(_logger(ffi), ffi.NULL)
    library.llama_backend_init()
    return ffi, library


def package_version() -> str:
    """Return the package's version, which has llama.cpp's build number in it."""
    return importlib.metadata.version(PACKAGE)


def logged_errors() -> str:
    """Return what llama.cpp logged last as errors, for a message, and forget it."""
    text = "; ".join(_errors)
    _errors.clear()
    return text or "it does not say why"


@cache
def _logger(ffi: Any) -> Any:
    """Return what C calls with each line; kept, since C calls it as long as the process lives."""

    def log(level: int, text: Any, _: object) -> None:
        if level == _ERROR:
            _errors.append(ffi.string(text).decode("utf-8", "replace").strip())

    return ffi.callback("void(enum ggml_log_level, const char *, void *)", log)
