"""Commands before a run: ``init``, ``check`` and ``plugins``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.arguments import Assignments, FromRecipe, StudyFile
from qsearch.cli.console import SafeConsole, label_table, print_line, print_table
from qsearch.errors import InputError


def init(
    template: Annotated[str, typer.Argument(help="Name of a ready study.")] = "quickstart",
    out: Annotated[
        Path | None, typer.Option(help="File to write; TEMPLATE.yaml if omitted.")
    ] = None,
) -> None:
    """Write a study YAML to start from."""
    from qsearch.spec.templates import read_template
    from qsearch.storage.files import cannot_write

    text = read_template(template)
    target = out or Path(f"{template}.yaml")
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise InputError(f"{target} exists; give another file by --out") from error
    except OSError as error:
        raise cannot_write(target, error) from error
    print_line(f"wrote {target}; next: qsearch check {target}")


def check(
    study: StudyFile,
    set_: Assignments = None,
    from_recipe: FromRecipe = None,
    format_: Annotated[
        list[str] | None,
        typer.Option("--format", help="Refuse what this export format could not hold."),
    ] = None,
) -> None:
    """Validate a study; print its layers, space size, and estimated memory and time."""
    from qsearch.spec.study_spec import with_recipes
    from qsearch.storage.directory import load_study_file
    from qsearch.study.checking import check_study

    spec = with_recipes(load_study_file(study, set_ or ()), from_recipe or ())
    lines = check_study(spec, str(study), format_ or ())
    SafeConsole().print(label_table(lines))


def plugins() -> None:
    """List installed quantizers, trainers, tasks, exporters, loggers, and their packages."""
    from qsearch.plugins.registry import Group, installed_plugins

    groups: tuple[Group, ...] = ("quantizers", "trainers", "tasks", "exporters", "loggers")
    rows = (
        (group[:-1], plugin.name, plugin.target, plugin.distribution)
        for group in groups
        for plugin in installed_plugins(group)
    )
    print_table(("kind", "name", "class", "from"), rows)
