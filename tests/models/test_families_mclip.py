"""M-CLIP: names and figures, and text towers of a reduced size from folders of their layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Cli

import clipperf
from clipperf.errors import UsageError, WeightsError
from clipperf.export.make import make
from clipperf.models import catalog, hub, zoo
from clipperf.models.family import family_of
from clipperf.models.mclip_facts import BASES, STUDENTS
from clipperf.models.published import basic_statistics
from clipperf.nouns.variant import Variant

pytest.importorskip("transformers", reason="the text towers are transformers' own")
from transformers_folders import CORPUS, save_student

TEXTS = [*CORPUS, "слово " * 200, "", "a <pad> [PAD] b"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def reference(parts: tuple[Any, Any, Any], texts: list[str]) -> np.ndarray:
    """As M-CLIP's own forward, of texts that are cut at 77 tokens."""
    import torch

    transformer, linear, tokenizer = parts
    given = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        tokens = transformer(**given)[0]
        mask = given["attention_mask"]
        mean = (tokens * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None]
        found: np.ndarray = linear(mean).numpy()
    return found


def assert_same(found: np.ndarray, theirs: np.ndarray) -> None:
    assert found.shape == theirs.shape
    assert np.abs(found - theirs).max() <= 1e-4 * np.abs(theirs).max()
    assert np.ptp(theirs, axis=0).max() > 1e-3


