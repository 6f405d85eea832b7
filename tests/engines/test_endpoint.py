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
from clipperf.engines import http, patience
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


def served(url: str, wanted: Wanted, protocol: str | None = None) -> tuple[Endpoint, ...]:
    """The models of a server that are to be measured."""
    return ask(url, wanted, protocol).endpoints


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
    found = {e.model: e for e in served(url, Wanted(SIDES, names))}
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
    image, text = served(url, BOTH)
    assert (image.model, image.takes, text.model, text.takes) == (
        *("clip_image", "image files"), *("clip_text", "texts"),
    )  # fmt: skip
    files = photos(3)
    np.testing.assert_allclose(embedded(image, files), own.encode_images(files), atol=1e-5)
    model_server.control(url, binary=False, models=["clip_image"])
    with pytest.raises(EngineError, match="takes image files, which no JSON holds"):
        served(url, BOTH)


@pytest.mark.parametrize("binary", [True, False])
def test_openai_embeds_texts(url: str, own: Any, binary: bool) -> None:
    model_server.control(url, binary=binary, protocols=["openai"])
    (endpoint,) = served(url, BOTH)
    assert "embeds texts alone: give --tower text" in ask(url, BOTH).missing["image"]
    assert (endpoint.protocol, endpoint.model, endpoint.side) == ("openai", "clip_text", "text")
    assert endpoint.encoding == ("base64" if binary else "float") and endpoint.width == 192
    np.testing.assert_allclose(embedded(endpoint, TEXTS), own.encode_texts(TEXTS), atol=1e-5)
    with pytest.raises(UnsupportedError, match="embeds texts alone: give --tower text"):
        served(url, Wanted(("image",)))


def test_which_model_is_taken(url: str) -> None:
    model_server.control(url, models=["clip_text_tower", "clip_text"])
    assert [e.model for e in served(url, BOTH)] == ["clip_text"], "the one that does the most"
    assert [e.model for e in served(url, Wanted(SIDES, model="clip_text_tower"))] == [
        "clip_text_tower"
    ]
    both = ("clip_text_tower", "clip_text")
    assert {e.model for e in served(url, Wanted(SIDES, both))} == set(both)
    with pytest.raises(EngineError, match="no model nope is served there; served are: clip_text_"):
        served(url, Wanted(SIDES, ("nope",)))
    with pytest.raises(EngineError, match="no model not_loaded is served there"):
        served(url, Wanted(SIDES, ("not_loaded",)))
    with pytest.raises(EngineError, match="none is an image tower; served are"):
        served(url, Wanted(("image",)))
    # A tower that is asked for and not there is told, unless the model was named.
    (text_only,) = served(url, BOTH)
    missing = ask(url, BOTH).missing
    assert text_only.side == "text" and set(missing) == {"image"}
    assert "none is an image tower; served are: clip_text_tower, clip_text" in missing["image"]
    assert not ask(url, Wanted(SIDES, ("clip_text",))).missing
    assert not ask(url, Wanted(SIDES, model="clip_text")).missing
    with pytest.raises(UnsupportedError, match="clip_text is no image tower"):
        ask(url, Wanted(("image",), ("clip_text",)))
    model_server.control(url, models=["one", "two"], protocols=["openai"])
    with pytest.raises(EngineError, match="serves one, two: say which, with --served-as"):
        served(url, TEXT)
    model_server.control(url, protocols=[])
    with pytest.raises(EngineError, match="speaks neither kserve nor openai"):
        served(url, TEXT)
    with pytest.raises(UsageError, match="choose from: kserve, openai"):
        served(url, TEXT, "grpc")


