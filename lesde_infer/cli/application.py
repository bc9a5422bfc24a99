"""What every command has in common: how it is called, and how it fails."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from data_tools.errors import InputError
from lesde_infer.cli import (
    calibrate_command,
    compare_command,
    demo,
    fit_commands,
    forecast_command,
    geometry_command,
    inspection,
    moments_command,
    recording_commands,
    recover_command,
    reduce_command,
    report_command,
    select_command,
    watch_command,
)
from lesde_infer.cli.console import printable
from lesde_infer.cli.failure import BAD_INPUT, FAILURE, INTERRUPTED, CommandError, is_failed_computation

DEBUG_VARIABLE = "LESDE_DEBUG"

app = typer.Typer(
    name="lesde",
    help="Is a network locally elastic, and will its features separate? Record it, fit the LE-SDE, see for yourself.",
    epilog="Exit codes: 0 success, 1 failed computation, 2 bad input.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (
    demo,
    recording_commands,
    inspection,
    recover_command,
    reduce_command,
    geometry_command,
    fit_commands,
    forecast_command,
    compare_command,
    calibrate_command,
    moments_command,
    select_command,
    watch_command,
    report_command,
):
    module.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lesde-infer {version('lesde-infer')}")
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the name of the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors become one line on standard error.

    Parameters
    ----------
    arguments : sequence of str, optional
        What comes after ``lesde``; by default the arguments of the process.

    Returns
    -------
    int
        0 on success, 1 if a computation failed, 2 on bad input, 130 if interrupted. Unforeseen errors give 1; set the
        environment variable ``LESDE_DEBUG`` to see where they come from.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(given, prog_name="lesde", standalone_mode=False)
    except typer.TyperException as error:  # a command line that makes no sense
        return _fail(f"{error.format_message().rstrip('.')} (see lesde --help)", error.exit_code)
    except InputError as error:
        return _fail(str(error), BAD_INPUT)
    except CommandError as error:
        return _fail(str(error), FAILURE)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it flushes on leaving.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror or error}", FAILURE)
    except MemoryError:
        return _fail("not enough memory; record fewer samples, or fit fewer steps with --until", FAILURE)
    except Exception as error:
        if is_failed_computation(error):
            return _fail(str(error), FAILURE)
        if os.environ.get(DEBUG_VARIABLE):
            raise
        return _fail(
            f"unforeseen {type(error).__name__}: {error}; please report it, with what {DEBUG_VARIABLE}=1 shows", FAILURE
        )
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"lesde: {printable(message)}", file=sys.stderr)
    return code
