"""The tokenizer of a model, and whether both belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch.spec.sections import ModelSpec
from qsearch_coalora.models.loading import from_pretrained
from qsearch_coalora.models.source import locate_model

if TYPE_CHECKING:
    from torch import nn


def load_tokenizer(model: ModelSpec) -> Any:
    """Load the model's tokenizer; a padding token is set if it has none.

    Raises:
        InputError: If it cannot be found or reached, or knows no words.
    """
    tokenizer = from_pretrained(locate_model(model), "AutoTokenizer")
    # What transformers makes of a folder without a tokenizer's files.
    if not _words(tokenizer):
        raise InputError(
            f"model.name {model.name!r} has no tokenizer: its vocabulary holds special tokens only;"
            " save the tokenizer with the model (tokenizer.save_pretrained)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"model.name {model.name!r}: the tokenizer has no padding, end or unknown token; give"
            " it a pad_token and save it"
        )
    return tokenizer


def opening_tokens(tokenizer: Any) -> list[int]:
    """Return the token that the tokenizer puts before every text, such as ``<bos>``, or none.

    Models whose tokenizer does so were trained on texts that begin with it.
    """
    tokens = list(tokenizer("")["input_ids"])
    return tokens[:1] if tokens and tokens[0] == tokenizer.bos_token_id else []


def require_embeddings(model: ModelSpec, module: nn.Module, tokenizer: Any) -> None:
    """Raise InputError unless a model has an embedding for each word of its tokenizer.

    Special and added tokens need none: text seldom has them. A model without a table of embeddings
    is not checked.
    """
    try:
        embeddings: Any = module.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:
        return
    count = getattr(embeddings, "num_embeddings", None)
    words = _words(tokenizer)
    if count is not None and words:
        last = max(words, key=lambda token: words[token])
        require_embedding(model.name, count, "token", last, words[last])


def require_embedding(model: str, count: int, kind: str, token: str, number: int) -> None:
    """Raise InputError unless one of a model's embeddings is that of a token of some kind."""
    if number >= count:
        raise InputError(
            f"model.name {model!r} has {count} embeddings, but its tokenizer's {kind} {token!r}"
            f" has number {number}; resize the model's embeddings, or save the tokenizer that"
            " belongs to it"
        )


def _words(tokenizer: Any) -> dict[str, int]:
    """Return the numbers of a tokenizer's tokens that are neither special nor added."""
    # The word boundary alone is what transformers gives T5 and its kin without a vocabulary.
    others = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab(), "\u2581"}
    return {token: index for token, index in tokenizer.get_vocab().items() if token not in others}
