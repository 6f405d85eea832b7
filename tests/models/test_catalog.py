"""The model listing, against the installed open_clip, and that it needs neither it nor torch."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from clipperf.errors import UsageError
from clipperf.models import catalog, open_clip_facts, published, sample
from clipperf.models.families import open_clip
from clipperf.models.published import normal
from clipperf.report.models import models_json, models_table

TOOL = Path(__file__).parents[2] / "tools" / "make_catalog.py"


@pytest.fixture(scope="module")
def tool():
    """`tools/make_catalog.py` as a module."""
    spec = importlib.util.spec_from_file_location("make_catalog", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fresh_catalog():
    """Forget the listing before and after a test that changes what it is made from."""
    open_clip.entries.cache_clear()
    yield
    open_clip.entries.cache_clear()


def of_open_clip() -> list[catalog.CatalogEntry]:
    others = (sample.NAME, "M-CLIP/")
    return [e for e in catalog.entries() if not e.architecture.startswith(others)]


def clip_as_service_aliases() -> list[str]:
    aliases = [row.alias for row in published.basic_statistics()]
    return [alias for alias in aliases if not alias.startswith("M-CLIP/")]


# --- against open_clip -----------------------------------------------------------------------


def test_every_architecture_and_tag_of_the_installed_open_clip():
    import open_clip

    listed = {entry.architecture: list(entry.tags) for entry in of_open_clip()}
    assert sorted(listed) == sorted(open_clip.list_models())
    for name, tags in listed.items():
        assert tags == open_clip.list_pretrained_tags_by_model(name), name
    with_tags = {name for name, _ in open_clip.list_pretrained()}
    assert with_tags <= listed.keys()


def test_snapshot_was_made_from_the_installed_open_clip(tool):
    import open_clip

    known = open_clip_facts.read_snapshot()
    assert known["open_clip"] == open_clip.__version__
    assert catalog.snapshot_note() is None
    configs = open_clip_facts.installed_configs()
    assert configs is not None and configs.keys() == known["models"].keys()
    for name, config in configs.items():
        record = known["models"][name]
        assert record["config_sha256"] == open_clip_facts.config_digest(config), name
        assert {key: record[key] for key in open_clip_facts.FACTS} == (
            open_clip_facts.config_facts(config)
        )
        assert record["tags"] == tool.tags_of(name)


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32", "MobileCLIP-S1"]
)
def test_counts_are_reproduced_by_building_the_model(tool, name):
    configs = open_clip_facts.installed_configs()
    assert configs is not None
    counted = tool.counts_of(name, configs[name])
    record = open_clip_facts.read_snapshot()["models"][name]
    assert counted == {key: record[key] for key in open_clip_facts.COUNTS}


def test_counts_agree_with_open_clips_own_profile_table(tool):
    names = [row["model"] for row in published.read_table("open_clip_model_profile.csv")]
    entries = {entry.architecture: entry for entry in of_open_clip()}
    assert len(names) == 85 and set(names) <= entries.keys()
    for name in names:
        entry, row = entries[name], SimpleNamespace(**tool.profile(name))
        # The table rounds to 0.01 million parameters and 0.01 GFLOPs.
        assert entry.image_parameters == pytest.approx(row.image_parameters, abs=5_001), name
        assert entry.text_parameters == pytest.approx(row.text_parameters, abs=5_001), name
        assert entry.image_gflops == pytest.approx(row.image_gflops, abs=0.0056), name
        assert entry.text_gflops == pytest.approx(row.text_gflops, abs=0.0056), name


def test_figures_read_off_by_hand():
    entry = catalog.find("ViT-B-32")
    assert (entry.image_px, entry.context_tokens, entry.embed_dim) == (224, 77, 512)
    # 151,277,313 parameters in all (CLIP paper's ViT-B/32), one of them the logit scale.
    assert entry.image_parameters == 87_849_216
    assert entry.image_parameters + entry.text_parameters + 1 == 151_277_313
    assert entry.text_kind == "clip-bpe" and entry.notes == ()
    assert catalog.find("ViT-H-14-378-quickgelu").image_px == 378
    assert catalog.find("ViT-SO400M-14-SigLIP").context_tokens == 16
    assert catalog.find("xlm-roberta-base-ViT-B-32").text_kind == "hf:xlm-roberta-base"
    assert catalog.find("ViT-H-14-CLIPA").text_kind == "hf-tokenizer:bert-base-uncased"
    assert catalog.find("ViT-B-32").imagenet("laion2b_s34b_b79k") == 0.6656


def test_open_clips_profile_in_plain_units(tool):
    assert tool.profile("ViT-B-32") == {
        "image_parameters": 87_850_000, "text_parameters": 63_430_000,
        "image_gflops": 8.82, "text_gflops": 5.96,
    }  # fmt: skip


def test_no_two_names_are_the_same_without_case_and_hyphens():
    names = [normal(entry.architecture) for entry in catalog.entries()]
    assert len(names) == len(set(names))
    for entry in catalog.entries():
        assert len({normal(tag) for tag in entry.tags}) == len(entry.tags)


# --- names -----------------------------------------------------------------------------------


def split(alias: str) -> tuple[str, str]:
    """Architecture and tag of an alias, as open_clip spells them."""
    entry = catalog.find(alias)
    return entry.architecture, catalog.tag_of(entry, alias.partition("::")[2])


def test_the_clip_as_service_models_are_25():
    assert len(clip_as_service_aliases()) == 25


@pytest.mark.parametrize("alias", clip_as_service_aliases())
def test_clip_as_service_aliases_name_open_clip_weights(alias):
    architecture, tag = split(alias)
    assert tag in catalog.find(architecture).tags
    assert (normal(architecture), normal(tag)) == tuple(normal(p) for p in alias.split("::"))


@pytest.mark.parametrize(
    "alias",
    ["ViT-H-14::laion2b-s32b-b79k", "ViT-H-14::laion2b_s32b_b79k", "vit_h_14::LAION2B-S32B_b79k"],
)
def test_alias_spellings(alias):
    assert split(alias) == ("ViT-H-14", "laion2b_s32b_b79k")


def test_unknown_tag_names_the_available_ones():
    with pytest.raises(UsageError) as caught:
        split("ViT-H-14::laion2b-s32b-b97k")
    assert "did you mean laion2b_s32b_b79k?" in str(caught.value)
    assert "metaclip_altogether" in str(caught.value)


def test_an_architecture_without_tags_names_what_to_do():
    with pytest.raises(UsageError, match="random"):
        split("ViT-e-14::anything")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("ViT-B32", "ViT-B-32"), ("RN-50", "RN50"), ("convnext_bass", "convnext_base")],
)
def test_unknown_architecture_names_close_ones(wrong, meant):
    with pytest.raises(UsageError, match=rf"did you mean [^?]*{meant}\b[^?]*\?"):
        catalog.find(wrong)


@pytest.mark.parametrize("wrong", ["", "qqqq", "::openai", "../../etc/passwd"])
def test_nonsense_names_are_usage_errors(wrong):
    with pytest.raises(UsageError, match="clipperf models"):
        catalog.find(wrong)


@pytest.mark.parametrize("name", ["M-CLIP/XLM-Roberta-Large-Vit-L-14", "m-clip/labse-vit-l-14"])
def test_mclip_is_listed(name):
    assert catalog.find(name).tags == ("hub",)


# --- search and reports ----------------------------------------------------------------------


def test_search():
    def names(text: str) -> set[str]:
        return {entry.architecture for entry in catalog.search(text)}

    assert {"RN50", "RN50-quickgelu", "RN50x4"} <= names("rn50")
    assert (
        names("ViT_L_14-336")
        == names("vit-l-14-336")
        >= {"ViT-L-14-336", "EVA02-L-14-336"} - {"EVA02-L-14-336"}
    )
    assert {"ViT-B-16", "ViT-L-14-quickgelu"} <= names("DFN2B")
    assert names("ViT-H-14::laion2b-s32b-b79k") == {"ViT-H-14"}
    assert names("") == {entry.architecture for entry in catalog.entries()}
    assert names("no such model") == set()


def test_report_has_a_row_for_each_set_of_weights():
    listed = catalog.search("RN101")
    report = models_table(listed)
    assert all(len(row) == len(report.columns) for row in report.rows)
    row = dict(zip(report.names, report.texts[0], strict=True))
    assert row == {
        "model": "RN101::openai",
        "image M": "56.3",
        "text M": "63.4",
        "image GFLOPs": "19.5",
        "text GFLOPs": "5.96",
        "dim": "512",
        "px": "224",
        "tokens": "77",
        "licence": "MIT",
        "ImageNet top-1": "62.3 %",
    }
    assert [row[0] for row in report.texts] == [
        f"{entry.architecture}::{tag}" for entry in listed for tag in entry.tags
    ]


def test_report_of_an_architecture_without_weights_and_of_none():
    (row,) = models_table(catalog.search("ViT-e-14")).texts
    assert row[0] == "ViT-e-14" and row[-2:] == ("-", "-")
    empty = models_table([])
    assert empty.rows == () and empty.title.startswith("0 architectures")


def test_report_says_which_text_gflops_are_for_longer_texts():
    assert "nllb-*: 1024" in models_table(catalog.search("nllb")).caveats[-1]
    assert "longer" not in "".join(models_table(catalog.search("RN50")).caveats)
    notes = catalog.find("coca_roberta-ViT-B-32").notes
    assert "transformers" in notes[0] and not any("GFLOPs" in note for note in notes)


def test_json_is_plain_and_names_sources():
    (entry,) = models_json([catalog.find("RN50")])
    assert json.loads(json.dumps(entry)) == entry
    assert entry["image_px"] == 224 and "licences" not in entry
    openai = entry["tags"][0]
    assert (openai["id"], openai["licence"]) == ("RN50::openai", "MIT")
    assert {
        "dataset": "imagenet1k",
        "metric": "acc1",
        "value": 0.596,
        "source": "CLIP paper, Table 4",
    } in openai["published"]


def test_licences():
    def licence(architecture: str, tag: str) -> str | None:
        return catalog.find(architecture).licence(tag)

    assert licence("ViT-B-32", "openai") == "MIT"
    assert licence("ViT-B-32-quickgelu", "metaclip_400m") == "CC-BY-NC-4.0"
    assert licence("ViT-H-14-worldwide-378", "metaclip2_worldwide") == "CC-BY-NC-4.0"
    assert licence("ViT-H-14-378", "dfn5b") == "apple-amlr"
    assert licence("MobileCLIP2-S0", "dfndr2b") == "apple-amlr"
    assert licence("ViT-B-16-SigLIP2", "webli") == "Apache-2.0"
    assert licence("ViT-B-32", "random:0") is None
    assert licence("ViT-B-32", "/models/own.safetensors") is None


def test_licence_of_unknown_weights_is_unknown(tool):
    assert tool.licence_of("someone/CLIP-ViT-B-32", "own_data") is None
    assert tool.licence_of("timm/vit_base_patch32_clip_224.unheard_of", "unheard_of") is None


# --- other installations ---------------------------------------------------------------------


def test_without_open_clip_the_snapshot_serves(monkeypatch, fresh_catalog):
    before = catalog.entries()
    open_clip.entries.cache_clear()
    monkeypatch.setattr(open_clip, "installed_configs", lambda: None)
    assert catalog.entries() == before


def test_a_changed_configuration_shows_no_stale_figures(monkeypatch, fresh_catalog):
    configs = open_clip_facts.installed_configs()
    assert configs is not None
    configs["ViT-B-32"] = {**configs["ViT-B-32"], "embed_dim": 640}
    configs["ViT-new-7"] = configs["ViT-B-16"]
    del configs["RN50"]
    monkeypatch.setattr(open_clip, "installed_configs", lambda: configs)
    monkeypatch.setattr(catalog, "version", lambda _: "9.9.9")
    changed, new = catalog.find("ViT-B-32"), catalog.find("ViT-new-7")
    assert changed.embed_dim == 640 and "openai" in changed.tags
    assert (changed.image_parameters, changed.text_gflops) == (None, None)
    assert new.tags == () and new.image_px == 224 and new.image_gflops is None
    with pytest.raises(UsageError):
        catalog.find("RN50")
    report = models_table([changed, new])
    assert "9.9.9" in report.caveats[0]
    assert report.texts[-1][:3] == ("ViT-new-7", "-", "-")


def write_sample(folder: Path) -> None:
    config = {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"image_size": 64},
            "text_cfg": {"context_length": 32},
        },
        "preprocess_cfg": {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = {
        "visual.conv.weight": [4, 3, 2],
        "visual.bn.running_mean": [99],
        "token_embedding.weight": [7, 5],
        "logit_scale": [],
    }
    header = {
        name: {"dtype": "F16", "shape": shape, "data_offsets": [0, 0]}
        for name, shape in tensors.items()
    }
    data = json.dumps({"__metadata__": {}, **header}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)


def test_the_sample_is_listed_where_it_is_there(monkeypatch, fresh_catalog, tmp_path):
    monkeypatch.setattr(sample, "folder", lambda: tmp_path)
    with pytest.raises(UsageError):
        catalog.find(sample.NAME)
    write_sample(tmp_path)
    open_clip.entries.cache_clear()
    entry = catalog.find("CLIPPERF_sample")
    assert entry == catalog.entries()[0]
    assert (entry.image_px, entry.context_tokens, entry.embed_dim) == (64, 32, 64)
    assert (entry.image_parameters, entry.text_parameters) == (24, 35)
    assert entry.licence(sample.TAG) == sample.LICENCE
    assert models_table([entry]).findings == entry.notes
    (tmp_path / "model.safetensors").unlink()
    open_clip.entries.cache_clear()
    assert catalog.find(sample.NAME).image_parameters is None


def test_listing_imports_no_torch_and_is_fast():
    code = (
        "import sys, time; from clipperf.models import catalog; from clipperf.report import models;"
        "found = catalog.entries();"
        "models.models_json(found); models.models_table(found); took = time.process_time();"
        "heavy = {'torch', 'open_clip', 'timm', 'transformers', 'onnxruntime'} & set(sys.modules);"
        "assert not heavy, heavy; assert len(found) > 100; print(took)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        for _ in range(2)
    ]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    # CPU time of the whole process, imports included: wall time would measure its neighbours.
    assert min(float(run.stdout) for run in runs) < 1.0
