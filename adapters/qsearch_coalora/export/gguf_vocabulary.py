"""A tokenizer of transformers in the words of GGUF files.

A file names the rules by which text is cut before its pieces are merged. They are recognised by
what the tokenizer's own rules are, not by the ids that it gives some text, as llama.cpp's converter
does: a vocabulary that was trained or extended by somebody has rules that llama.cpp knows all the
same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsearch.errors import InputError

_SPACE = "▁"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_OF_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_CASES = (f"{_BEFORE}{_UPPER}*{_LOWER}+", f"{_BEFORE}{_UPPER}+{_LOWER}*")
_REST_OF_CASES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_SPLITS = {
    rf"{_CONTRACTIONS}|{_OF_LETTERS}|\p{{N}}{{1,3}}|{_REST}": ("smaug-bpe", "llama-bpe"),
    rf"{_CONTRACTIONS}|{_OF_LETTERS}|\p{{N}}|{_REST}": ("qwen2", None),
    rf"{'|'.join(_CASES)}|\p{{N}}|{_REST_OF_CASES}": (None, "tekken"),
    rf"{'|'.join(one + _CONTRACTIONS + '?' for one in _CASES)}|\p{{N}}{{1,3}}|{_REST_OF_CASES}": (
        "gpt-4o",
        None,
    ),
}
"""By a regular expression, llama.cpp's names of it: for merges alone, and for whole words first."""

_BYTES = [f"<0x{number:02X}>" for number in range(256)]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_UNUSED_SCORE = -1e4
_TEMPLATE, _DEFAULT = "tokenizer.chat_template", "default"


class InexpressibleError(Exception):
    """What a tokenizer has that a GGUF file cannot say."""


@dataclass(frozen=True)
class Vocabulary:
    """What a file holds of a tokenizer: see ``tokenizer.ggml.…`` in GGUF's specification.

    Args:
        model: How llama.cpp merges: ``gpt2`` (by a list of merges) or ``llama`` (by scores).
        pre: The name of the rules that cut text into words.
        space_prefix: Whether text begins with a space; None where it never does.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    space_prefix: bool | None
    special: Mapping[str, int]
    adds: Mapping[str, bool]
    templates: Mapping[str, str]

    def add_to(self, writer: Any) -> None:
        """Describe it to a writer of the package gguf."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for name, token in self.special.items():
            getattr(writer, f"add_{name}_token_id")(token)
        for name, adds in self.adds.items():
            getattr(writer, f"add_add_{name}_token")(adds)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        for name, template in sorted(self.templates.items()):
            if name == _DEFAULT:
                writer.add_chat_template(template)
            else:
                writer.add_string(f"{_TEMPLATE}.{name}", template)
        if others := sorted(self.templates.keys() - {_DEFAULT}):
            writer.add_array(f"{_TEMPLATE}s", others)


def vocabulary_of(tokenizer: Any, size: int, format: str) -> Vocabulary:
    """Return the vocabulary of a tokenizer, filled up to the model's size.

    Raises:
        InputError: If llama.cpp has no rules like the tokenizer's.
    """
    try:
        return _vocabulary(tokenizer, size)
    except InexpressibleError as error:
        raise InputError(
            f"--format {format}: the model's tokenizer cannot be expressed in a GGUF file: {error};"
            " make one with llama.cpp's convert_hf_to_gguf.py if that knows it, and search on it"
        ) from error


def _vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InexpressibleError(
            f"{type(tokenizer).__name__} has no rules of the tokenizers library"
        )
    rules = json.loads(backend.to_str())
    model = rules["model"]
    if model["type"] != "BPE":
        raise InexpressibleError(f"its pieces are {model['type']}, not BPE")
    ids: dict[str, int] = tokenizer.get_vocab()
    if len(set(ids.values())) != len(ids):
        raise InexpressibleError("two of its tokens have one id")
    by_words = _word_rules(rules)
    unigram = by_words is None
    added = {one["content"]: bool(one["special"]) for one in rules["added_tokens"]}
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for token, number in ids.items():
        if number >= size:
            if token in added:
                continue  # Such as one for images, of a model that reads text alone.
            raise InexpressibleError(f"its token {token!r} has no embedding")
        tokens[number], types[number] = token, NORMAL
        if token in added:
            types[number] = CONTROL if added[token] else USER_DEFINED
            # llama.cpp looks for these in text as it is, before spaces become marks.
            if unigram and not added[token]:
                tokens[number] = token.replace(_SPACE, " ")
    around = _special(tokenizer), _adds(tokenizer), _templates(tokenizer)
    if by_words is not None:
        merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
        return Vocabulary("gpt2", by_words, tokens, types, None, merges, None, *around)
    for token in _BYTES:
        if token not in ids:
            raise InexpressibleError(f"it has no token {token} for a byte")
        types[ids[token]] = BYTE
    if model["unk_token"] in ids:
        types[ids[model["unk_token"]]] = UNKNOWN
    scores = _scores(model["merges"], ids, types)
    prefix = _space_prefix(rules)
    return Vocabulary("llama", "default", tokens, types, scores, None, prefix, *around)


