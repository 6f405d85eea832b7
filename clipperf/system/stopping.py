"""Ctrl-C, once for an end at the next good place, twice for one now."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from clipperf.system.terminal import say_at_once


class Stopping:
    """While its ``with`` block runs, the first Ctrl-C is noted and told; the next one is as ever.

    Where whoever started the command has it ignore Ctrl-C, it does.
    """

    def __init__(self, text: str) -> None:
        self.asked = False
        self._text = text
        self._before: Any = None

    def __enter__(self) -> Self:
        own = threading.current_thread() is threading.main_thread()
        if own and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._restore()

    def pass_on(self) -> None:
        """End as Ctrl-C ends a command, once the work is finished."""
        self._restore()
        signal.raise_signal(signal.SIGINT)

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()
        say_at_once(self._text)

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
