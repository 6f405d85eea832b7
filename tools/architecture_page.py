"""`docs/architectures.md` from the outcomes of `try_architectures`, as Markdown."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from architecture_structures import LAYERS, Structure, clip_as_service

from clipperf.nouns.variant import SIDES

Outcome = dict[str, Any]

PACKAGES = ("open_clip_torch", "timm", "transformers", "torch")

HEAD = """# What can be exported

<!-- Written by tools/try_architectures.py; do not edit. -->

Every architecture of open_clip's catalogue ({count} here), tried in fp32 with {versions}. Towers
that differ in sizes only share a structure. The smallest tower of each structure was cut to
{layers} layers where it can be, given seeded random weights, exported to ONNX, and compared with
PyTorch in ONNX Runtime on the CPU. Nothing was downloaded.

*Min cosine* is the worst over 12 inputs at batches 1, 3 and 8, and for texts that may be cut
also of texts cut to 16 tokens; 0.99999 is required. *Most alike* is the largest cosine between
the embeddings of two different inputs: near 1 the comparison could not see an error."""

OTHERS = "<!-- Models that are not open_clip's; what follows tools/try_families.py writes. -->"
"""Where the part of the page begins that `try_families` writes, and a new page keeps."""

SERVICE = (
    "Tag by tag, because a tag decides between GELU and QuickGELU. The table's M-CLIP rows are "
    "at the end of this page."
)

EVERY = (
    "The number is that of the structure in the tables above. Texts may be cut behind their end "
    "token, or behind their last token where the tower hides its padding, which is much faster; "
    "the others are always as long as the model's context. Image towers that were trained with "
    "branches are exported with one convolution in the place of several."
)

TOWERS = ["image tower", "min cosine", "branches", "text tower", "min cosine", "texts are cut"]


def page(found: list[Structure], outcomes: dict[str, Outcome]) -> str:
    """The whole page. `outcomes` has one for each of `found`, by the structure's id."""
    numbers = {
        s.id: f"{side[0].upper()}{n}"
        for side in SIDES
        for n, s in enumerate((s for s in found if s.side == side), 1)
    }
    known = {s.id for s in found}
    speaker = {(s.side, name): s.id for s in found for name in s.members}
    names = sorted({name for _, name in speaker}, key=str.lower)

    def towers(image: str | None, text: str | None) -> list[str]:
        cells = []
        for key in (image, text):
            if key is None or key not in known:
                cells += ["-", "-"]
            else:
                outcome = outcomes[key]
                cells += [f"{outcome['status']} ({numbers[key]})", _cosine(outcome)]
        joined = "joined" if outcomes.get(image or "", {}).get("joined") else "none"
        return [*cells[:2], joined, *cells[2:], _cut(outcomes.get(text or ""))]

    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in PACKAGES)
    head = HEAD.format(count=len(names), versions=versions, layers=LAYERS)
    lines = [head, "", *_summary(found, outcomes)]
    for side in SIDES:
        mine = [s for s in found if s.side == side]
        lines += ["", f"## Structures of {side} towers", ""]
        lines += _structures(mine, outcomes, numbers)
    service = [[alias, *towers(keys["image"], keys["text"])] for alias, keys in clip_as_service()]
    service = [row for row in service if any(cell != "-" for cell in row[1:])]
    if service:
        lines += ["", "## CLIP-as-service's models", "", SERVICE, ""]
        lines += table(["model", *TOWERS], service)
    lines += ["", "## Every architecture", "", EVERY, ""]
    rows = [
        [name, *towers(speaker.get(("image", name)), speaker.get(("text", name)))] for name in names
    ]
    lines += table(["architecture", *TOWERS], rows)
    return "\n".join(lines) + "\n"


def others_of(older: str) -> str:
    """What a page that was written before holds of models that are not open_clip's."""
    _, mark, rest = older.partition(OTHERS)
    return f"\n{mark}{rest}" if mark else ""


def _summary(found: list[Structure], outcomes: dict[str, Outcome]) -> list[str]:
    lines = []
    for side in SIDES:
        mine = [s for s in found if s.side == side]
        good = [s for s in mine if outcomes[s.id]["status"] == "exported"]
        lines.append(
            f"- {side.capitalize()} towers: {_members(good)} of {_members(mine)} architectures "
            f"can be exported ({len(good)} of {len(mine)} structures)."
        )
    return lines


def _members(structures: list[Structure]) -> int:
    return sum(len(s.members) for s in structures)


def _structures(
    mine: list[Structure], outcomes: dict[str, Outcome], numbers: dict[str, str]
) -> list[str]:
    rows = []
    for structure in mine:
        outcome = outcomes[structure.id]
        result = outcome["status"]
        if reason := outcome.get("reason"):
            result += f": {reason}"
        if note := outcome.get("note"):
            result += f"; without network: {note}"
        rows.append(
            [
                numbers[structure.id],
                structure.label,
                str(len(structure.members)),
                ": ".join(filter(None, (structure.smallest, outcome.get("changed")))),
                result,
                _cosine(outcome),
                f"{outcome['most_alike']:.3f}" if "most_alike" in outcome else "-",
                _joined(outcome) if structure.side == "image" else _cut(outcome, why=True),
            ]
        )
    columns = ["", "structure", "architectures", "tried", "result", "min cosine", "most alike"]
    last = "branches" if mine and mine[0].side == "image" else "texts are cut"
    return table([*columns, last], rows)


def _cosine(outcome: Outcome) -> str:
    return f"{outcome['min_cosine']:.7f}" if "min_cosine" in outcome else "-"


def _joined(outcome: Outcome) -> str:
    """In how many parts an export joins branches."""
    count = outcome.get("joined", 0)
    return f"joined in {count} parts" if count else "none"


def _cut(outcome: Outcome | None, why: bool = False) -> str:
    """Where texts may be cut, and with `why` what showed it."""
    if outcome is None or "cut" not in outcome:
        return "-"
    where = cut_words(outcome["cut"])
    return f"{where}: {outcome['why']}" if why and outcome["cut"] != "eot" else where


def cut_words(at: str | None) -> str:
    """Where texts may be cut, in words."""
    return {"eot": "at the end token", "padding": "at padding"}.get(at or "", "no")


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; columns in which no row has anything are left out."""
    used = [i for i in range(len(columns)) if any(row[i] != "-" for row in rows)]
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line[i].replace("|", "\\|") for i in used) + " |" for line in lines]
