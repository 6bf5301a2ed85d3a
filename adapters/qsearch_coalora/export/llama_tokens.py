"""What llama.cpp makes of text with a file's vocabulary, compared with the model's tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch_coalora.export.gguf_original import FORMAT

PACKAGE = "llama_cpp_py_sync"

TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's what they'd've said, wasn't it? WE'LL SEE.",
    "def add(a: int, b: int):\n    return a + b  # sum\n\n\n\tif x != 3.14159:\n\t\tprint()\r\n",
    "0 12 345 6789 12345678901 3.14 1,000,000 ½ ² ٣٤٥ Ⅷ 0x1F 2026-12-01",
    "Größe, façade, naïve, Übermut; Привет, мир! Ελληνικά; שלום עולם; مرحبا بالعالم",
    "我想在工作中使用它。これは日本語の文章です。한국어 문장입니다. ภาษาไทย हिन्दी বাংলা",
    "🚀 👩‍👩‍👧 ✅✅ 🇩🇪 ∑∫√ → ≠ ±… “quotes” «guillemets» — – ’",
    "a  b   c    d\n\n  e\n \n\t\tf   \n",
    "CamelCase snake_case kebab-case HTTPServer iPhone XMLHttpRequest mp3player",
    "!!! ??? ... --- === ``` $$ %% @@ ## && ** (()) [[]] {{}} <a href='b'>c</a> ~!@",
    "'s 'S 'll 'LL I'm I'M you're YOU'RE",
)
"""What splits tokenizers apart: digits, spaces, scripts, cases, apostrophes; in the form NFC."""


def is_installed() -> bool:
    """Return whether llama.cpp can be asked."""
    return find_spec(PACKAGE) is not None


def require_same_tokens(
    add_fields: Callable[[Any], None], architecture: str, tokenizer: Any
) -> None:
    """Check that llama.cpp reads a vocabulary, and makes the tokenizer's tokens of texts.

    Args:
        add_fields: Describes a model to a writer of the package gguf.
        architecture: llama.cpp's name of the model's.
        tokenizer: The model's tokenizer, of transformers.

    Raises:
        InputError: If it does not; the message has the text and both tokens.
    """
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        add_fields(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        unlike = unlike_tokens(path, tokenizer)
    if unlike is not None:
        raise InputError(
            f"--format {FORMAT}: llama.cpp and the model's tokenizer make different tokens of"
            f" {unlike}"
        )


def unlike_tokens(path: Path, tokenizer: Any) -> str | None:
    """Say of which text llama.cpp makes other tokens with a file than a tokenizer; None if of none.

    Raises:
        InputError: If llama.cpp does not load the file's vocabulary.
    """
    with _vocabulary(path) as tokens_of:
        for text in TEXTS:
            expected = tokenizer(text)["input_ids"]
            found = tokens_of(text)
            if found != expected:
                return f"{text!r}: {_apart(tokenizer, found, expected)}"
    return None


def _apart(tokenizer: Any, found: Sequence[int], expected: Sequence[int]) -> str:
    """Say where two lists of tokens part."""
    pairs = zip(found, expected, strict=False)
    place = next((at for at, (one, other) in enumerate(pairs) if one != other), 0)
    shown = (
        str(tokenizer.convert_ids_to_tokens(list(each[place : place + 3])))
        for each in (found, expected)
    )
    return " and ".join(shown)


@contextmanager
def _vocabulary(path: Path) -> Iterator[Callable[[str], list[int]]]:
    """Load a file's vocabulary, and yield what gives the tokens of a text."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, lib = get_ffi(), get_lib()  # type: ignore[no-untyped-call]
    signature = "void(enum ggml_log_level, const char *, void *)"
    silence = ffi.callback(signature, lambda *_: None)
    lib.llama_log_set(silence, ffi.NULL)
    settings = lib.llama_model_default_params()
    settings.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), settings)
    if model == ffi.NULL:
        lib.llama_log_set(ffi.NULL, ffi.NULL)
        raise InputError(f"--format {FORMAT}: llama.cpp cannot load the model's vocabulary")
    vocabulary = lib.llama_model_get_vocab(model)

    def tokens_of(text: str) -> list[int]:
        raw = text.encode()
        room = ffi.new("llama_token[]", len(raw) + 8)
        count = lib.llama_tokenize(vocabulary, raw, len(raw), room, len(raw) + 8, True, True)
        return [int(room[place]) for place in range(count)]

    try:
        yield tokens_of
    finally:
        lib.llama_model_free(model)
        lib.llama_log_set(ffi.NULL, ffi.NULL)
