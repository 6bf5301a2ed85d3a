"""What a task knows of its data before any long work: an optional capability."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsDataWarnings(Protocol):
    """Optional for tasks. With it, commands say what limits results before any long work."""

    def data_warnings(self) -> tuple[str, ...]:
        """Read the data that are on this machine, and return sentences for the user.

        Such as that training and validation data overlap, or that examples are few. No model is
        loaded for it, and it comes before all long work.

        Raises:
            InputError: If no result on these data would mean anything.
        """
        ...
