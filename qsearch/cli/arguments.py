"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Argument(help="A study YAML.", metavar="STUDY.yaml")]
StudyDirectory = Annotated[Path, typer.Argument(help="A study's directory.", metavar="DIR")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field: section.field=value.", metavar="FIELD=VALUE"),
]
FromRecipe = Annotated[
    list[Path] | None,
    typer.Option(
        help="A recipe of another tool, whose configuration joins the first set; as"
        " search.recipes.",
        metavar="FILE",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StorageUrl = Annotated[
    str | None, typer.Option("--storage", help="Database URL; a file in DIR if omitted.")
]

# Which configuration a command is for; see qsearch.deployment.criteria.

Bits = Annotated[float | None, typer.Option("--bits", help="Budget in average bits.", min=0.0)]
Bytes = Annotated[
    str | None, typer.Option("--bytes", help="Budget of the weight files, such as 60MB.")
]
Memory = Annotated[
    str | None, typer.Option("--memory", help="Budget of the memory that running takes.")
]
Tokens = Annotated[
    int | None, typer.Option("--tokens", help="For --memory: length of a sequence.", min=1)
]
Trial = Annotated[
    int | None,
    typer.Option("--trial", help="A trial of the last finished round, by its number.", min=0),
]
MaxKl = Annotated[
    float | None, typer.Option("--max-kl", help="Limit of kl: short for --max kl=VALUE.")
]
MinAccuracy = Annotated[
    float | None,
    typer.Option("--min-accuracy", help="Limit of accuracy: short for --min accuracy=VALUE."),
]
Maxima = Annotated[
    list[str] | None,
    typer.Option("--max", help="Greatest value of a metric.", metavar="METRIC=VALUE"),
]
Minima = Annotated[
    list[str] | None,
    typer.Option("--min", help="Least value of a metric.", metavar="METRIC=VALUE"),
]
Within = Annotated[
    str | None,
    typer.Option(
        "--within",
        help="The smallest whose 95 % interval is within this share of the loss, such as 1%.",
        metavar="SHARE",
    ),
]
TokensPerSecond = Annotated[
    float | None,
    typer.Option(
        "--tokens-per-second",
        help="Tokens that it generates a second at least, as measure-speed predicts.",
        min=0.0,
    ),
]
Sweep = Annotated[
    str | None,
    typer.Option("--sweep", help="Several budgets in average bits.", metavar="BITS,BITS,…"),
]
