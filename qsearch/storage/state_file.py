"""State as JSON files: any dataclass, with a checksum, written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from qsearch.storage.bounded_reading import MAX_STATE
from qsearch.storage.checksums import BLANK, CHECKSUM, damage, read_checked, with_checksum
from qsearch.storage.files import write_bytes

T = TypeVar("T")


@dataclass(frozen=True)
class StateFile(Generic[T]):
    """How values of a dataclass, whose annotations say what is allowed, are kept in files.

    NaN and infinity are kept as such.
    """

    kind: type[T]

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.kind)  # Costly, so not before it is needed.

    def write(self, path: Path, value: T) -> None:
        """Write a value into a file whose directory exists."""
        fields = {CHECKSUM: BLANK, **self._adapter.dump_python(value, mode="json")}
        write_bytes(path, with_checksum(json.dumps(fields, indent=1).encode() + b"\n"))

    def read(self, path: Path) -> T:
        """Return the value in a file; DamagedFileError if it is not what was written."""
        content = read_checked(path, MAX_STATE)
        with damage(path, ValueError, RecursionError):
            fields = json.loads(content, parse_int=_table_integer)
            del fields[CHECKSUM]
            try:
                return self._adapter.validate_json(json.dumps(fields), strict=True, extra="forbid")
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(map(str, first["loc"])) or "its content"
                raise ValueError(f"{place}: {first['msg']}") from error


def _table_integer(digits: str) -> int:
    """Refuse an integer that neither tables nor browsers can hold; nothing here counts so far."""
    if abs(int(digits)) >= 2**53:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)
