"""The command line, run in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from qsearch.cli import main as cli


class Done(NamedTuple):
    """What a command came to."""

    code: int
    output: str
    errors: str

    def refused(self) -> str:
        """Require that input was refused in one line; return it."""
        assert self.code == 2, self.errors
        assert self.errors.startswith("qsearch: ")
        assert self.errors.count("\n") == 1
        assert "Traceback" not in self.errors
        return self.errors


@pytest.fixture
def qsearch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    def call(*arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", ["qsearch", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        code = 0
        try:
            cli.main()
        except SystemExit as caught:
            code = caught.code if isinstance(caught.code, int) else 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Done(code, *capsys.readouterr())

    return call
