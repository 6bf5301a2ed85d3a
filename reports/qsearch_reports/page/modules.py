"""The page's scripts: ES modules on disk, one text without imports in the page.

The page is one file whose content policy allows scripts by their hashes and no request, so that
nothing in it can be imported: Chromium would need ``data:`` in the policy, which allows any script.
"""

from __future__ import annotations

import re
from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./([\w-]+\.js)";\n', re.MULTILINE)
_DECLARATION = re.compile(
    r"^(export )?((?:async )?(?:function|const|let|class) (\w+))", re.MULTILINE
)
_LEFT = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def join_modules(*entries: str, folder: Path = SCRIPTS) -> str:
    """Return modules as one text, each once and after those that it imports.

    Imports are ``import { a, b } from "./file.js";`` in one line, exports ``export`` before a
    declaration that begins its line.

    Raises:
        ValueError: If a module imports what is not exported, or itself through others; if two
            declare the same name; or if an import or export has another form.
    """
    texts: dict[str, str] = {}
    exports: dict[str, set[str]] = {}
    owners: dict[str, str] = {}

    def add(name: str, importers: tuple[str, ...] = ()) -> None:
        if name in importers:
            raise ValueError(f"modules import each other: {' -> '.join((*importers, name))}")
        if name in texts:
            return
        text = (folder / name).read_text(encoding="utf-8")
        for names, source in _IMPORT.findall(text):
            add(source, (*importers, name))
            if missing := set(names.split(", ")) - exports[source]:
                raise ValueError(f"{name} imports {sorted(missing)}, which {source} has not")
        declared = _DECLARATION.findall(text)
        for _, _, declaration in declared:
            if (owner := owners.setdefault(declaration, name)) != name:
                raise ValueError(f"both {owner} and {name} declare {declaration}")
        exports[name] = {declaration for export, _, declaration in declared if export}
        body = _DECLARATION.sub(r"\2", _IMPORT.sub("", text))
        if left := _LEFT.search(body):
            raise ValueError(f"{name}: cannot join {left[0]!r}")
        texts[name] = body.strip()

    for entry in entries:
        add(entry)
    return "\n\n".join(texts.values()) + "\n"