@pytest.mark.parametrize("protocol", ["kserve", "openai"])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("500", EngineError, "HTTP 500: the GPU is on fire"),
        ("400", EngineError, "HTTP 400: the GPU is on fire"),
        ("503", RefusedError, "HTTP 503: the GPU is on fire"),
        ("nonsense", EngineError, "the answer cannot be read"),
        ("width", EngineError, "gives vectors of 191 numbers, expected 192"),
        ("rows", EngineError, {"kserve": "answered 2x192 numbers to 3 inputs",
                               "openai": "2 vectors for 3 inputs"}),
        ("endless", EngineError, "the answer cannot be read"),
        ("nan", EngineError, "not finite"),
        ("broken", EngineError, "the connection broke"),
        ("reset", EngineError, "the connection broke"),
        ("slow", EngineError, "no answer within 0.5 s"),
    ],
)  # fmt: skip
def test_faults_of_a_server_are_told(
    url: str, protocol: str, fault: str, kind: type[EngineError], words: str | dict[str, str]
) -> None:
    # Of "openai" the first request for vectors is the one that finds out how they come.
    after = int(protocol == "openai")
    model_server.control(url, protocols=[protocol], fault=fault, after=after, seconds=2)
    (endpoint,) = served(url, TEXT)
    with pytest.raises(EngineError) as caught:
        embedded(endpoint, TEXTS, answer_s=0.5 if fault == "slow" else 20)
    said = words if isinstance(words, str) else words[protocol]
    assert type(caught.value) is kind and said in str(caught.value), caught.value
    assert url in str(caught.value)
    # Each request is sent once: a new connection that breaks is the server's fault.
    path = "/v2/models/clip_text/infer" if protocol == "kserve" else "/v1/embeddings"
    assert model_server.requests_seen(url)[path] == 1 + after


@pytest.mark.parametrize(
    ("fault", "every", "sent", "words"),
    [
        # The second is sent again over a new connection, which brings its answer.
        ("reset", 9, 3, None),
        ("closed", 9, 3, None),
        # The new connection breaks, too.
        ("reset", 1, 3, "the connection broke"),
        # A byte of the answer came.
        ("broken", 9, 2, "the connection broke"),
        ("bit", 9, 2, "the connection broke"),
    ],
)
def test_what_is_sent_again(url: str, fault: str, every: int, sent: int, words: str | None) -> None:
    (endpoint,) = served(url, TEXT)
    model_server.control(url, fault=fault, after=1, every=every)
    cell = Cell("m", "text", "kserve", "", REMOTE, 3, 1)
    engine = open_endpoint(EngineRequest(cell, SAMPLE, None, endpoint=endpoint), 20)
    texts = np.array(TEXTS, object)
    first = engine.run(texts)
    if words is None:
        np.testing.assert_array_equal(engine.run(texts), first)
    else:
        with pytest.raises(EngineError, match=words):
            engine.run(texts)
    engine.close()
    assert model_server.requests_seen(url)["/v2/models/clip_text/infer"] == sent


def test_a_server_that_ends_is_an_error(sample_artifact: Path) -> None:
    with model_server.serving(sample_artifact, fault="gone", after=0) as own_url:
        (endpoint,) = served(own_url, TEXT)
        with pytest.raises(EngineError, match="the connection broke: closed without an answer"):
            embedded(endpoint, TEXTS)


def test_several_models_that_do_as_much(url: str) -> None:
    inputs = {"a": ["INPUT_TEXT", "BYTES", [-1]], "b": ["INPUT_TEXT", "BYTES", [-1]],
              "c": ["pixels", "FP32", [-1, 3, 64, 64]]}  # fmt: skip
    model_server.control(url, inputs=inputs)
    found = ask(url, BOTH)
    assert [e.model for e in found.endpoints] == ["c"]
    assert "a, b all take texts: say which, with --served-as NAME" in found.missing["text"]
    with pytest.raises(EngineError, match="a, b all take texts"):
        ask(url, TEXT)
    assert [e.model for e in served(url, Wanted(SIDES, ("b",)))] == ["b"]


def test_shapes_that_are_none(url: str) -> None:
    model_server.control(url, inputs={"a": ["input_ids", "INT64", [-1, float("inf")]]})
    with pytest.raises(EngineError, match="metadata of a cannot be read: cannot convert float inf"):
        ask(url, TEXT)


def test_nobody_listens() -> None:
    port = other_tools.free_port()
    with pytest.raises(EngineError, match=r"nobody answers .*is the server running"):
        served(f"http://127.0.0.1:{port}", TEXT)


