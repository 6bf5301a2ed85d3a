"""Text that tables and files can hold."""

from __future__ import annotations


def whole_text(value: object) -> str:
    """Return a value as text; halves of characters, which UTF-8 has not, are question marks.

    Names of files, and escapes in JSON and YAML, may hold such halves; pandas refuses them.
    """
    return str(value).encode("utf-8", "replace").decode()
