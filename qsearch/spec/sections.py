"""Sections of a study YAML: the model, plugins and the space."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from qsearch.space.configuration import KnobValue
from qsearch.space.layers import FUSED_ROLES


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Number = Annotated[float, BeforeValidator(_not_bool)]
"""A number, also as text, since an environment variable is text; true is not a number."""


def _knob_value(value: object) -> object:
    if type(value) not in (int, str):
        raise ValueError("must be an integer or a text")
    return value


REMOTE_CODE = "run code that comes with the model"
"""What a study must say to run code of its model: a sentence, which nobody writes by accident."""


OBJECTIVE = "objective"
"""Task and trainer of a study whose loss is that of a Python function."""


class ModelSpec(BaseModel):
    """Which model a study quantizes, and which of its linear layers.

    Args:
        name: A folder, a hub name, a ``.gguf`` file, or ``package:MODULE/PATH`` for a folder
            or file inside an installed Python package.
        layers: Shell patterns of module paths; a layer is quantizable when one matches.
        config: Transformers configuration fields (with ``model_type``), used to count layers
            when the model itself cannot be reached.
        revision: Branch, tag or commit of a hub model; a commit where ``remote_code`` is given.
        remote_code: :data:`REMOTE_CODE`, to let code of the model run with the user's rights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    layers: tuple[str, ...] = ("*",)
    config: dict[str, Any] | None = None
    revision: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$")
    remote_code: Literal["run code that comes with the model"] | None = None

    @field_validator("revision")
    @classmethod
    def _revision(cls, value: str | None) -> str | None:
        # It is part of a path in the hub's cache.
        if value is not None and ".." in value:
            raise ValueError("must be a branch, a tag or a commit")
        return value


class PluginSpec(BaseModel):
    """A plugin by name; all other fields are its own options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """The plugin's options, not yet validated by it."""
        return dict(self.model_extra or {})


class SpaceSpec(BaseModel):
    """How the space is built.

    Args:
        tied: ``fused`` ties the roles that inference engines fuse (query, key and value; gate
            and up); a list of role lists ties those; ``none`` ties nothing.
        embeddings: Whether the token embedding and the output head are layers too. A head that is
            tied to the embedding is one layer with it.
        fixed: Layer configurations by shell pattern of layer names. Layers that match are pinned:
            they are quantized so in every configuration, and not searched. The first pattern that
            matches a layer counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tied: Literal["none", "fused"] | tuple[tuple[str, ...], ...] = "none"
    embeddings: bool = False
    fixed: dict[str, dict[str, Annotated[KnobValue, BeforeValidator(_knob_value)]]] = {}

    @property
    def fused_roles(self) -> tuple[tuple[str, ...], ...]:
        """Sets of roles that are tied within a block."""
        if self.tied == "none":
            return ()
        return FUSED_ROLES if self.tied == "fused" else tuple(self.tied)
