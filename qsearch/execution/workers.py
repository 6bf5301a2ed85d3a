"""Workers that evaluate for a study, as data."""

from __future__ import annotations

import os
from dataclasses import dataclass

from qsearch.errors import InputError


@dataclass(frozen=True)
class Workers:
    """Processes that evaluate for a study; each holds the model once.

    Args:
        address: Of a running Ray cluster, such as ``auto`` or ``10.0.0.1:6379``; None starts one on
            this machine for as long as the study runs.
        threads: CPU threads of each; None divides this machine's cores among them, and is one on a
            cluster at an address.
        gpus: GPUs of each, or a part of one.
    """

    count: int = 1
    address: str | None = None
    threads: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"workers: {self.count} are too few; 1 or more are allowed")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads of a worker: {self.threads} are too few; give 1 or more")
        if not 0 <= self.gpus < 1 and not self.gpus.is_integer():
            raise InputError(
                f"GPUs of a worker: {self.gpus:g} is not allowed; give a part of one, or a whole"
                " number"
            )
        if self.gpus < 0:
            raise InputError(f"GPUs of a worker: {self.gpus:g} is not allowed; give 0 or more")

    @property
    def threads_each(self) -> int:
        """CPU threads of each worker."""
        if self.threads is not None or self.address is not None:
            return self.threads or 1
        return max(1, len(os.sched_getaffinity(0)) // self.count)
