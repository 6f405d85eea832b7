"""Tasks that choose among candidates of their own: games, lexicons, actions; by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from published_layouts import picture

from clipperf.errors import UsageError
from clipperf.evals.datasets import load_dataset
from clipperf.evals.outcome import Outcome
from clipperf.evals.parts import with_tasks
from clipperf.evals.task import Embeddings, outcomes_of, texts_of
from clipperf.evals.tasks.association import prompt

AXES = np.eye(8, dtype=np.float32)


def rows_of(dataset: object, found: Embeddings) -> dict[str, Outcome]:
    return {row.metric: row for row in outcomes_of(dataset, found)}  # type: ignore[arg-type]


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        (folder / name).write_bytes(picture(i, "jpg" if name.endswith("jpg") else "png"))


GAMES = """cue,associations,candidates
werewolf,"['wolf', 'moon']","['wolf', 'moon', 'cup', 'tree', 'car']"
party,"['cup']","[""cup"", ""wolf"", ""moon"", ""tree"", ""car""]"
"""


def test_games_of_association(tmp_path: Path) -> None:
    names = ("wolf", "moon", "cup", "tree", "car")
    images(tmp_path / "winogavil_images", [f"{name}.jpg" for name in names])
    (tmp_path / "winogavil_dataset.csv").write_text(GAMES)
    dataset = load_dataset(tmp_path)
    assert dataset.cues == ("werewolf", "party")
    assert dataset.choices == ((0, 1, 2, 3, 4), (2, 0, 1, 3, 4))
    assert dataset.chosen == ((0, 1), (2,)) and dataset.notes == ()
    assert texts_of(dataset) == {"cues": ("A werewolf", "A party")}
    assert prompt("Oven") == "An oven"
    # The first cue looks like wolf and tree, the second like nothing that is there.
    cues = np.stack([AXES[0] + 0.9 * AXES[3], AXES[7]])
    rows = rows_of(dataset, Embeddings(AXES[:5], {"cues": cues}))
    # {wolf, tree} beside {wolf, moon}: 1 of 3. Of all equal the right one comes last: 0.
    assert rows["association Jaccard"].values.tolist() == [pytest.approx(1 / 3), 0]
    assert rows["association Jaccard, 5 and 6"].value == pytest.approx(1 / 6)
    assert "association Jaccard, 10 and 12" not in rows
    perfect = np.stack([AXES[0] + AXES[1], AXES[2]])
    best = rows_of(dataset, Embeddings(AXES[:5], {"cues": perfect}))["association Jaccard"]
    assert best.value == 1 and (best.decisions != rows["association Jaccard"].decisions).all()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x,\"['fox']\",\"['wolf', 'moon']\"", "an association is no candidate"),
        ("x,\"['wolf']\",\"['wolf', 'fox']\"", "no image 'fox'"),
        ("x,wolf,\"['wolf']\"", "'wolf' is no list of names"),
        ("x,\"__import__('os')\",\"['wolf']\"", "is no list of names"),
        (",\"['wolf']\",\"['wolf']\"", "no cue"),
    ],
)
def test_games_that_are_none(line: str, said: str, tmp_path: Path) -> None:
    images(tmp_path, ["wolf.jpg", "moon.jpg"])
    path = tmp_path / "winogavil_dataset.csv"
    path.write_text(f"cue,associations,candidates\n{line}\n")
    with pytest.raises(UsageError, match=said):
        load_dataset(tmp_path)


def test_words_of_each_images_own_lexicon(tmp_path: Path) -> None:
    images(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "labels.csv").write_text(
        "image,label,lexicon\na.png,STOP,stop|shop\nb.png,open,OPEN|over|oven\n"
        "c.png,shop,Stop|Shop\n"
    )
    (tmp_path / "templates.txt").write_text("{}\n")
    loaded = load_dataset(tmp_path)
    dataset = with_tasks(loaded, ["lexicon"], lambda *_: loaded)
    words = ("stop", "shop", "open", "over", "oven")
    assert texts_of(dataset) == {"words": words}
    # The first reads stop, the second oven, the third open, which is not in its lexicon.
    found = Embeddings(
        np.stack([AXES[0], AXES[4], (AXES[2] + 0.1 * AXES[1]) / 1.01**0.5]), {"words": AXES[:5]}
    )
    rows = rows_of(dataset, found)
    top = rows["lexicon top-1"]
    assert top.values.tolist() == [True, False, True]
    # Guessing: the mean of 1/2, 1/3 and 1/2.
    assert top.chance == pytest.approx(4 / 9) and top.decisions.tolist() == [0, 4, 1]
    (tmp_path / "labels.csv").write_text("image,label,lexicon\na.png,stop,shop|open\n")
    wrong = load_dataset(tmp_path)
    with pytest.raises(UsageError, match=r"a\.png: its lexicon must hold its class"):
        texts_of(with_tasks(wrong, ["lexicon"], lambda *_: wrong))


RARE = """image,id,verb,noun,annotation,clip
0.png,v1,cut,keyboard,1,v1-0
1.png,v1,cut,keyboard,1,v1-0
2.png,v2,cut,keyboard,0,v2-0
3.png,v3,blend,phone,1,v3-0
"""


def test_unusual_actions(tmp_path: Path) -> None:
    images(tmp_path, [f"{i}.png" for i in range(4)])
    (tmp_path / "labels.csv").write_text(RARE)
    (tmp_path / "task.toml").write_text('clip = "clip"\n')
    dataset = load_dataset(tmp_path)
    assert texts_of(dataset) == {"actions": ("cut keyboard", "blend phone")}
    # The clip of two frames looks like cutting, the second like it more, the third like blending.
    unit = (AXES[0] + AXES[2]) / 2**0.5
    found = Embeddings(np.stack([unit, unit, AXES[0], AXES[1]]), {"actions": AXES[:2]})
    rows = rows_of(dataset, found)
    # Cutting: the negative v2 above the positive v1, v3 below: 1/2. Blending: v3 first: 1.
    assert rows["actions mWAP"].value == pytest.approx(3 / 4)
    assert rows["actions mWSAP"].value == pytest.approx(3 / 4)
    (tmp_path / "labels.csv").write_text(RARE.replace("keyboard,0", "keyboard,seen"))
    with pytest.raises(UsageError, match=r"2\.png: its annotation is no number from 0 to 4"):
        rows_of(load_dataset(tmp_path), found)


CLIPS = """id,start,end,class_id,verb,noun,annotation
v1,3,9,0,cut,keyboard,1
v2,0,4.5,0,cut,keyboard,0
v3,1,2,1,blend,phone,1
v3,1,2,0,cut,keyboard,3
gone,1,2,1,blend,phone,0
"""


def test_rareact_as_it_is_published(tmp_path: Path) -> None:
    for folder, count in (("v1_3_9", 2), ("v2_0_4.5", 1), ("v3_1_2", 1)):
        images(tmp_path / "frames" / folder, [f"{i}.jpg" for i in range(count)])
    (tmp_path / "rareact.csv").write_text(CLIPS)
    dataset = load_dataset(tmp_path)
    assert dataset.columns["annotation"] == ("1", "1", "0", "1", "3")
    assert dataset.notes == (f"{tmp_path.name}: left out 1 clips without frames (gone_1_2)",)
    # The frames of v1 look like half of cutting each; v2 like it more; v3, there twice, like both.
    half = (AXES[0] + AXES[2]) / 2**0.5
    both = (AXES[0] + AXES[1]) / 2**0.5
    found = Embeddings(np.stack([half, half, AXES[0], both, both]), {"actions": AXES[:2]})
    rows = rows_of(dataset, found)
    # Cutting: the negative v2 comes first, then v1 tied with v3, a negative (blending) and a hard
    # negative (cutting): one of four. Blending: v3 comes first.
    assert rows["actions mWAP"].value == pytest.approx((1 / 4 + 1) / 2)
    assert len(rows["actions mWAP"].values) == 4
    (tmp_path / "rareact.csv").write_text(CLIPS.replace("v3,1,2,1,blend", "v3,1,2,1,"))
    with pytest.raises(UsageError, match="line 4: need id, verb, noun, annotation, start, end"):
        load_dataset(tmp_path)
    header, *clips = CLIPS.splitlines()
    (tmp_path / "rareact.csv").write_text(f"{header}\n{clips[-1]}\n")
    with pytest.raises(UsageError, match=r"no frames of any clip in rareact\.csv.*gone_1_2"):
        load_dataset(tmp_path)


def test_an_anchor_is_steady_where_all_its_neighbours_are_right(tmp_path: Path) -> None:
    images(tmp_path, [f"{i}.png" for i in range(6)])
    rows = ("0,cat,0", "1,cat,0", "2,cat,0", "3,dog,3", "4,dog,3", "5,cat,5")
    table = [f"{a}.png,{label},{b}.png" for a, label, b in (row.split(",") for row in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label,anchor", *table]))
    (tmp_path / "templates.txt").write_text("{}\n")
    dataset = load_dataset(tmp_path)
    # Right: 0, 1, not 2; 3 and 4; not 5.
    found = Embeddings(AXES[[0, 0, 1, 1, 1, 1]], {"prompts": AXES[:2]})
    rows_found = rows_of(dataset, found)
    assert rows_found["neighbours PM-0"].values.tolist() == [True, True, False]
    assert rows_found["neighbours PM-k"].values.tolist() == [False, True, False]
    assert rows_found["zeroshot top-1"].value == 4 / 6
    text = (tmp_path / "labels.csv").read_text()
    for wrong in ("1.png,cat,9.png", "1.png,cat,4.png"):
        (tmp_path / "labels.csv").write_text(text.replace("1.png,cat,0.png", wrong))
        with pytest.raises(UsageError, match=r"1\.png's anchor, is none"):
            rows_of(load_dataset(tmp_path), found)
