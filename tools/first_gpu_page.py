"""The Markdown page of a `first_gpu_run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from first_gpu_aims import aims

Data = dict[str, Any]

REHEARSED = (
    "A rehearsal: the bundled sample in place of the larger models, CPU runtimes, and a simulated "
    "GPU whose CUDA and TensorRT keep the rules. Each row of a table over runtimes says where it "
    "was rehearsed. No figure of it means anything."
)


def page(run: Data) -> str:
    """What was run, on what, how each stage ended, and the figures of each."""
    here = run["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    where = f"{here['machine']}, driver {here['driver']}" if here["driver"] else here["machine"]
    lines = [
        f"# First run on {here['machine']}",
        "",
        f"Begun {run['started']}; {where}; {here['cores']} CPU cores; Python {here['python']}; "
        f"clipperf {here['clipperf']} at {here['commit'] or 'an unknown revision'}; {versions}. "
        "Random weights with a fixed seed. Made by `python tools/first_gpu_run.py`.",
        *(["", REHEARSED] if here["machine"] == "rehearsal" else []),
        *(["", run["note"]] if "note" in run else []),
        "",
        *table(
            ("stage", "how it ended", "s", "why"),
            [
                (name, record["status"], record["seconds"], record["reason"])
                for name, record in run["stages"].items()
            ],
        ),
    ]
    lines += ["", "## Aims", "", *aims_table(run["stages"])]
    for name, record in run["stages"].items():
        shown = SECTIONS.get(name, _rows)(record.get("data") or {})
        if shown:
            lines += ["", f"## {name}", "", *shown]
    return "\n".join(lines) + "\n"


def aims_table(stages: Data) -> list[str]:
    """What was aimed at (docs/tensorrt.md), what was measured of it, and how that ended."""
    return table(
        ("aim", "measured", "outcome", "why"),
        [(one.aim, one.measured, one.outcome, one.why) for one in aims(stages)],
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table; None is an empty cell."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = (
            "" if value is None else str(value).replace("|", "/").replace("\n", " ")
            for value in row
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def table_of(
    header: Sequence[str], rows: Sequence[Data], cells: Callable[[Data], Sequence[Any]]
) -> list[str]:
    """A table with a line for each row; of a rehearsal with where that was rehearsed."""
    if not any("rehearsed" in row for row in rows):
        return table(header, [cells(row) for row in rows])
    return table((*header, "rehearsed"), [(*cells(row), row.get("rehearsed")) for row in rows])


def _rows(data: Data) -> list[str]:
    """The cells of a profile, with each one's speed over PyTorch's in the same precision."""
    rows = [row for row in data.get("rows", ()) if row["status"] == "ok" and "median_ms" in row]
    eager = {
        _place(row): row["median_ms"]
        for row in rows
        if row["runtime"] == "torch" and row["precision"] not in ("fp32", "tf32")
    } or {_place(row): row["median_ms"] for row in rows if row["runtime"] == "torch"}
    return rows and table_of(
        ("tower", "tokens", "batch", "runtime", "precision", "ms", "rows/s", "over torch eager",
         "copy in / compute / out ms", "VRAM MiB", "by"),
        rows,
        lambda row: (
            row["side"], row["tokens"], row["batch"], row["runtime"], row["precision"],
            f"{row['median_ms']:.3f}", f"{row['rows_per_s']:.0f}",
            f"{eager[_place(row)] / row['median_ms']:.2f}" if _place(row) in eager else None,
            _phases(row.get("phases_ms")), _mib(row.get("vram_peak_bytes")),
            row.get("vram_source"),
        ),
    )  # fmt: skip


def _place(row: Data) -> tuple[Any, ...]:
    return row["side"], row["tokens"], row["batch"]


def _phases(phases_ms: Data | None) -> str | None:
    if not phases_ms:
        return None
    return " / ".join(f"{phases_ms.get(name, 0):.3f}" for name in ("h2d", "compute", "d2h"))


def _mib(size: int | None) -> str | None:
    return None if size is None else f"{size / 2**20:.0f}"


def _environment(data: Data) -> list[str]:
    if not data:
        return []
    facts = {**data["machine"], **data.get("nvidia-smi", {})}
    return [
        *table(("", ""), list(facts.items())),
        "",
        *table_of(
            ("runtime", "device", "usable", "detail"),
            data["runtimes"],
            lambda r: (r["runtime"], r["device"], "yes" if r["usable"] else "no", r["detail"]),
        ),
    ]


def _parity(data: Data) -> list[str]:
    rows = data.get("rows", ())
    found = table_of(
        ("runtime", "precision", "tower", "least cosine", "ran in", "error"),
        rows,
        lambda row: (
            row["runtime"], row["precision"], row["side"], _digits(row["cosine"]),
            row.get("provider"), row.get("error"),
        ),
    )  # fmt: skip
    return ["The least cosine with PyTorch in fp32 on the CPU.", "", *found]


def _tests(data: Data) -> list[str]:
    if "closing_line" not in data:
        return []
    return [data.get("closing_line", ""), "", *(f"- {line}" for line in data.get("lines", ()))]


def _memory(data: Data) -> list[str]:
    if "seen_bytes" not in data:
        return []
    known, seen = data["known_bytes"], data["seen_bytes"]
    return [
        f"Of {known / 2**20:.0f} MiB allocated the meter saw {seen / 2**20:.0f} ({data['source']})."
    ]


def _known(data: Data) -> list[str]:
    """Phases and memory, each with what was known of it before."""
    rows = data.get("known", ())
    return rows and table_of(
        ("runtime", "batch", "copy in / compute / out ms", "known before", "whole run ms",
         "weights MiB", "held, by the runtime", "by the meter", "by the device",
         "what does not fit"),
        rows,
        lambda row: (
            row["runtime"], row["batch"], _phases(row["found_ms"]), _phases(row["known_ms"]),
            row["wall_ms"],
            *(_mib(row.get(f"{of}_bytes")) for of in ("weights", "allocated", "seen", "device")),
            "; ".join(row["wrong"]) or None,
        ),
    )  # fmt: skip


def _products(data: Data) -> list[str]:
    rates = data.get("tflop_per_s", {})
    if not rates:
        return []
    return table(("type", f"TFLOP/s at {data.get('size')}"), list(rates.items()))


def _copies(data: Data) -> list[str]:
    rows = data.get("copies", ())
    ways = ("pageable", "in_pieces", "by_threads")
    return rows and table_of(
        ("images", "ms: pageable", "pinned, in pieces", "pinned, by 8 threads"),
        rows,
        lambda row: (row["images"], *(row[way] for way in ways)),
    )


def _graphs(data: Data) -> list[str]:
    rows = data.get("graphs", ())
    return rows and table_of(
        ("tower", "batch", "ms with graphs", "without", "ratio", "largest difference"),
        rows,
        lambda row: (
            row["side"], row["batch"], row["with_ms"], row["without_ms"],
            f"{row['without_ms'] / row['with_ms']:.2f}", row["largest_difference"],
        ),
    )  # fmt: skip


def _markdown(data: Data) -> list[str]:
    return [data["markdown"].strip()] if "markdown" in data else []


def _served(data: Data) -> list[str]:
    rows = data.get("served", ())
    if not rows:
        return []
    found = table_of(
        ("runtime", "precision", "least cosine, one thread", "8 threads", "after too little memory",
         "what that was told as", "calls", "RAM after them MiB", "growth", "growth of VRAM MiB",
         "what is wrong"),
        rows,
        lambda row: (
            row["runtime"], row.get("precision"),
            *(_digits(row.get(name)) for name in ("alone", "threads", "after_it")),
            row.get("without_memory"), row.get("calls"), _mib(row.get("rss_bytes")),
            _percent(row.get("growth")), _mib(row.get("vram_grown_bytes")),
            row.get("wrong") or None,
        ),
    )  # fmt: skip
    return ["The bundled sample beside fp32 on the CPU.", "", *found]


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _eight_bits(data: Data) -> list[str]:
    """The engines' vectors beside PyTorch's, then their times."""
    found = data.get("vectors", ())
    judged = found and [
        "The least cosine of the engine that is measured with PyTorch in fp32 on the CPU.",
        "",
        *table_of(
            ("runtime", "precision", "tower", "least cosine", "asked for", "ok", "error"),
            found,
            lambda row: (
                row["runtime"], row["precision"], row["side"], _digits(row["cosine"]),
                row["least"], row["ok"], row.get("error"),
            ),
        ),
        "",
    ]  # fmt: skip
    return [*judged, *_rows(data)]


def _rescued(data: Data) -> list[str]:
    rows = data.get("rescued", ())
    return rows and table_of(
        ("runtime", "tower", "operators in fp32", "least cosine", "ok", "error"),
        rows,
        lambda row: (
            row["runtime"], row["side"], row["in_fp32"] if row["rescued"] else "as it is",
            _digits(row["cosine"]), row["ok"], row.get("error"),
        ),
    )  # fmt: skip


def _tuned(data: Data) -> list[str]:
    towers = data.get("chosen", {}).get("towers", ())
    return towers and table(
        ("tower", "runtime", "precision", "batch", "streams", "rows/s", "ms a batch"),
        [
            (
                *(tower["cell"][k] for k in ("side", "runtime", "precision", "batch", "streams")),
                f"{tower['items_per_s']:.0f}", f"{1e3 * tower['batch_s']:.2f}",
            )
            for tower in towers
        ],
    )  # fmt: skip


def _structures(data: Data) -> list[str]:
    found = data.get("structures", {})
    return found and table(
        ("structure", "how it ended", "least cosine on the CPU", "in CUDA", "CUDA graphs", "why"),
        [
            (
                name, one["status"], _digits(one.get("min_cosine")),
                _digits(one.get("cuda_min_cosine")), one.get("cuda_graphs"),
                one.get("reason"),
            )
            for name, one in sorted(found.items())
        ],
    )  # fmt: skip


def _digits(value: float | None) -> str | None:
    return None if value is None else f"{value:.7f}"


SECTIONS: dict[str, Callable[[Data], list[str]]] = {
    "environment": _environment,
    "parity": _parity,
    "precisions": _parity,
    "eight-bits": _eight_bits,
    "gpu-tests": _tests,
    "memory": _memory,
    "known": _known,
    "products": _products,
    "copies": _copies,
    "graphs": _graphs,
    "retrieval": _markdown,
    "served": _served,
    "rescue": _rescued,
    "structures": _structures,
    "tuned": _tuned,
}
