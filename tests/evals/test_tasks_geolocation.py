"""Geolocation: places by hand, distances of known cities, and what is wrong with a table."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.accuracy import embed
from clipperf.evals.datasets import Dataset, load_dataset
from clipperf.evals.parts import with_tasks
from clipperf.evals.task import check, outcomes_of
from clipperf.evals.tasks import geolocation
from clipperf.evals.tasks.geolocation import distances_km, nearest

BERLIN, PARIS, SYDNEY = (52.52, 13.405), (48.8566, 2.3522), (-33.8688, 151.2093)


def test_distances_on_a_sphere() -> None:
    here = np.array([BERLIN, BERLIN, (0, 0), (0, 179.5), (90, 0), (10, 20)])
    there = np.array([PARIS, SYDNEY, (0, 180), (0, -179.5), (-90, 77), (10, 20)])
    # Half of the circumference is pi * 6371 = 20015.09 km, a degree of the equator 111.19 km.
    expected = [877.5, 16091, 20015.09, 111.19, 20015.09, 0]
    assert distances_km(here, there) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_the_nearest_is_the_best_of_all_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geolocation, "_QUERIES", 3)
    monkeypatch.setattr(geolocation, "_REFERENCES", 4)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    queries, references = rows[:7], np.concatenate([rows[7:], rows[7:]])
    expected = (queries.astype(float) @ references.astype(float).T).argmax(axis=1)
    assert nearest(queries, references).tolist() == expected.tolist()
    assert expected.max() < 23  # of equal ones the first


def test_memory_does_not_grow_with_the_references() -> None:
    queries, references = np.ones((300, 16), np.float32), np.ones((200_000, 16), np.float32)
    tracemalloc.start()
    nearest(queries, references)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 2**20  # all scores at once: 480 MB


class Shade:
    def encode_images(self, images: list) -> np.ndarray:
        means = [np.asarray(i.open().convert("RGB"), float).mean((0, 1)) for i in images]
        return np.stack([[np.cos(m[0] / 100), np.sin(m[0] / 100)] for m in means])

    def encode_texts(self, texts: list) -> np.ndarray:
        raise AssertionError("no texts are asked for")


def table(root: Path, name: str, rows: list[tuple[int, object, object]], header: str) -> None:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = [header]
    for i, (shade, latitude, longitude) in enumerate(rows):
        (folder / f"{i}.png").write_bytes(picture(shade, "png"))
        lines.append(f"{i}.png,{latitude},{longitude}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def asked(path: Path) -> Dataset:
    return with_tasks(
        load_dataset(path),
        ("geolocation",),
        lambda split, part: load_dataset(path, split=split, part=part),
    )


def write(root: Path, queries: list[tuple[int, object, object]], header: str) -> Path:
    table(root, "photos", queries, header)
    table(root, "known", [(0, *BERLIN), (80, *PARIS), (160, *SYDNEY)], header)
    recipe = root / "places.toml"
    recipe.write_text(
        'data = "photos/metadata.csv"\nreference = "known/metadata.csv"\n'
        'task = "geolocation"\nlatitude = "lat"\nlongitude = "lon"\n'
    )
    return recipe


def test_images_are_where_the_nearest_reference_is(tmp_path: Path) -> None:
    queries = [
        (2, *BERLIN),  # 0 km
        (5, 52.6, 13.405),  # 8.9 km north of Berlin
        (82, 50.0, 2.3522),  # 127 km north of Paris
        (85, *BERLIN),  # taken for Paris: 877 km
        (161, *PARIS),  # taken for Sydney: 16960 km
    ]
    data = asked(write(tmp_path, queries, "image,lat,lon"))
    assert data.columns["latitude"][1] == "52.6" and data.captions == () and data.labels == ()
    rows = {row.metric: row for row in outcomes_of(data, embed(data, Shade()))}
    found = {name: row.value for name, row in rows.items()}
    assert found == {
        "geolocation within 1 km": pytest.approx(1 / 5),
        "geolocation within 25 km": pytest.approx(2 / 5),
        "geolocation within 200 km": pytest.approx(3 / 5),
        "geolocation within 750 km": pytest.approx(3 / 5),
        "geolocation within 2500 km": pytest.approx(4 / 5),
    }
    assert rows["geolocation within 25 km"].values.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (("", 3), r"'0\.png' has the latitude '': give degrees from -90 to 90"),
        (("north", 3), "the latitude 'north'"),
        ((90.5, 3), r"the latitude '90\.5': give degrees from -90 to 90"),
        ((3, -181), "the longitude '-181': give degrees from -180 to 180"),
        (("nan", 3), "the latitude 'nan'"),
    ],
)
def test_places_that_are_none(place: tuple[object, object], said: str, tmp_path: Path) -> None:
    data = asked(write(tmp_path, [(2, *place), (5, *BERLIN)], "image,lat,lon"))
    with pytest.raises(UsageError, match=said):
        outcomes_of(data, embed(data, Shade()))


def test_references_without_places(tmp_path: Path) -> None:
    recipe = write(tmp_path, [(2, *BERLIN)], "image,lat,lon")
    (tmp_path / "known" / "metadata.csv").write_text("image,lat\n0.png,3\n1.png,4\n2.png,5\n")
    with pytest.raises(UsageError, match="has no column lon; there are image, lat"):
        asked(recipe)
    recipe.write_text(recipe.read_text().replace('longitude = "lon"\n', ""))
    (tmp_path / "photos" / "metadata.csv").write_text("image,lat,longitude\n0.png,3,4\n")
    with pytest.raises(UsageError, match=r'no column longitude: .* longitude = "COLUMN"\)'):
        check(asked(recipe))
    (tmp_path / "photos" / "metadata.csv").write_text("image,lat,lon\n0.png,3,4\n")
    recipe.write_text('data = "photos/metadata.csv"\n')
    with pytest.raises(UsageError, match="line 2: no column caption, label, or latitude"):
        load_dataset(recipe)
