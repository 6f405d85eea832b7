"""Plain text for a terminal, without colour."""

from __future__ import annotations

import io

from clipperf.report.document import Document, describe
from clipperf.report.format import Format
from clipperf.report.terminal import TEXT_WIDTH, bullets, rich_table
from clipperf.text import printable


def render(document: Document) -> str:
    """Plain text, TEXT_WIDTH columns wide; charts are left to HTML."""
    from rich.console import Console, Group, RenderableType
    from rich.text import Text

    def title(text: str) -> Text:
        return Text(text, style="bold")

    parts: list[RenderableType] = [title(printable(document.title)), Text("")]
    parts += [*bullets("+", document.findings), Text("")]
    parts += [rich_table(table) for section in document.sections for table in section.tables]
    parts += [title("Caveats")] if document.caveats else []
    parts += [*bullets("!", document.caveats), Text(""), title("Measured on")]
    parts += bullets("-", [f"{label}: {describe(env)}" for label, env in document.environment])
    parts += bullets(
        "-",
        [f"{s.environment} {s.created_utc} {s.path}: {s.command}" for s in document.provenance],
    )
    buffer = io.StringIO()
    console = Console(file=buffer, width=TEXT_WIDTH, color_system=None, force_terminal=False)
    console.print(Group(*parts))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


FORMAT = Format("text", render)
