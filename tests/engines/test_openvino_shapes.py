"""OpenVINO keeps so many shapes and no more, and is given texts of few lengths."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino", reason="needs the extra openvino")

import openvino

import clipperf
from clipperf.engines import openvino as engines
from clipperf.engines import openvino_shapes
from clipperf.engines.openvino_shapes import NAMES, SHAPES, near_lengths, one_cache
from clipperf.export.make import make
from clipperf.models import zoo
from clipperf.nouns.variant import Variant

GROWTH_BYTES = 20 * 2**20
"""Of 310 new shapes, which take 3 MiB on a processor with AVX-512; with a cache of oneDNN's own
beside OpenVINO's 35, without any bound 56."""

CHILD = """
import json, os, sys
from pathlib import Path
import numpy as np
from clipperf.engines import openvino
from clipperf.system.processes import status_bytes, trim_heap

engine = openvino.open_compiled(Path(sys.argv[1]), 2)
engine.run(np.full((16, 77), 49407, np.int64))
shapes = [(batch, length) for batch in range(1, 17) for length in range(7, 77, 2)]
order = np.random.default_rng(0).permutation(len(shapes))
held = []
for count, place in enumerate(order, 1):
    engine.run(np.full(shapes[place], 49407, np.int64))
    if count in (250, len(order)):
        trim_heap()
        held.append(status_bytes("RssAnon"))
print(json.dumps([len(order), held, [name for name in os.environ if "CACHE_CAPACITY" in name]]))
"""


@pytest.fixture(scope="module")
def model(sample_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's text tower as an IR."""
    path = tmp_path_factory.mktemp("ir") / "model.xml"
    openvino.save_model(openvino.convert_model(sample_artifact / "text" / "model.onnx"), path)
    return path


def test_to_no_text_is_added_more_than_a_twentieth() -> None:
    lengths = near_lengths()
    assert lengths[:20] == (*range(3, 20), 21, 23, 25), "by hand: 20 + 20 // 20, 22 + 22 // 20"
    assert lengths[-1] >= 512
    for shorter, padded in itertools.pairwise(lengths):
        assert shorter < padded
        assert 20 * (padded - (shorter + 1)) <= shorter + 1


def test_a_tower_is_compiled_with_the_bound(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO takes the setting and does not tell it again."""
    given: list[dict[str, object]] = []
    real = openvino.Core.compile_model

    def compiled(core: object, file: Path, device: str, settings: dict[str, object]) -> object:
        given.append(settings)
        return real(core, file, device, settings)

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    before = dict(os.environ)
    with closing(engines.open_compiled(model, 1)) as engine:
        assert engine.run(np.full((1, 7), 49407, np.int64)).shape == (1, 192)
    assert [settings["CPU_RUNTIME_CACHE_CAPACITY"] for settings in given] == [SHAPES]
    assert dict(os.environ) == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_many_shapes(model: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(model)],
        capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shapes, (early, late), variables = json.loads(done.stdout)
    assert shapes == 560 > 2 * SHAPES
    assert late - early < GROWTH_BYTES, f"{(late - early) / 2**20:.0f} MiB more"
    assert variables == [], "taken back"


def test_only_the_first_tower_is_compiled_with_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    openvino_shapes._compiled_in.clear()
    with pytest.raises(RuntimeError, match="not compiled"), one_cache():
        raise RuntimeError("not compiled")
    with one_cache():
        assert os.environ[NAMES[0]] == "0", "the first that is compiled, not that failed"
    assert NAMES[0] not in os.environ
    with one_cache():
        assert NAMES[0] not in os.environ
    openvino_shapes._compiled_in.clear()
    monkeypatch.setenv(NAMES[1], "100")
    with one_cache():
        assert NAMES[0] not in os.environ, "users decide"
    assert os.environ[NAMES[1]] == "100"
    openvino_shapes._compiled_in.add(os.getpid())


def test_texts_come_in_few_lengths_with_the_embeddings_of_their_own(
    sample_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPPERF_HOME", str(sample_artifact.parents[3]))
    done = make(zoo.resolve("clipperf-sample"), ("text",), Variant("openvino"))
    texts = [" ".join(["red", "apple", "big"][: 1 + i % 3] * i) for i in range(76)]
    with clipperf.load(done.folder, threads=1) as model:
        engine = model._engines["text"]
        assert isinstance(engine, engines.OpenVinoEngine)
        padded = np.concatenate([model.encode_texts([text]) for text in texts])
        lengths = {shape[1] for _, shape in engine._laid_out}
        assert lengths <= {*near_lengths(), model._tokenizer.context_tokens}  # type: ignore[union-attr]
        assert 20 < len(lengths) <= 39
        engine.token_buckets = ()
        own = np.concatenate([model.encode_texts([text]) for text in texts])
        assert len({shape[1] for _, shape in engine._laid_out}) > len(lengths)
    np.testing.assert_allclose(padded, own, atol=2e-5)
