"""A layout of a package that is installed beside clipperf."""

from __future__ import annotations

from pathlib import Path

from conftest import Install
from published_layouts import picture

from clipperf.evals.datasets import load_dataset

TOYS = '''
"""Images whose names say what they show: cat-1.png."""

from clipperf.evals.layout import DEFAULT_TEMPLATES, Content, Layout


def read(place, without):
    images = [place.files[name] for name in place.images if name not in without]
    found = [image.name.partition("-")[0] for image in images]
    names = sorted(set(found))
    labels = [names.index(name) for name in found]
    return Content(images, labels=labels, class_names=names, templates=DEFAULT_TEMPLATES)


LAYOUT = Layout("named", lambda place: all("-" in name for name in place.images), read)
'''


def test_a_layout_from_outside_reads_what_none_of_ours_does(
    install: Install, tmp_path: Path
) -> None:
    install("toys", TOYS, {"clipperf.layout": {"named": "toys:LAYOUT"}})
    (tmp_path / "flat").mkdir()
    for i, name in enumerate(("dog-1.png", "cat-1.png", "dog-2.png")):
        (tmp_path / "flat" / name).write_bytes(picture(i, "png"))
    data = load_dataset(tmp_path / "flat")
    assert data.class_names == ("cat", "dog") and data.labels == (0, 1, 1)
