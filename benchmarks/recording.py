"""What every benchmark writes: claims with targets, rows, and the machine they were measured on."""

from __future__ import annotations

import argparse
import html
import json
import math
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go
import torch

RESULTS = Path(__file__).parent / "results"

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em }}
td, th {{ text-align: left; padding: .2em 1em .2em 0 }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""


def _commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return shown.stdout.strip() or "unknown"


COMMIT = _commit()
"""The commit whose code runs, marked where files differ from it; asked before files can change."""


def only_recorded(description: str | None) -> bool:
    """Read the command line of a benchmark that keeps its evaluations; silence warnings.

    Args:
        description: What its ``--help`` says.

    Returns:
        Whether to report what is recorded and evaluate nothing.
    """
    return bool(_command_line(description).parse_args().recorded)


def parts_to_measure(description: str | None, parts: Collection[str]) -> Collection[str]:
    """Read the command line of a benchmark of several parts; silence warnings.

    Args:
        description: What its ``--help`` says.
        parts: Their names.

    Returns:
        What to measure: what is named, or else all; nothing if recorded values are enough.
    """
    parser = _command_line(description)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    return () if arguments.recorded else arguments.parts or parts


def _command_line(description: str | None) -> argparse.ArgumentParser:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--recorded", action="store_true", help="evaluate nothing")
    return parser


@dataclass(frozen=True)
class Claim:
    """A value with its target.

    Args:
        claim: What is claimed.
        value: What was measured.
        target: What was aimed at; None where there is nothing to compare with.
        better: Whether higher or lower is better.
    """

    claim: str
    value: float
    target: float | None
    better: Literal["higher", "lower"]

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


@dataclass
class Benchmark:
    """Collects claims and rows, and writes ``results/NAME.json``.

    Args:
        name: The file's name.
        command: What measures it; by default ``make bench-NAME``.
        claims: The values that have a target.
        rows: All values.
    """

    name: str
    command: str | None = None
    claims: list[Claim] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def claim(
        self, claim: str, value: float, target: float | None, better: Literal["higher", "lower"]
    ) -> None:
        """Record and print a claim."""
        entry = Claim(claim, value, target, better)
        self.claims.append(entry)
        verdict = {True: "met", False: "MISSED", None: ""}[entry.met]
        print(f"{claim}: {value:.4g} (target {target}) {verdict}", flush=True)

    def row(self, **values: Any) -> None:
        """Record and print a row."""
        self.rows.append(values)
        print("  " + ", ".join(f"{key} {value}" for key, value in values.items()), flush=True)

    def write_page(
        self, figures: Sequence[go.Figure], tables: Mapping[str, pd.DataFrame] | None = None
    ) -> None:
        """Write ``results/NAME.html``, one page without links: figures, claims and tables.

        Args:
            figures: What is drawn.
            tables: Tables by title.
        """
        RESULTS.mkdir(exist_ok=True)
        sections = [
            figure.to_html(full_html=False, include_plotlyjs=number == 0)
            for number, figure in enumerate(figures)
        ]
        claims = pd.DataFrame([{**asdict(one), "met": one.met} for one in self.claims])
        for title, table in {"claims": claims, **(tables or {})}.items():
            body = table.to_html(index=False, float_format="{:.4g}".format, na_rep="–", border=0)
            sections.append(f"<h2>{html.escape(title)}</h2>\n{body}")
        page = _PAGE.format(title=html.escape(self.name), body="\n".join(sections))
        (RESULTS / f"{self.name}.html").write_text(page, encoding="utf-8")

    def write(self) -> Path:
        """Write the result file."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        result = {
            "benchmark": self.name,
            "command": self.command or f"make bench-{self.name}",
            "commit": COMMIT,
            "machine": machine(),
            "claims": [
                {**asdict(claim), "value": _known(float(f"{claim.value:.4g}")), "met": claim.met}
                for claim in self.claims
            ],
            "rows": [{key: _known(value) for key, value in row.items()} for row in self.rows],
        }
        text = json.dumps(result, indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {path}")
        return path


def fill_table(path: Path, benchmark: str, lines: Sequence[str]) -> None:
    """Put a benchmark's table between its marks in a page of the documentation.

    Args:
        path: The page.
        benchmark: Name of the benchmark.
        lines: The table.

    Raises:
        ValueError: If the page has no such marks.
    """
    start, end = f"<!-- table of bench-{benchmark} -->", "<!-- end of table -->"
    head, found, rest = path.read_text(encoding="utf-8").partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no line {start}, or none {end} after it")
    path.write_text("\n".join([head + start, *lines, end + tail]), encoding="utf-8")


def _known(value: Any) -> Any:
    """Return None instead of a number that is not finite, which JSON cannot say."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine() -> dict[str, Any]:
    """Return what this machine is, and how busy."""
    processor = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        models = [line for line in information.read_text().splitlines() if "model name" in line]
        processor = models[0].partition(":")[2].strip() if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