def _word_rules(rules: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of the rules by which text of bytes is cut into words.

    None where text is not cut, and spaces are marks, as SentencePiece has them.
    """
    model, normalizers = rules["model"], [one["type"] for one in _steps(rules["normalizer"])]
    if model["byte_fallback"]:
        return None
    if normalizers not in ([], ["NFC"]):  # Text is almost always in this form already.
        raise InexpressibleError(f"it normalizes text by {', '.join(normalizers)}")
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise InexpressibleError("its pieces within words have a mark")
    words_first = bool(model.get("ignore_merges"))
    *before, last = _steps(rules["pre_tokenizer"]) or [{"type": None}]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise InexpressibleError("its pieces are not of bytes without a space in front")
    name = None
    if last["use_regex"]:
        digits = [one["type"] == "Digits" and one["individual_digits"] for one in before]
        name = None if words_first else {(): "gpt-2", (True,): "smollm"}.get(tuple(digits))
    elif len(before) == 1 and before[0]["type"] == "Split":
        (split,) = before
        plain = split["behavior"] == "Isolated" and not split["invert"]
        names = _SPLITS.get(split["pattern"].get("Regex", "")) if plain else None
        if names:  # If llama.cpp has one way alone, it is the same where merges reach each word.
            name = names[words_first] or names[not words_first]
    if name is None:
        raise InexpressibleError(f"llama.cpp is not known to cut text by {_shown(before)}")
    return name


def _steps(rule: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the steps that a normalizer or pre-tokenizer consists of."""
    if rule is None:
        return []
    inner = rule.get("normalizers") or rule.get("pretokenizers")
    if rule["type"] != "Sequence":
        return [rule]
    return [step for one in inner or () for step in _steps(one)]


def _shown(steps: Sequence[Mapping[str, Any]]) -> str:
    patterns = [str(one.get("pattern", {}).get("Regex", one["type"])) for one in steps]
    return ", then ".join(repr(pattern) for pattern in patterns) or "the rules of GPT-2"


def _space_prefix(rules: Mapping[str, Any]) -> bool:
    """Return whether text gets a space in front, where spaces become marks and nothing is cut."""
    prefix, replaced = False, False
    for step in _steps(rules["normalizer"]):
        if step["type"] == "Prepend" and step["prepend"] == _SPACE:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            replaced = step["content"] == _SPACE
        else:
            raise InexpressibleError(f"it normalizes text by {step['type']}")
    for step in _steps(rules["pre_tokenizer"]):
        # No spaces are left to cut at, once they are marks.
        if step["type"] == "Split" and step["pattern"] == {"String": " "} and replaced:
            continue
        if step["type"] != "Metaspace" or step["replacement"] != _SPACE or step.get("split", True):
            raise InexpressibleError(f"it cuts text by {step['type']}")
        prefix, replaced = prefix or step["prepend_scheme"] != "never", True
    if not replaced:
        raise InexpressibleError("its spaces do not become marks")
    return prefix


def _scores(
    merges: Sequence[Sequence[str]], ids: Mapping[str, int], types: Sequence[int]
) -> list[float]:
    """Return the score of each token, by which llama.cpp merges: the earlier made, the higher."""
    ranks: dict[str, int] = {}
    last = None
    for pair in merges:
        made = "".join(pair.split(" ") if isinstance(pair, str) else pair)
        if made != last and made in ranks:
            raise InexpressibleError(f"merges to {made!r} come at several places of its list")
        ranks.setdefault(made, len(ranks))
        last = made
    scores = [_UNUSED_SCORE if kind == UNUSED else 0.0 for kind in types]
    for token, rank in ranks.items():
        if token in ids:
            scores[ids[token]] = -float(rank)
    return scores


def _special(tokenizer: Any) -> dict[str, int]:
    names = ("bos", "eos", "unk", "sep", "pad", "mask")
    numbers = {name: getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return {name: int(number) for name, number in numbers.items() if number is not None}


def _adds(tokenizer: Any) -> dict[str, bool]:
    """Return which special tokens a text gets at its begin and end."""
    whole, text = (
        tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False)
    )
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for begins in (False, True):
        for ends in (False, True):
            if whole == bos * begins + text + eos * ends:
                return {"bos": begins, "eos": ends}
    raise InexpressibleError("it puts more around a text than its tokens of begin and end")


def _templates(tokenizer: Any) -> dict[str, str]:
    """Return the chat templates by names of letters, digits and underscores."""
    given = getattr(tokenizer, "chat_template", None) or {}
    named = {_DEFAULT: given} if isinstance(given, str) else dict(given)
    return {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in named.items()}
