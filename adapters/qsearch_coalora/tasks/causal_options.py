"""The options of causal language modelling: which text, or which conversations, and how long."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from qsearch_coalora.tasks.documentation import DocumentationSource
from qsearch_coalora.tasks.sources import SourceOptions
from qsearch_coalora.tasks.splits import MIN_EXAMPLES

_SPLITS = ("train", "validation", "test")


class CausalOptions(SourceOptions):
    """Which text is packed to which length; docs/studies.md has a table of the fields."""

    others: ClassVar[tuple[str, ...]] = ("dataset", "docstrings")

    docstrings: DocumentationSource | None = None
    text: str = "text"
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    length: int = Field(default=512, ge=2)
    train_tokens: int | None = Field(default=None, ge=2)
    validation_tokens: int | None = Field(default=None, ge=2)
    test_tokens: int | None = Field(default=None, ge=2)
    train_examples: int | None = Field(default=None, ge=1)
    validation_examples: int | None = Field(default=None, ge=MIN_EXAMPLES)
    test_examples: int | None = Field(default=None, ge=MIN_EXAMPLES)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of examples that are not packed: messages, or prompt and completion; or none."""
        if self.messages is not None:
            return (self.messages,)
        if self.prompt is not None and self.completion is not None:
            return (self.prompt, self.completion)
        return ()

    @property
    def validation_sequences(self) -> int | None:
        """How many sequences or examples are evaluated, if the options limit them."""
        if self.columns:
            return self.validation_examples
        tokens = self.validation_tokens
        return None if tokens is None else tokens // self.length

    @model_validator(mode="after")
    def _one_kind_of_examples(self) -> CausalOptions:
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion are given together")
        if self.messages is not None and self.prompt is not None:
            raise ValueError("give messages, or prompt and completion")
        if self.columns and self.docstrings is not None:
            raise ValueError("docstrings are text: they have no messages, prompt or completion")
        unit, other = ("examples", "tokens") if self.columns else ("tokens", "examples")
        for split in _SPLITS:
            if getattr(self, f"{split}_{other}") is not None:
                kind = "messages or prompts" if self.columns else "packed text"
                raise ValueError(f"{split}_{other} is not for {kind}: give {split}_{unit}")
        return self

    @model_validator(mode="after")
    def _enough_tokens(self) -> CausalOptions:
        for name, sequences in (("train", 1), ("validation", 2), ("test", 2)):
            tokens, least = getattr(self, f"{name}_tokens"), sequences * self.length
            if tokens is not None and tokens < least:
                raise ValueError(
                    f"{name}_tokens {tokens} must be at least {least}: {sequences} x length"
                )
        return self
