"""The bundled sample, its real files: loads strictly, scores what it says, stays small."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "clipperf" / "data" / "sample"
SIZE_LIMIT_BYTES = 15_000_000
TOLERANCE = 0.005
FLOORS = {
    "image_to_text_recall@1": 0.20,
    "text_to_image_recall@1": 0.20,
    "image_to_text_recall@10": 0.50,
    "text_to_image_recall@10": 0.50,
    "category_top1": 0.50,
}


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return json.loads((FOLDER / "metrics.json").read_text())


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return json.loads((FOLDER / "open_clip_config.json").read_text())


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    safetensors_torch = pytest.importorskip("safetensors.torch")
    return safetensors_torch.load_file(FOLDER / "model.safetensors")


@pytest.fixture(scope="module")
def model(config: dict[str, Any], state: dict[str, Any]) -> Any:
    open_clip = pytest.importorskip("open_clip")
    model = open_clip.CLIP(**config["model_cfg"]).eval()
    model.load_state_dict({name: value.float() for name, value in state.items()}, strict=True)
    return model


@pytest.fixture(scope="module")
def scores(model: Any, config: dict[str, Any]) -> dict[str, float]:
    """Score the whole evaluation set the way a user of open_clip would."""
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    transform = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    with zipfile.ZipFile(FOLDER / "eval.zip") as archive, torch.inference_mode():
        rows = _rows(archive)
        classes = json.loads(archive.read("classes.json"))
        images = [transform(Image.open(io.BytesIO(archive.read(r["image"])))) for r in rows]
        image = torch.cat(
            [model.encode_image(b, normalize=True) for b in torch.stack(images).split(64)]
        )
        tokens = tokenizer([row["caption"] for row in rows])
        text = torch.cat([model.encode_text(b, normalize=True) for b in tokens.split(128)])
        heads = []
        for name in classes["class_names"]:
            prompts = tokenizer([template.format(name) for template in classes["templates"]])
            heads.append(model.encode_text(prompts, normalize=True).mean(0))
    right = torch.arange(len(rows))
    truth = torch.tensor([classes["categories"].index(row["category"]) for row in rows])
    similarity = image @ text.T
    head = torch.nn.functional.normalize(torch.stack(heads), dim=1)
    found = {"category_top1": ((image @ head.T).argmax(1) == truth).float().mean().item()}
    for direction, table in (("image_to_text", similarity), ("text_to_image", similarity.T)):
        best = table.topk(10, 1).indices == right[:, None]
        for k in (1, 5, 10):
            found[f"{direction}_recall@{k}"] = best[:, :k].any(1).float().mean().item()
    return found


def _rows(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    return [json.loads(line) for line in archive.read("captions.jsonl").splitlines()]


def test_recomputed_scores_equal_the_published_ones(
    published: dict[str, Any], scores: dict[str, float]
) -> None:
    assert scores.keys() == published["metrics"].keys()
    for name, value in scores.items():
        assert value == pytest.approx(published["metrics"][name]["value"], abs=TOLERANCE), name


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_scores_beat_the_floor(scores: dict[str, float], name: str) -> None:
    assert scores[name] >= FLOORS[name]


def test_every_interval_holds_its_value_and_excludes_chance(published: dict[str, Any]) -> None:
    for name, score in published["metrics"].items():
        low, high = score["ci95"]
        assert score["chance"] < low <= score["value"] <= high, name


def test_evaluation_set_is_complete(published: dict[str, Any]) -> None:
    with zipfile.ZipFile(FOLDER / "eval.zip") as archive:
        rows = _rows(archive)
        classes = json.loads(archive.read("classes.json"))
        assert {row["image"] for row in rows} | {"captions.jsonl", "classes.json"} == set(
            archive.namelist()
        )
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    assert len(rows) >= 1500
    assert len({row["caption"] for row in rows}) == len(rows)
    assert len(classes["categories"]) == len(classes["class_names"]) == 8
    assert {row["category"] for row in rows} == set(classes["categories"])
    assert {score["n"] for score in published["metrics"].values()} == {len(rows)}


def test_files_are_the_ones_measured(published: dict[str, Any]) -> None:
    for name, digest in published["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_held_out_style_was_not_trained_on(published: dict[str, Any]) -> None:
    held_out = published["held_out_style"]
    styles = published["training"]["styles"]
    assert held_out["package"] not in {style["package"] for style in styles}
    assert not any("noto" in style["name"] or "google" in style["package"] for style in styles)


def test_unused_token_rows_are_zero(
    published: dict[str, Any], config: dict[str, Any], state: dict[str, Any]
) -> None:
    table = state["token_embedding.weight"]
    text_cfg = config["model_cfg"]["text_cfg"]
    assert table.shape == (text_cfg["vocab_size"], text_cfg["width"])
    used = (table != 0).any(1)
    assert int(used.sum()) == published["parameters"]["token_rows_used"] < 6000
    assert used[-2:].all()  # start and end of text


def test_folder_stays_small_in_a_wheel() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    packed = sum(len(zlib.compress(path.read_bytes(), 6)) for path in files)
    assert packed <= SIZE_LIMIT_BYTES


def test_licences_of_the_data_are_there(published: dict[str, Any]) -> None:
    notice = (FOLDER / "NOTICE.md").read_text()
    for style in [published["held_out_style"], *published["training"]["styles"]]:
        name, _, number = style["package"].rpartition("@")
        assert f"`{name}` {number}" in notice
        assert style["licence"] in notice
    assert "Apache License" in (FOLDER / "LICENSE-Apache-2.0.txt").read_text()
    assert "Microsoft Corporation" in (FOLDER / "LICENSE-MIT.txt").read_text()
