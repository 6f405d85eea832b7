"""Packages of one module with entry points, as pip would leave them in a folder."""

from __future__ import annotations

from pathlib import Path


def write_package(site: Path, name: str, code: str, points: str) -> None:
    """Put a package into `site`; `points` is the text of its `entry_points.txt`."""
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / f"{name}.py").write_text(code)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(points)
