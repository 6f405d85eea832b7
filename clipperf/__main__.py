"""The console script, and ``python -m clipperf``: errors become one line and an exit code."""

from __future__ import annotations

import os
import sys

# All else is imported when the working directory is forgotten.


def _end_politely() -> None:
    """End by SIGTERM, and by the SIGHUP of a terminal that is gone, as by Ctrl-C.

    Staging folders are removed and children ended on the way out.
    """
    import signal

    signals = [signal.SIGTERM, *([] if sys.platform == "win32" else [signal.SIGHUP])]

    def end(number: int, frame: object) -> None:
        del frame
        for other in signals:  # a second one must not stop the cleaning up
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in signals:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it
            signal.signal(number, end)


def _forget_working_directory() -> None:
    """Import nothing from the working directory, where a file may be called as a module is.

    Python puts it first for ``python -m``, and takes an empty part of PYTHONPATH for it.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib could be a file there
    except FileNotFoundError:  # it was removed
        return
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not sys.flags.safe_path and __name__ == "__main__" and sys.path[:1] == [here]:
        del sys.path[0]
    if "" in named and here not in named and here in sys.path[: len(named)]:
        sys.path.remove(here)


def main() -> None:
    """The console script: every error becomes one line and an exit code."""
    _forget_working_directory()
    _end_politely()
    from typing import Any

    import typer

    from clipperf.cli import app
    from clipperf.errors import ClipperfError

    # UsageError of the click that typer brings: unknown command, missing argument, bad number.
    ParserError: Any = typer.BadParameter.__base__
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
