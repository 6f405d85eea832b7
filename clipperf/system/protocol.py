"""The one protocol of parents and children, and the child's side of it.

Messages are one JSON object a line:

- to the child: ``op``, the name of one of its operations, and the operation's fields,
- to the parent: ``status`` and, for "ok", the ``answer``; for "progress", what is told on the way
  to an answer; for "failed", the ``error`` and its ``kind``, a class of `clipperf.errors` or "".

The child greets first, then answers each message in the order they came, and ends where its input
does. It moves the protocol from standard input and output to descriptors of its own: a library
that prints lands in standard error, one that reads finds nothing. The parent's side is
`system.child.Child`.
"""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from clipperf import errors
from clipperf.errors import ClipperfError
from clipperf.serialize import to_json
from clipperf.system import extras
from clipperf.system.processes import die_with_parent, prefer_as_victim, protocol_streams
from clipperf.system.quiet import hush_openvino

ERROR_CHARACTERS = 2000

Fields = dict[str, Any]
Tell = Callable[[Any], None]
"""Takes what an operation tells on its way: anything that `to_json` turns into JSON values."""
Operation = Callable[[Fields, Tell], Any]
"""Takes the fields of its message; returns its answer, a record or a mapping, None for {}."""


def serve(
    operations: Mapping[str, Operation],
    *,
    greeting: Callable[[], Any] = lambda: None,
    at_end: Callable[[], None] = lambda: None,
    goes_on: bool = False,
) -> int:
    """Answer the parent's messages until the end of input or an error; returns the exit code.

    `greeting` makes the first answer, `at_end` closes what the operations hold. Where the child
    `goes_on`, an error that clipperf raises on purpose, or has words for
    (`extras.told`), is an answer like others; any other ends it in any case, once it is told.
    """
    # The parent is the one that Ctrl-C is for; it ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hush_openvino()
    die_with_parent()
    prefer_as_victim()
    messages, answers = protocol_streams()

    def say(message: Fields) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    def told(value: Any) -> None:
        say({"status": "progress", "progress": to_json(value)})

    def run(op: str, fields: Fields) -> Any:
        return operations[op](fields, told)

    def outcome(operation: Callable[[], Any]) -> bool:
        """Run and answer; whether the child can go on."""
        try:
            answer = to_json(operation() or {})
        except Exception as exc:  # noqa: BLE001 - a library may raise anything
            known = exc if isinstance(exc, ClipperfError) else extras.told(exc)
            if known is not None:
                say({"status": "failed", "error": str(known), "kind": own_kind(known)})
                return goes_on
            traceback.print_exc()
            text = f"{type(exc).__name__}: {exc}"[:ERROR_CHARACTERS]
            say({"status": "failed", "error": text, "kind": ""})
            return False
        say({"status": "ok", "answer": answer})
        return True

    # What was printed to the parent's pipe before now may lack its line's end.
    answers.write("\n")
    try:
        if not outcome(greeting):
            return 1
        for line in messages:
            fields = json.loads(line)
            if not outcome(partial(run, fields.pop("op"), fields)):
                return 1
        return 0
    finally:
        at_end()


def own_kind(error: ClipperfError) -> str:
    """The name of an error's class, or of the nearest one above it that clipperf has itself."""
    kinds = [kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind]
    return kinds[0].__name__
