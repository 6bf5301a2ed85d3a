"""What llama.cpp makes of text with a file's vocabulary, compared with the model's tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qsearch.errors import InputError
from qsearch_coalora.export.gguf_original import FORMAT
from qsearch_coalora.export.llama_library import load_library, logged_errors

PACKAGE = "llama_cpp_py_sync"

TEXTS = (
    "The quick brown fox jumps over the lazy dog. It's what they'd've said, wasn't it? WE'LL SEE.",
    "def add(a: int, b: int):\n    return a + b  # sum\n\n\n\tif x != 3.14159:\n\t\tprint()\r\n",
    "0 12 345 6789 12345678901 3.14 1,000,000 0x1F 2026-12-01 1e-5",
    "a  b   c    d\n\n  e\n \n\t\tf   \n",
    "CamelCase snake_case kebab-case HTTPServer iPhone XMLHttpRequest mp3player",
    "!!! ??? ... --- === ``` $$ %% @@ ## && ** (()) [[]] {{}} <a href='b'>c</a> ~!@",
    "'s 'S 'll 'LL I'm I'M you're YOU'RE",
    "Größe, façade, naïve, Übermut; Привет, мир! Ελληνικά; שלום עולם; مرحبا بالعالم",
    "我想在工作中使用它。これは日本語の文章です。한국어 문장입니다.",
    "ภาษาไทย हिन्दी বাংলা తెలుగు",
    "🚀 👩‍👩‍👧 ✅✅ 🇩🇪 ∑∫√ → ≠ ±… “quotes” «guillemets» — – ’ ½ ² ٣٤٥ Ⅷ",
)
"""What splits tokenizers apart: spaces, digits, cases, scripts; ASCII first, in the form NFC."""


def is_installed() -> bool:
    """Return whether llama.cpp can be asked."""
    return find_spec(PACKAGE) is not None


@dataclass(frozen=True)
class UnlikeText:
    """A text of which two tokenizers make different tokens; ``shown`` with where these part."""

    is_ascii: bool
    shown: str


def compare_tokens(
    add_fields: Callable[[Any], None], architecture: str, tokenizer: Any
) -> UnlikeText | None:
    """Have llama.cpp make tokens of texts with a vocabulary, and compare them with a tokenizer's.

    Args:
        add_fields: Describes a model to a writer of the package gguf.
        architecture: llama.cpp's name of the model's.
        tokenizer: The model's tokenizer, of transformers.

    Returns:
        Of which text both make different tokens, such as one in a script whose marks llama.cpp does
        not know as parts of words; None if of none.

    Raises:
        InputError: If llama.cpp cannot load the vocabulary, or the text is plain ASCII.
    """
    import gguf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        add_fields(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        text = unlike_text(path, tokenizer)
    if text is not None and text.is_ascii:
        raise InputError(
            f"--format {FORMAT}: llama.cpp and the model's tokenizer make different tokens of"
            f" {text.shown}"
        )
    return text


def unlike_text(path: Path, tokenizer: Any) -> UnlikeText | None:
    """Return a text of which llama.cpp makes other tokens with a file than a tokenizer.

    Raises:
        InputError: If llama.cpp does not load the file's vocabulary.
    """
    with _vocabulary(path) as tokens_of:
        for text in TEXTS:
            expected = tokenizer(text)["input_ids"]
            found = tokens_of(text)
            if found != expected:
                shown = f"{text!r}: {_apart(tokenizer, found, expected)}"
                return UnlikeText(text.isascii(), shown)
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
    ffi, lib = load_library()
    logged_errors()
    settings = lib.llama_model_default_params()
    settings.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), settings)
    if model == ffi.NULL:
        raise InputError(
            f"--format {FORMAT}: llama.cpp cannot load the model's vocabulary: {logged_errors()}"
        )
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
