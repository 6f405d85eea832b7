"""The console script, and ``python -m clipperf``: errors become one line and an exit code.

The code is 0 where a command did its work, 1 where it failed, 2 where it was not understood, and
128 + N after signal N. Whether anybody could read what it printed matters to a command that does
nothing else; see `system.terminal`.

Nothing is imported before signals are handled: they may come at any time.
"""

from __future__ import annotations

import os
import sys


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
    if "" in named and here not in named and here in sys.path[: len(named) + 1]:
        sys.path.remove(here)


_forget_working_directory()

import signal  # noqa: E402
import time  # noqa: E402
from types import FrameType  # noqa: E402
from typing import Any  # noqa: E402

ENDINGS = ("SIGINT", "SIGTERM", "SIGHUP")
"""The signals that ask for the end: Ctrl-C, a supervisor's, that of a terminal that closes."""

INTERRUPTED = 128 + signal.SIGINT

AGAIN_S = 0.05
PATIENCE_S = 5.0
"""How long an import may put a signal off."""

_handled: set[int] = set()
_asked: dict[int, float] = {}
"""When a signal came first, by its number; the last one is what ends the command."""


class Ended(SystemExit):
    """A signal has asked for the end.

    It unwinds as Ctrl-C does: staging folders are removed and children ended on the way out.
    """


def _end(number: int, frame: FrameType | None) -> None:
    waited_s = time.monotonic() - _asked.setdefault(number, time.monotonic())
    if _importing(frame) and waited_s < PATIENCE_S and hasattr(signal, "setitimer"):
        # Python and libraries make other errors of what is raised there, or go on without.
        _again(number)
        return
    # A closing terminal sends several, and the next would stop what the first has begun. Ctrl-C is
    # somebody's who no longer wants to wait.
    _handle(signal.SIG_IGN, ENDINGS[1:])
    raise KeyboardInterrupt if number == signal.SIGINT else Ended(128 + number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _again(number: int) -> None:
    """Have a signal come again in a moment."""
    signal.signal(signal.SIGALRM, lambda *ours: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """For when all is done: the interpreter would print a traceback on its way out."""
    os._exit(128 + number)


def _handle(how: Any, names: tuple[str, ...] = ENDINGS) -> None:
    """Handle signals so, but for those that whoever started the command has it ignore."""
    for name in names:
        number = getattr(signal, name, None)  # Windows lacks some
        if number is None:
            continue
        if number in _handled or signal.getsignal(number) != signal.SIG_IGN:
            _handled.add(number)
            signal.signal(number, how)


def _not_lost(unraisable: Any) -> None:
    """Have a signal come again that came where Python can raise nothing, as in a callback."""
    error = unraisable.exc_value
    if isinstance(error, Ended | KeyboardInterrupt) and hasattr(signal, "setitimer"):
        _handle(_end)
        _again(list(_asked)[-1])
    else:
        sys.__unraisablehook__(unraisable)


def main() -> None:
    """The console script."""
    try:
        _handle(_end)
        sys.unraisablehook = _not_lost
        code = _run()
        if code and _asked:  # the signal was taken for an error
            raise Ended(code)
        _handle(_end_at_once)
    except BaseException:
        if not _asked:
            raise
        from clipperf.system.terminal import say

        number = list(_asked)[-1]
        code = 128 + number
        say("interrupted" if code == INTERRUPTED else f"ended by {signal.Signals(number).name}")
    sys.exit(code)


def _run() -> int:
    """Run the command that was typed; returns the exit code, once an error is told."""
    from clipperf.system.quiet import hush
    from clipperf.system.terminal import finish, say, take_over

    hush()
    take_over()
    import typer

    from clipperf.cli import app
    from clipperf.errors import ClipperfError

    # UsageError of the click that typer brings: unknown command, missing argument, bad number.
    parser_error: Any = typer.BadParameter.__base__
    try:
        code = int(app(standalone_mode=False) or 0)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        finish()
    except ClipperfError as exc:
        say(f"error: {exc}")
        return exc.exit_code
    except ModuleNotFoundError as exc:
        from clipperf.system import extras

        missing = extras.told(exc)
        if missing is None:
            raise
        say(f"error: {missing}")
        return missing.exit_code
    except parser_error as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":
            exc.show()
        else:
            command = exc.ctx.command_path if exc.ctx else "clipperf"
            said = exc.format_message().rstrip(".")
            say(f"error: {said}. See: {command} --help")
        return int(exc.exit_code)
    except typer.Abort as exc:  # what others of its versions make of it
        raise KeyboardInterrupt from exc
    return code


if __name__ == "__main__":
    main()
