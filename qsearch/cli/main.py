"""The command line: its commands and exit codes.

Heavy imports happen in the commands that need them, so all start fast.
"""

from __future__ import annotations

import signal
import sys
import warnings

import typer

from qsearch.cli import (
    deploy_commands,
    evaluate_command,
    report_command,
    run_command,
    setup_commands,
    share_commands,
    speed_command,
    watch_commands,
)
from qsearch.cli.console import fail, write_any_character
from qsearch.errors import InputError, QsearchError

app = typer.Typer(
    help="Search quantization configurations; train one adapter for all of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(setup_commands.init)
app.command()(setup_commands.check)
app.command()(run_command.run)
app.command()(watch_commands.status)
app.command()(watch_commands.serve)
app.command()(report_command.report)
app.command()(deploy_commands.pick)
app.command(cls=deploy_commands.ExportCommand)(deploy_commands.export)
app.command()(evaluate_command.evaluate)
app.command("measure-speed")(speed_command.measure_speed)
app.command("list")(share_commands.list_studies)
app.command()(share_commands.index)
app.command()(share_commands.archive)
app.command()(share_commands.restore)
app.command()(setup_commands.plugins)


def main() -> None:
    """Run the command line: 0 done, 2 bad input, 1 failure, 130 interrupted."""
    if not sys.warnoptions:
        # Deprecations inside Ax, SQLAlchemy or transformers are not the user's to act on.
        warnings.simplefilter("ignore")
    # Shells start background jobs with interrupts ignored; a study must still stop cleanly.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    write_any_character()
    try:
        app()
    except InputError as error:
        sys.exit(fail(str(error), 2))
    except QsearchError as error:
        sys.exit(fail(str(error), 1))
    except OSError as error:
        sys.exit(fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1))
