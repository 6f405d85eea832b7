"""What runs in a Ray worker: one function, whose news go home one by one.

Ray imports this module on the machine that a task goes to, where clipperf must be installed.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

from clipperf.errors import ClipperfError

Tell = Callable[[Any], None]
_AT_END: list[Callable[[], object]] = []

ROOM = 4
"""News that wait in a process that is kept, and as many of it on their way, before it waits."""

News = tuple[Literal["begun", "told", "done", "failed", "broken"], Any]
"""What crosses: a task has begun, something that it tells, what it returns, or how it failed."""


def perform(function: Callable[..., Any], args: tuple[Any, ...], room: int = 0) -> Iterator[News]:
    """Call ``function(tell, *args)`` and yield its news as they come; the last one is its end.

    With `room` no more than so many wait to be taken: whoever tells waits, too. With 0 any number.
    It runs in a thread of its own, which lives as long as the call: processes that it starts die
    with that thread, and so with the worker.
    """
    news: queue.Queue[News] = queue.Queue(room)

    def work() -> None:
        try:
            done = function(lambda told: news.put(("told", told)), *args)
        except ClipperfError as exc:
            news.put(("failed", exc))
        except BaseException:  # noqa: BLE001 - whoever waits at home is told
            news.put(("broken", traceback.format_exc()))
        else:
            news.put(("done", done))

    yield "begun", None
    threading.Thread(target=work, daemon=True).start()
    while True:
        each = news.get()
        yield each
        if each[0] != "told":
            return


class Kept:
    """A process that stays for more than one call, with what they have opened in it."""

    def perform(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Iterator[News]:
        """See `perform`; what is slow at home makes it wait."""
        yield from perform(function, args, ROOM)

    def leave(self) -> None:
        """Clean up, also while a call is at work: the process is about to be ended."""
        while _AT_END:
            _AT_END.pop()()


def at_end(call: Callable[[], object]) -> None:
    """Have something called before this process is ended, where it is one that is kept."""
    _AT_END.append(call)
