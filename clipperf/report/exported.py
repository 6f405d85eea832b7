"""What `clipperf export` prints about an artifact folder."""

from __future__ import annotations

from clipperf import units
from clipperf.export.deployment import LaidOut
from clipperf.export.folder import Exported
from clipperf.nouns.artifact import Artifact
from clipperf.report.inspection import shape_text


def failed(exported: Exported) -> bool:
    """Whether a tower was kept although it failed the parity gate."""
    return any(t.parity is not None and not t.parity.passed for t in exported.manifest.towers)


def exported_lines(exported: Exported) -> list[str]:
    """The folder, and one line per tower: size, shape, build time, parity."""
    manifest = exported.manifest
    mark = " (random weights: for sizing only)" if manifest.spec.random_weights else ""
    state = "up to date" if exported.up_to_date else f"exported {' and '.join(exported.built)}"
    said = [f"{manifest.spec.id}{mark} {manifest.precision}: {state}"]
    if exported.replaced is not None:
        said.append(f"  in the place of {exported.replaced}, which was there")
    for tower in manifest.towers:
        given, produced = tower.inputs[0], tower.outputs[0]
        parity = tower.parity
        verdict = _unchecked(tower)
        if parity is not None:
            word = "parity ok" if parity.passed else "PARITY FAILED"
            verdict = (
                f"{word}: min cosine {parity.min_cosine:.6f}, "
                f"max difference {parity.max_abs_diff:.1e}"
            )
        said.append(
            f"  {tower.path}  {units.size(tower.disk_bytes)}  "
            f"{given.name} {given.dtype} {shape_text(given.shape)} -> "
            f"{produced.name} {shape_text(produced.shape)}  "
            f"built in {units.seconds(tower.build_s)} ({units.size(tower.peak_rss_bytes)} peak)  "
            f"{verdict}"
        )
        if tower.findings:
            said.append("    " + "; ".join(f"{k}: {v}" for k, v in tower.findings.items()))
    method = manifest.preprocess.get("method", "exact")
    if method != "exact":
        said.append(f"  images preprocessed by {method!r}")
    return [*said, f"folder: {exported.folder}"]


def _unchecked(tower: Artifact) -> str:
    """Why a tower has no parity: the GPU that its engine is for was not there."""
    if "targets" not in tower.options:
        return "parity not checked on this machine"
    kinds = tower.options["targets"].split(",")
    choice = " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
    return f"parity not checked: needs a {choice} GPU"


def laid_out_lines(laid: LaidOut) -> list[str]:
    """A folder in another program's layout, and its files with their sizes."""
    record = laid.record
    mark = " (random weights: for sizing only)" if record.spec.random_weights else ""
    state = "up to date" if laid.up_to_date else "written"
    said = [f"{record.spec.id}{mark} for {record.layout}, {', '.join(record.precisions)}: {state}"]
    for name in record.files:
        said.append(f"  {name}  {units.size((laid.folder / name).stat().st_size)}")
    return [*said, f"folder: {laid.folder}"]
