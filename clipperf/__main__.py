"""The console script, and ``python -m clipperf``: errors become one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import typer

from clipperf.cli import app
from clipperf.errors import ClipperfError
from clipperf.system.quiet import hush

ParserError: Any = typer.BadParameter.__base__
"""UsageError of the click that typer brings: unknown command, missing argument, bad number."""


def _terminate(number: int, frame: object) -> None:
    """End as Ctrl-C does: staging folders are removed and children ended on the way out."""
    del frame
    raise SystemExit(128 + number)


def main() -> None:
    """The console script: every error becomes one line and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    hush()
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except ClipperfError as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except ParserError as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":
            exc.show()
        else:
            command = exc.ctx.command_path if exc.ctx else "clipperf"
            said = exc.format_message().rstrip(".")
            print(f"error: {said}. See: {command} --help", file=sys.stderr)
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # The reader of a pipe has gone, as with `| head`; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    if code == 130:
        print("interrupted", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
