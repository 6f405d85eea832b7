"""Items that a tower has no vector for, and packages that are missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipperf.embed import urls
from clipperf.embed.items import Wanted
from clipperf.embed.run import embed
from clipperf.embed.shards import corrupt_in
from clipperf.embed.wishes import Limit, Wishes
from clipperf.errors import CorruptError, MissingDependencyError, NotFiniteError
from clipperf.serve.apart import NOT_FINITE
from clipperf.serve.bulk import Tower, open_tower
from clipperf.system import extras

WISHES = Wishes(shard_items=5)


class Overflowing:
    """An engine that overflows for white images and long texts, as half precision may."""

    def __init__(self, engine: Any, spoils: bool = False, gives: float = np.nan) -> None:
        self._engine, self._spoils, self._gives = engine, spoils, gives

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, array: np.ndarray) -> np.ndarray:
        found = self._engine.run(array).copy()
        if array.ndim == 4:
            odd = array.min(axis=(1, 2, 3)) > 1.5  # white, normalised
        else:
            odd = (array != 0).sum(axis=1) > 20
        found[odd | (self._spoils and odd.any())] = self._gives
        return found


@pytest.fixture
def opened(sample_artifact: Path) -> Callable[..., Callable[[], Tower]]:
    def given(side: Any = "image", **how: Any) -> Callable[[], Tower]:
        def tower() -> Tower:
            found = open_tower(sample_artifact, side, threads=1)
            found.batch = 4
            engines = found._parts.engines
            engines[side] = Overflowing(engines[side], **how)
            return found

        return tower

    return given


@pytest.fixture
def photos(tmp_path: Path, samples: str) -> Path:
    """Nine images; "2 white.png" and "7 white.png" are those that overflow."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(sorted(Path(samples).glob("*.png"))[:7]):
        shutil.copy(image, folder / f"{number}.png")
    for number in (2, 7):
        Image.new("RGB", (90, 70), "white").save(folder / f"{number} white.png")
    return folder


def held(out: Path) -> dict[str, np.ndarray]:
    found = {}
    for stem in sorted(path.name[: -len(".npy")] for path in out.glob("*.npy")):
        ids = json.loads((out / f"{stem}.ids.json").read_text("utf-8"))
        found |= dict(zip(ids, np.load(out / f"{stem}.npy"), strict=True))
    return found


@pytest.mark.parametrize("spoils", [False, True])
def test_an_image_that_overflows_is_corrupt_alone(
    spoils: bool, photos: Path, tmp_path: Path, opened: Any
) -> None:
    """Also where a precision spoils the batch; the others have the vectors that they have alone."""
    summary = embed(photos, tmp_path / "out", opened(spoils=spoils), WISHES)
    assert (summary.vectors, summary.corrupt) == (7, 2)
    assert summary.named == [("2 white.png", NOT_FINITE), ("7 white.png", NOT_FINITE)]
    assert [list(corrupt_in(tmp_path / "out", shard)) for shard in range(2)] == [
        [("2 white.png", NOT_FINITE)],
        [("7 white.png", NOT_FINITE)],
    ]
    found = held(tmp_path / "out")
    assert np.isfinite(list(found.values())).all()
    for number in (2, 7):
        (photos / f"{number} white.png").unlink()
    embed(photos, tmp_path / "without", opened(), WISHES)
    without = held(tmp_path / "without")
    assert found.keys() == without.keys() and len(found) == 7
    assert all(np.abs(found[id_] - without[id_]).max() < 1e-5 for id_ in found)


def test_a_batch_of_nothing_else_is_corrupt(tmp_path: Path, opened: Any) -> None:
    folder = tmp_path / "white"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (90, 70), "white").save(folder / f"{number}.png")
    summary = embed(folder, tmp_path / "out", opened(), WISHES)
    assert (summary.vectors, summary.corrupt) == (0, 5)
    with pytest.raises(CorruptError, match="not finite"):
        embed(folder, tmp_path / "few", opened(), replace(WISHES, limit=Limit(number=2)))


def test_a_tower_that_fails_for_all_ends_the_run(
    photos: Path, tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Overflowing, "run", lambda self, array: np.full((len(array), 192), np.inf, np.float32)
    )
    with pytest.raises(NotFiniteError):
        embed(photos, tmp_path / "out", opened(), WISHES)
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    wishes = replace(WISHES, wanted=Wanted("text"))
    with pytest.raises(NotFiniteError):
        embed(tmp_path / "t.txt", tmp_path / "texts", opened("text"), wishes)


