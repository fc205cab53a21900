"""The command ``metasearch``: thin commands over the Python API.

Nothing here imports a heavy library before a command needs it, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

from metasearch.cli.parser import parser
from metasearch.core.errors import ConfigError, MetasearchError

__all__ = ["INTERRUPTED", "main"]

INTERRUPTED = 130
"""What shells expect of a command that Ctrl-C ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: those of the command line; None takes the process's own.

    Returns:
        The exit status: 0, 1 for a failure, 2 for a mistake in the command or the experiment, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters shows a question mark
    commands = parser()
    given = commands.parse_args(arguments)
    if "handler" not in given:
        commands.print_help()
        return 2
    module, function = given.handler
    debug = getattr(given, "debug", False)
    try:
        status: int = getattr(importlib.import_module(f"metasearch.cli.{module}"), function)(given)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        print("metasearch: stopped", file=sys.stderr)
        return INTERRUPTED
    except MetasearchError as error:
        if debug:
            traceback.print_exc()
        print(f"metasearch: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:
        # The reader has gone (`| head`); the interpreter must not fail again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
