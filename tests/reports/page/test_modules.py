"""The page's scripts: ES modules that become one text."""

from __future__ import annotations

from pathlib import Path

import pytest
from qsearch_reports.page.modules import SCRIPTS, join_modules


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.js").write_text("export const base = 1;\n\nfunction own() {}\n")
    (tmp_path / "left.js").write_text(
        'import { base } from "./base.js";\n\nexport async function left() {\n  return base;\n}\n'
    )
    return tmp_path


def test_a_module_comes_once_and_after_what_it_imports(folder: Path) -> None:
    (folder / "main.js").write_text(
        'import { base } from "./base.js";\nimport { left } from "./left.js";\n\nleft(base);\n'
    )
    assert join_modules("main.js", "left.js", folder=folder) == (
        "const base = 1;\n\nfunction own() {}\n\n"
        "async function left() {\n  return base;\n}\n\nleft(base);\n"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('import { own } from "./base.js";\n', r"main.js imports \['own'\], which base.js has not"),
        ('import { base } from "./base.js";\nlet own;\n', "both base.js and main.js declare own"),
        ('import { main } from "./main.js";\n', "each other: main.js -> main.js"),
        ('import base from "./base.js";\n', "main.js: cannot join 'import base"),
        ("export default 1;\n", "main.js: cannot join 'export default 1;'"),
    ],
)
def test_what_cannot_be_joined_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "main.js").write_text(text)
    with pytest.raises(ValueError, match=message):
        join_modules("main.js", folder=folder)


def test_every_script_belongs_to_a_page() -> None:
    joined = [join_modules(entry) for entry in ("report.js", "index.js", "live.js")]
    for path in SCRIPTS.iterdir():
        last = path.read_text(encoding="utf-8").rstrip().splitlines()[-3:]
        assert any("\n".join(last).replace("export ", "") in text for text in joined), path.name
