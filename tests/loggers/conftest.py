"""The fake study, for loggers."""

from __future__ import annotations

from tests.engine.conftest import fake_plugins

__all__ = ["fake_plugins"]