def test_a_text_that_overflows_is_corrupt_alone(tmp_path: Path, opened: Any) -> None:
    long = "many " * 30
    (tmp_path / "t.txt").write_text(f"a cat\n{long}\na dog\n")
    wishes = replace(WISHES, wanted=Wanted("text"))
    summary = embed(tmp_path / "t.txt", tmp_path / "out", opened("text"), wishes)
    assert (summary.vectors, summary.named) == (2, [("1", NOT_FINITE)])
    (tmp_path / "two.txt").write_text("a cat\na dog\n")
    embed(tmp_path / "two.txt", tmp_path / "two", opened("text"), wishes)
    assert np.array_equal(
        list(held(tmp_path / "out").values()), list(held(tmp_path / "two").values())
    )


@pytest.mark.parametrize("value", [0.0, 1e30])
def test_a_vector_without_a_length_is_no_unit_vector(
    value: float, photos: Path, tmp_path: Path, opened: Any
) -> None:
    """Zeros, or so large that float32 has no length for it: not NaN, nor zeros in silence."""
    wishes = replace(WISHES, normalize=True)
    with np.errstate(over="ignore"):
        summary = embed(photos, tmp_path / "out", opened(gives=value), wishes)
    assert (summary.vectors, summary.corrupt) == (7, 2)
    assert all("no length" in reason for _, reason in summary.named)
    lengths = np.linalg.norm(list(held(tmp_path / "out").values()), axis=1)
    assert np.allclose(lengths, 1, atol=1e-6)


# --- records that are damaged ----------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": 4},
        {"corrupt": 1},
        {"rows": 6, "corrupt": -1},
        {"files": {}},
        {"first": 1},
        {"items": 4, "rows": 4},
    ],
)
def test_a_record_that_does_not_add_up_is_none(
    damage: dict[str, Any], photos: Path, tmp_path: Path, sample_artifact: Path
) -> None:
    """The shard is made again, and its vectors are those that were there."""

    def tower() -> Tower:
        return open_tower(sample_artifact, "image", threads=1)

    out = tmp_path / "out"
    embed(photos, out, tower, WISHES)
    path = out / "shard-000000.json"
    before = path.read_bytes()
    record = json.loads(before)
    assert (record["items"], record["rows"], record["corrupt"]) == (5, 5, 0)
    path.write_text(json.dumps({**record, **damage}))
    assert embed(photos, out, tower, WISHES).made == 1
    assert path.read_bytes() == before


# --- URLs without the package that fetches them ----------------------------------------------


@pytest.fixture
def without_urllib3(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = MissingDependencyError(f"URLs need urllib3: {extras.install('embed')}")
    monkeypatch.setattr(urls, "missing", lambda: absent)


def never() -> Tower:
    raise AssertionError("the tower was opened")


def test_urls_without_their_package_are_told_before_a_tower_is_opened(
    without_urllib3: None, photos: Path, tmp_path: Path
) -> None:
    """Wherever the first URL stands in a table, in each kind of table."""
    names = [f"photos/{number}.png" for number in range(7)]
    last = [*names, "https://example.org/a.png"]
    (tmp_path / "a.csv").write_text("".join(f"{row}\n" for row in ("path", *last)))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"path": row}) + "\n" for row in last))
    tables = ["a.csv", "a.jsonl"]
    try:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"path": last}), tmp_path / "a.parquet")
        tables.append("a.parquet")
    except ImportError:
        pass
    for table in tables:
        with pytest.raises(MissingDependencyError, match=r"clipperf\[embed\]"):
            embed(tmp_path / table, tmp_path / "out", never, WISHES)
        assert not (tmp_path / "out").exists()


def test_paths_need_no_package_for_urls(
    without_urllib3: None, photos: Path, tmp_path: Path, opened: Any
) -> None:
    (tmp_path / "a.csv").write_text("path\n" + "".join(f"photos/{i}.png\n" for i in range(3)))
    assert embed(tmp_path / "a.csv", tmp_path / "out", opened(), WISHES).vectors == 3
    (tmp_path / "t.csv").write_text("text\nhttps://example.org/a.png\n")
    wishes = replace(WISHES, wanted=Wanted("text"))
    assert embed(tmp_path / "t.csv", tmp_path / "t", opened("text"), wishes).vectors == 1


def test_what_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert extras.missing("json", "this needs", "embed") is None
    absent = extras.missing("no_such_module_here", "this needs", "embed")
    assert str(absent) == (
        "this needs no_such_module_here, which is not installed: pip install 'clipperf[embed]'"
    )
