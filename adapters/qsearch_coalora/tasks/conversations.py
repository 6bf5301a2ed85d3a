"""Instruction data: conversations by a chat template, or prompts with their completions.

The loss is over the assistant's tokens alone, or those of the completion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qsearch.errors import InputError
from qsearch_coalora.models.loading import first_line
from qsearch_coalora.models.tokenizers import opening_tokens
from qsearch_coalora.tasks.batching import IGNORED
from qsearch_coalora.tasks.sequences import Sequences

if TYPE_CHECKING:
    from torch import Tensor

Row = Sequence[Any]
"""The messages of an example, or its prompt and completion."""

_SAYS_WHAT_IS_GENERATED = re.compile(r"{%-?\s*generation\s*-?%}")
_ASSISTANT = "assistant"


def encode_rows(tokenizer: Any, rows: Iterable[Row], length: int, source: str) -> Sequences:
    """Return one sequence for each row of messages, or of prompt and completion.

    What is longer than ``length`` tokens is cut; a row of which nothing is predicted then is left
    out.

    Raises:
        InputError: If a row is none, the tokenizer has no template, or nothing is predicted at all.
    """
    encode: Callable[[Any, Row], tuple[list[int], list[bool]]] | None = None
    kept: list[tuple[Tensor, Tensor]] = []
    count = 0
    for row in rows:
        count += 1
        if encode is None:
            encode = _encode_pair if len(row) == 2 else _template_encoder(tokenizer)
        try:
            tokens, mask = encode(tokenizer, row)
        except InputError as error:
            raise InputError(f"{source}, example {count}: {error}") from error
        if any(mask[1:length]):
            kept.append(_tensors(tokens[:length], mask[:length]))
    if not kept:
        raise InputError(
            f"{source}: none of its {count} examples has a predicted token (of the assistant, or of"
            f" the completion) within task.length {length}"
        )
    tensors, labels = zip(*kept, strict=True)
    return Sequences(tensors, labels, packed=False)


def _tensors(tokens: Sequence[int], mask: Sequence[bool]) -> tuple[Tensor, Tensor]:
    import torch

    row = torch.tensor(tokens)
    return row, row.where(torch.tensor(mask), IGNORED)


def _encode_pair(tokenizer: Any, row: Row) -> tuple[list[int], list[bool]]:
    """Encode a prompt, then its completion as it would be generated: apart, with its end."""
    texts = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in row]
    prompt = [*opening_tokens(tokenizer), *texts[0]]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    completion = [*texts[1], *end]
    return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)


def _template_encoder(tokenizer: Any) -> Callable[[Any, Row], tuple[list[int], list[bool]]]:
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise InputError(
            "task.messages: the model's tokenizer has no chat template; take a model that has one,"
            " or give the columns task.prompt and task.completion"
        ) from error
    return _encode_marked if _SAYS_WHAT_IS_GENERATED.search(template) else _encode_by_prefixes


def _encode_marked(tokenizer: Any, row: Row) -> tuple[list[int], list[bool]]:
    """Encode messages by a template that marks what the assistant generates."""
    encoded = _apply(tokenizer, read_messages(row[0]), return_assistant_tokens_mask=True)
    return list(encoded["input_ids"]), [bool(value) for value in encoded["assistant_masks"]]


def _encode_by_prefixes(tokenizer: Any, row: Row) -> tuple[list[int], list[bool]]:
    """Encode messages; an assistant's tokens are those that its message adds to what precedes it.

    What opens an answer, such as the assistant's name, precedes it.
    """
    messages = read_messages(row[0])
    tokens = list(_apply(tokenizer, messages)["input_ids"])
    mask = [False] * len(tokens)
    for place, message in enumerate(messages):
        if message["role"] != _ASSISTANT:
            continue
        before = _apply(tokenizer, messages[:place], add_generation_prompt=True) if place else {}
        start = list(before.get("input_ids", ()))
        through = list(_apply(tokenizer, messages[: place + 1])["input_ids"])
        if through[: len(start)] != start or tokens[: len(through)] != through:
            raise InputError(
                "the chat template writes a conversation otherwise once it goes further, so that"
                " the assistant's tokens cannot be found; use a template that marks them"
                " ({% generation %}), or conversations of one answer"
            )
        mask[len(start) : len(through)] = [True] * (len(through) - len(start))
    return tokens, mask


def _apply(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=True, return_dict=True, **options
        )
    except Exception as error:  # Templates raise what they like.
        raise InputError(f"the chat template refuses it: {first_line(error)}") from error


def read_messages(value: Any) -> list[dict[str, str]]:
    """Return messages with their roles and contents.

    Raises:
        InputError: If it is not a list of messages, or none is the assistant's.
    """
    rows = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
    messages = [
        {"role": row["role"], "content": row["content"]}
        for row in rows
        if isinstance(row, Mapping)
        and isinstance(row.get("role"), str)
        and isinstance(row.get("content"), str)
    ]
    if not rows or len(messages) < len(rows):
        raise InputError(
            "messages must be a list of objects with the texts 'role' and 'content', not"
            f" {str(value)[:80]!r}"
        )
    if all(message["role"] != _ASSISTANT for message in messages):
        roles = sorted({message["role"] for message in messages})
        raise InputError(f"no message has the role 'assistant'; the roles are {roles}")
    return messages