def test_a_folder_is_exported_and_embeds_as_m_clip_does(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my-student"
    parts = save_student("xlm-roberta", folder)
    spec = zoo.resolve(str(folder))
    assert (spec.family, spec.embed_dim, spec.context_tokens) == ("mclip", 512, 77)
    made = make(spec, ("text",), Variant("onnx"))
    (tower,) = made.manifest.towers
    assert tower.parity is not None and tower.parity.passed
    assert "118" in tower.assumptions["context length"]
    with clipperf.load(made.folder) as model:
        assert_same(model.encode_texts(TEXTS), reference(parts, TEXTS))


@pytest.mark.slow
def test_a_text_tower_is_tuned_where_its_teachers_weights_cannot_be_had(
    cli: Cli, tmp_path: Path
) -> None:
    """int8 is judged with both towers, so that trial fails; the others do not."""
    save_student("bert", tmp_path / "student")
    out = tmp_path / "tuned.json"
    done = cli(
        "tune", tmp_path / "student", "--tower", "text", "--runtime", "onnx", "--batch", "1",
        "--precision", "int8,fp32", "--threads", "1", "--minutes", "1", "--out", out, "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tuning = json.loads(out.read_text())
    assert [tower["cell"]["precision"] for tower in tuning["towers"]] == ["fp32"]
    (failed,) = [t for t in tuning["trials"] if t["cell"]["precision"] == "int8"]
    assert "is judged by accuracy, which takes the image tower, too: " in failed["verdict"]
    assert "ViT-B-32" in failed["verdict"] and failed["items_per_s"] is None
    assert "judged by accuracy" in " ".join(done.stdout.split())  # however it is wrapped


@pytest.mark.slow
def test_a_student_with_random_weights_is_evaluated(cli: Cli, samples: str, tmp_path: Path) -> None:
    """Its own text tower is small, its teacher's image tower is ViT-B-32's, with noise too."""
    save_student("bert", tmp_path / "student")
    data, rows = tmp_path / "data", tmp_path / "rows.json"
    shutil.copytree(samples, data)
    lines = (data / "captions.csv").read_text().splitlines()
    named = [f"{line},{('cat', 'dog', 'tree')[n % 3]}" for n, line in enumerate(lines[1:13])]
    (data / "captions.csv").write_text("\n".join([f"{lines[0]},label", *named]))
    done = cli(
        "eval", tmp_path / "student", "--pretrained", "random", "--runtime", "onnx", "--dataset",
        data, "--json", rows, "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = json.loads(rows.read_text())["scores"]
    found = {(row["cell"]["runtime"], row["metric"]): row for row in scores}
    for metric in ("zeroshot top-1", "text-to-image recall@1", "image-to-text recall@1"):
        reference, row = found["torch", metric], found["onnx", metric]
        assert reference["n"] == row["n"] == 12
        assert abs(row["value"] - reference["value"]) <= 1 / 12
        assert row["random_weights"] and row["cell"]["model_id"].endswith("::random:0")
    assert any("onnx fp32" in line and "top-1" in line for line in done.stdout.splitlines())
    assert "student@" in done.stdout and "random weights" in done.stdout.lower()


def test_bert_of_a_fixed_length_is_exported_like_any_other(tmp_path: Path) -> None:
    from clipperf.engines.onnxruntime import open_session
    from clipperf.graph import trace
    from clipperf.inputs.tokenize import Tokenizer

    folder = tmp_path / "bert"
    parts = save_student("bert", folder)
    spec = zoo.resolve(str(folder))
    family = family_of(spec)
    family.write_tokenizer(spec, tmp_path)
    tokens = Tokenizer.from_folder(tmp_path)(TEXTS)
    trace.export_onnx(family.build(spec, "text", False), tmp_path / "model.onnx")
    engine = open_session(tmp_path / "model.onnx", threads=1)
    assert_same(engine.run(tokens), reference(parts, TEXTS))


def test_a_cut_batch_gives_the_same_embeddings(tmp_path: Path) -> None:
    """The mask and the positions come from the tokens, so that padding can be cut off."""
    import torch

    from clipperf.inputs.tokenize import Tokenizer

    for kind in ("xlm-roberta", "bert"):
        folder = tmp_path / kind
        save_student(kind, folder)
        spec = zoo.resolve(str(folder))
        family = family_of(spec)
        family.write_tokenizer(spec, folder)
        tokens = torch.from_numpy(Tokenizer.from_folder(folder)(list(CORPUS)))
        longest = int((tokens != tokens[0, -1]).sum(dim=1).max())
        assert longest < 40
        module = family.build(spec, "text", False).module
        with torch.inference_mode():
            whole, cut = module.model.encode_text(tokens, False), module.model.encode_text(
                tokens[:, :longest], False
            )  # fmt: skip
        assert_same(cut.numpy(), whole.numpy())


def test_the_tables_names_are_listed_with_their_sizes() -> None:
    names = [row.alias for row in basic_statistics() if row.alias.startswith("M-CLIP/")]
    assert names == list(STUDENTS)
    listed = {entry.architecture: entry for entry in catalog.search("M-CLIP/")}
    assert list(listed) == names
    # Widths of embeddings and sides of images: OpenAI's ViT-L-14 and B-32, open_clip's B-16-plus.
    shapes = {name: (entry.embed_dim, entry.image_px) for name, entry in listed.items()}
    assert list(shapes.values()) == [(768, 224), (512, 224), (640, 240), (768, 224)]
    for name, entry in listed.items():
        spec = zoo.resolve(name.lower())
        assert (spec.id, spec.parameters("text")) == (f"{name}::hub", entry.text_parameters)
        assert zoo.weights_id(spec) is None
        # The published file holds both in fp32 but for the image tower: MiB of text parameters.
        published = next(row.disk_mib for row in basic_statistics() if row.alias == name)
        assert published * 2**20 > 4 * spec.parameters("text")


def test_the_image_tower_is_the_teachers() -> None:
    spec = zoo.resolve("M-CLIP/XLM-Roberta-Large-Vit-B-16Plus", "random:4")
    tower = family_of(spec).build(spec, "image", False)
    teacher = zoo.resolve("ViT-B-16-plus-240", "random:4")
    other = family_of(teacher).build(teacher, "image", False)
    assert tower.spec == spec and tuple(tower.example.shape) == (2, 3, 240, 240)
    mine, theirs = (t.module.state_dict() for t in (tower, other))
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in list(mine)[:5])
    assert family_of(spec).pixels(spec) == family_of(teacher).pixels(teacher)


def test_parameters_are_those_of_the_towers() -> None:
    from transformers import AutoConfig

    from clipperf.models.open_clip import parameters_on_meta
    from clipperf.models.transformers_mean import MeanOfTokens

    for student in STUDENTS.values():
        with parameters_on_meta():
            base = AutoConfig.for_model(**BASES[student.base])
            model: Any = MeanOfTokens(base, student.embed_dim, 77)
        model.transformer.pooler = None
        assert sum(p.numel() for p in model.parameters()) == student.parameters


def test_what_cannot_be_had_is_said(tmp_path: Path) -> None:
    spec = zoo.resolve("M-CLIP/LABSE-Vit-L-14")
    with pytest.raises(WeightsError, match=r"M-CLIP/LABSE-Vit-L-14 cannot be fetched.*hf download"):
        family_of(spec).fetch(spec)
    noise = zoo.resolve("M-CLIP/LABSE-Vit-L-14", "random")
    with pytest.raises(WeightsError, match="cannot be fetched"):
        family_of(noise).write_tokenizer(noise, tmp_path)
    with pytest.raises(UsageError, match="of M-CLIP's models these can be had: M-CLIP/LABSE"):
        zoo.resolve("M-CLIP/M-BERT-Base-69")
    with pytest.raises(UsageError, match=r"no tag 'laion2b'.*hub"):
        zoo.resolve("M-CLIP/LABSE-Vit-L-14", "laion2b")
    config = {"model_type": "M-CLIP", "modelBase": "elsewhere", "numDims": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="modelBase is 'elsewhere'"):
        zoo.resolve(str(tmp_path), "random")
    (tmp_path / "config.json").write_text(json.dumps({**config, "numDims": 33}))
    with pytest.raises(UsageError, match="no image tower is known for text embeddings of width 33"):
        zoo.resolve(str(tmp_path), "random")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_student("bert", tmp_path / "bert")
    save_student("xlm-roberta", tmp_path / "xlm")
    spec = zoo.resolve(str(tmp_path / "xlm"), str(tmp_path / "bert" / "pytorch_model.bin"))
    with pytest.raises(WeightsError, match="does not fit"):
        family_of(spec).build(spec, "text", False)
