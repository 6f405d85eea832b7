"""Servers are asked, in both protocols, by requests that a real server in another process gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model_server
import numpy as np
import other_tools
import pytest

import clipperf
from clipperf.bench.endpoint_inputs import photos
from clipperf.engines import http
from clipperf.engines.endpoint import Wanted, ask, open_endpoint
from clipperf.errors import EngineError, RefusedError, UnsupportedError, UsageError
from clipperf.nouns.cell import Cell, EngineRequest
from clipperf.nouns.endpoint import REMOTE, Endpoint
from clipperf.nouns.model import ModelSpec
from clipperf.nouns.variant import SIDES

BOTH, TEXT = Wanted(SIDES), Wanted(("text",))
SAMPLE = ModelSpec("clipperf-sample", "sample", "clipperf-sample", "bundled", 64, 77, 192)
TEXTS = ["a drawing of a cat", "東京", "a red bus"]


@pytest.fixture(scope="module")
def running(sample_artifact: Path) -> Iterator[str]:
    with model_server.serving(sample_artifact) as url:
        yield url


@pytest.fixture
def url(running: str) -> str:
    """The server, as new; `model_server.control` gives it other options."""
    model_server.control(running)
    return running


@pytest.fixture(scope="module")
def own(sample_artifact: Path) -> Iterator[Any]:
    with clipperf.load(sample_artifact) as model:
        yield model


def embedded(endpoint: Endpoint, given: list[Any] | np.ndarray, answer_s: float = 20) -> np.ndarray:
    """Vectors by an engine for a served model."""
    array = given
    if isinstance(given, list):
        array = np.empty(len(given), object)
        array[:] = given
    cell = Cell("m", endpoint.side, endpoint.protocol, "", REMOTE, len(array), 1)
    request = EngineRequest(cell, SAMPLE, None, endpoint=endpoint)
    engine = open_endpoint(request, answer_s)
    try:
        return engine.run(array)
    finally:
        engine.close()


@pytest.mark.parametrize("binary", [True, False])
def test_kserve_serves_texts_pixels_and_tokens(url: str, own: Any, binary: bool) -> None:
    model_server.control(url, binary=binary, protocols=["kserve"])
    names = ("clip_text", "clip_image_tower", "clip_text_tower")
    found = {e.model: e for e in ask(url, Wanted(SIDES, names))}
    assert {e.encoding for e in found.values()} == {"binary" if binary else "json"}
    assert all(e.server == "tests 1.0" and e.width == 192 for e in found.values())
    assert found["clip_text"].max_batch == (8 if binary else None)
    assert [found[name].takes for name in names] == ["texts", "pixels", "tokens"]
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    tokens = own.tokenizer(TEXTS)
    for name, given, expected in (
        ("clip_text", TEXTS, own.encode_texts(TEXTS)),
        ("clip_image_tower", pixels, own.encode_pixels(pixels)),
        ("clip_text_tower", tokens, own.encode_tokens(tokens)),
    ):
        vectors = embedded(found[name], given)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_kserve_takes_image_files_in_binary_alone(url: str, own: Any) -> None:
    image, text = ask(url, BOTH)
    assert (image.model, image.takes, text.model, text.takes) == (
        *("clip_image", "image files"), *("clip_text", "texts"),
    )  # fmt: skip
    files = photos(3)
    np.testing.assert_allclose(embedded(image, files), own.encode_images(files), atol=1e-5)
    model_server.control(url, binary=False, models=["clip_image"])
    with pytest.raises(EngineError, match="takes image files, which no JSON holds"):
        ask(url, BOTH)


@pytest.mark.parametrize("binary", [True, False])
def test_openai_embeds_texts(url: str, own: Any, binary: bool) -> None:
    model_server.control(url, binary=binary, protocols=["openai"])
    (endpoint,) = ask(url, BOTH)
    assert (endpoint.protocol, endpoint.model, endpoint.side) == ("openai", "clip_text", "text")
    assert endpoint.encoding == ("base64" if binary else "float") and endpoint.width == 192
    np.testing.assert_allclose(embedded(endpoint, TEXTS), own.encode_texts(TEXTS), atol=1e-5)
    with pytest.raises(UnsupportedError, match="embeds texts alone: give --tower text"):
        ask(url, Wanted(("image",)))


def test_which_model_is_taken(url: str) -> None:
    model_server.control(url, models=["clip_text_tower", "clip_text"])
    assert [e.model for e in ask(url, BOTH)] == ["clip_text"], "the one that does the most"
    assert [e.model for e in ask(url, Wanted(SIDES, model="clip_text_tower"))] == [
        "clip_text_tower"
    ]
    both = ("clip_text_tower", "clip_text")
    assert {e.model for e in ask(url, Wanted(SIDES, both))} == set(both)
    with pytest.raises(EngineError, match="no model nope is served there; served are: clip_text_"):
        ask(url, Wanted(SIDES, ("nope",)))
    with pytest.raises(EngineError, match="no model not_loaded is served there"):
        ask(url, Wanted(SIDES, ("not_loaded",)))
    with pytest.raises(EngineError, match="none is an image tower; served are"):
        ask(url, Wanted(("image",)))
    model_server.control(url, models=["one", "two"], protocols=["openai"])
    with pytest.raises(EngineError, match="serves one, two: say which, with --served-as"):
        ask(url, TEXT)
    model_server.control(url, protocols=[])
    with pytest.raises(EngineError, match="speaks neither kserve nor openai"):
        ask(url, TEXT)
    with pytest.raises(UsageError, match="choose from: kserve, openai"):
        ask(url, TEXT, "grpc")


@pytest.mark.parametrize("protocol", ["kserve", "openai"])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("500", EngineError, "HTTP 500: the GPU is on fire"),
        ("400", EngineError, "HTTP 400: the GPU is on fire"),
        ("503", RefusedError, "HTTP 503: the GPU is on fire"),
        ("nonsense", EngineError, "the answer cannot be read"),
        ("width", EngineError, "gives vectors of 191 numbers, expected 192"),
        ("rows", EngineError, "2"),
        ("nan", EngineError, "not finite"),
        ("broken", EngineError, "the connection broke"),
        ("slow", EngineError, "no answer within 0.5 s"),
    ],
)
def test_faults_of_a_server_are_told(
    url: str, protocol: str, fault: str, kind: type[EngineError], words: str
) -> None:
    # Of "openai" the first request for vectors is the one that finds out how they come.
    after = int(protocol == "openai")
    model_server.control(url, protocols=[protocol], fault=fault, after=after, seconds=2)
    (endpoint,) = ask(url, TEXT)
    with pytest.raises(EngineError) as caught:
        embedded(endpoint, TEXTS, answer_s=0.5 if fault == "slow" else 20)
    assert type(caught.value) is kind and words in str(caught.value), caught.value
    assert url in str(caught.value)


def test_nobody_listens() -> None:
    port = other_tools.free_port()
    with pytest.raises(EngineError, match=r"nobody answers .*is the server running"):
        ask(f"http://127.0.0.1:{port}", TEXT)


def test_a_token_comes_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.control(url, token="s3cret")
    monkeypatch.delenv(http.TOKEN, raising=False)
    with pytest.raises(EngineError, match=r"HTTP 401.*CLIPPERF_ENDPOINT_TOKEN.*there is none"):
        ask(url, TEXT)
    monkeypatch.setenv(http.TOKEN, "wrong")
    with pytest.raises(EngineError, match="is refused") as caught:
        ask(url, TEXT)
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv(http.TOKEN, "wro\nng")  # which no header may hold
    with pytest.raises(UsageError, match=f"{http.TOKEN} holds what no token may") as refused:
        ask(url, TEXT)
    assert "wro" not in str(refused.value)
    monkeypatch.setenv(http.TOKEN, "s3cret")
    (endpoint,) = ask(url, TEXT)
    assert "s3cret" not in repr(endpoint) and embedded(endpoint, TEXTS).shape == (3, 192)


def test_connections_are_kept(url: str) -> None:
    (endpoint,) = ask(url, TEXT)
    cell = Cell("m", "text", "kserve", "", REMOTE, 1, 1)
    engine = open_endpoint(EngineRequest(cell, SAMPLE, None, endpoint=endpoint), 20)
    texts = np.array(["a cat"], object)
    for _ in range(5):
        engine.run(texts)
    pool = engine._http._pool.connection_from_url(url)  # type: ignore[attr-defined]
    assert (pool.num_connections, pool.num_requests) == (1, 5)
    assert engine.batches() == {1: 5}  # type: ignore[attr-defined]
    engine.close()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("http://host:8000/", "http://host:8000"),
        ("https://host/api/v1/", "https://host/api"),
        ("http://[::1]:8000/v2", "http://[::1]:8000"),
    ],
)
def test_urls(given: str, found: str) -> None:
    assert http.base_url(given) == found


@pytest.mark.parametrize(
    "given",
    ["host:8000", "ftp://host", "http://", "http://host:99999", "http://me:pw1@host",
     "http://host/?key=pw1", "http://host/#pw1"],
)  # fmt: skip
def test_what_is_no_url_or_holds_a_secret(given: str) -> None:
    with pytest.raises(UsageError, match="--endpoint") as caught:
        http.base_url(given)
    assert "pw1" not in str(caught.value)