def test_a_token_comes_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.control(url, token="s3cret")
    monkeypatch.delenv(http.TOKEN, raising=False)
    with pytest.raises(EngineError, match=r"HTTP 401.*CLIPPERF_ENDPOINT_TOKEN.*there is none"):
        served(url, TEXT)
    monkeypatch.setenv(http.TOKEN, "wrong")
    with pytest.raises(EngineError, match="is refused") as caught:
        served(url, TEXT)
    assert "wrong" not in str(caught.value)
    model_server.control(url, token="s3cret", echo=True)  # of what it was sent, as some proxies do
    for token in ("wrong", "b+d/=="):
        monkeypatch.setenv(http.TOKEN, token)
        with pytest.raises(EngineError, match=r"no key is Bearer \*\*\*.*is refused") as caught:
            ask(url, TEXT)
        assert token not in str(caught.value)
    monkeypatch.setenv(http.TOKEN, "")
    with pytest.raises(EngineError, match="there is none"):
        ask(url, TEXT)
    model_server.control(url, token="s3cret")
    monkeypatch.setenv(http.TOKEN, "wro\nng")  # which no header may hold
    with pytest.raises(UsageError, match=f"{http.TOKEN} holds what no token may") as refused:
        served(url, TEXT)
    assert "wro" not in str(refused.value)
    monkeypatch.setenv(http.TOKEN, "s3cret")
    (endpoint,) = served(url, TEXT)
    assert "s3cret" not in repr(endpoint) and embedded(endpoint, TEXTS).shape == (3, 192)


def test_connections_are_kept(url: str) -> None:
    (endpoint,) = served(url, TEXT)
    cell = Cell("m", "text", "kserve", "", REMOTE, 1, 1)
    engine = open_endpoint(EngineRequest(cell, SAMPLE, None, endpoint=endpoint), 20)
    texts = np.array(["a cat"], object)
    for _ in range(5):
        engine.run(texts)
    pool = engine._http._pool.connection_from_url(url)  # type: ignore[attr-defined]
    assert (pool.num_connections, pool.num_requests) == (1, 5)
    # Beside what the server may still end of a request that another test has given up.
    assert engine.batches()[1] == 5  # type: ignore[attr-defined]
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


# --- patience ------------------------------------------------------------------------------


def refusals(after: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[float]]:
    """What becomes of a server that refuses so often, with these headers; and the pauses."""
    slept: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    left = list(after)

    def asked() -> str:
        if left:
            raise patience.refused("url: HTTP 429: busy", {"retry-after": left.pop(0)})
        return "there"

    try:
        return patience.patiently(asked), slept
    except RefusedError as exc:
        return str(exc), slept


def test_a_server_that_refuses_is_asked_again_within_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert refusals([], monkeypatch) == ("there", [])
    # Its own pauses, what the header asks for where that is longer, and never over ten seconds.
    odd = ["", "3", "0", "soon", "inf", "3600"]
    assert refusals(odd, monkeypatch) == ("there", [0.1, 3.0, 0.4, 0.8, 1.6, 10.0])
    past = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert refusals([past], monkeypatch) == ("there", [0.1])
    said, slept = refusals([""] * 8, monkeypatch)
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    assert said.startswith("url: HTTP 429: busy; asked 8 times in 12.7 s: it has too much to do")
    said, slept = refusals(["9"] * 8, monkeypatch)  # 9 + 9 + 9 would be over twenty
    assert slept == [9.0, 9.0] and "asked 3 times in 18.0 s" in said


@pytest.mark.parametrize("every", [2, 3])
def test_how_a_server_answers_is_seen_though_it_is_busy_now_and_then(url: str, every: int) -> None:
    """A refusal does not say that it lacks base64."""
    model_server.control(url, fault="503", every=every)
    (found,) = served(url, Wanted(("text",), ("clip_text",)), "openai")
    assert (found.encoding, found.width) == ("base64", 192)


def test_a_server_that_is_always_busy_is_named_as_that(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "TRIES", 2)
    model_server.control(url, fault="503")
    with pytest.raises(RefusedError, match=r"HTTP 503: the GPU is on fire; asked 2 times in 0\.1"):
        served(url, Wanted(("text",), ("clip_text",)), "openai")
