"""What all commands have in common: options, and one line for every error."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import click

from gzsurvey.errors import GZSurveyError
from gzsurvey.progress import Progress

Directory = click.Path(path_type=Path, file_okay=False)
File = click.Path(path_type=Path, dir_okay=False)
ExistingFile = click.Path(path_type=Path, dir_okay=False, exists=True)

INTERRUPTED = 130


class Command(click.Command):
    """A command with the options that all commands have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--quiet"], is_flag=True, expose_value=False, callback=_quiet, help="No progress."),
            click.Option(["--debug"], is_flag=True, expose_value=False, callback=_debug, help="Log and tracebacks."),
        ]

    def get_help_option_names(self, _context: click.Context) -> list[str]:
        """Return the names of the option that shows the help."""
        return ["-h", "--help"]


class Group(click.Group):
    """Turns every error into one line and an exit code."""

    command_class = Command
    group_class = type

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; never show a traceback unless asked."""
        signal.signal(signal.SIGTERM, _interrupt)
        kwargs["standalone_mode"] = False
        try:
            super().main(*args, **kwargs)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted; repeat the command to go on", INTERRUPTED)
        except GZSurveyError as error:
            _fail(str(error), error.exit_code)
        except OSError as error:
            _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
        except Exception as error:  # noqa: BLE001 - a user gets one line, whatever happens
            _fail(f"internal error ({type(error).__name__}: {_one_line(error)}); --debug shows where", 1)


def _fail(line: str, code: int) -> None:
    if logging.getLogger("gzsurvey").isEnabledFor(logging.DEBUG):
        traceback.print_exc()
    click.echo(f"gzsurvey: {line}", err=True)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _quiet(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    Progress.quiet = Progress.quiet or value


def _debug(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
        logging.getLogger("gzsurvey").setLevel(logging.DEBUG)


overrides = click.option("--set", "overrides", metavar="SECTION.KEY=VALUE", multiple=True, help="Replace one value.")
device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


def names(text: str | None) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()
