"""The protocol "openai": embeddings of texts as OpenAI's API gives them, which many servers speak.

https://platform.openai.com/docs/api-reference/embeddings. Vectors come in base64 where the server
can do that, which costs it and the client less than JSON's numbers.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from clipperf.engines.endpoint import UNREADABLE, Found, Protocol, Served, Wanted, checked, pick
from clipperf.engines.http import Answer, Http
from clipperf.errors import EngineError, UnsupportedError
from clipperf.nouns.endpoint import Endpoint
from clipperf.serialize import parse_json
from clipperf.text import one_line, shown

ENCODINGS = ("base64", "float")
"""How vectors can come, the quicker way first."""

PROBE = "a photo"
"""What is sent to find out how a server answers."""

PATH, JSON = "v1/embeddings", {"Content-Type": "application/json"}


def server(http: Http) -> str | None:
    """See `Protocol`: what names itself in its header, else nobody knows what it is."""
    answer = http.get("v1/models")
    found = answer.json
    if answer.status != 200 or not isinstance(found, dict) or "data" not in found:
        return None
    return one_line(answer.headers.get("server", ""), 80) or "unnamed"


def models(http: Http, wanted: Wanted, said: str) -> Found:
    """See `Protocol`."""
    texts_alone = f"{http.url}: {PROTOCOL.name} embeds texts alone: give --tower text"
    if "text" not in wanted.sides:
        raise UnsupportedError(texts_alone)
    try:
        served = [str(row["id"]) for row in http.get("v1/models").json["data"]]
    except UNREADABLE as exc:
        raise EngineError(f"{http.url}: its list of models cannot be read: {exc!r}") from exc
    names = pick(wanted, served, ())
    if not wanted.names and len(names) != 1:
        listed = ", ".join(map(shown, names[:20])) or "none"
        raise EngineError(f"{http.url}: serves {listed}: say which, with --served-as NAME")
    found = tuple(_endpoint(http, name, said) for name in names)
    return Found(found, {side: texts_alone for side in wanted.sides if side != "text"})


def _endpoint(http: Http, name: str, said: str) -> Endpoint:
    """A model, and in which encoding it gives vectors: an input is embedded to find out."""
    for encoding in ENCODINGS:
        where = f"{shown(name)} at {http.url}"
        answer = http.post(PATH, _body(name, [PROBE], encoding), JSON)
        if answer.status == 200:
            vectors, encoding = _vectors(answer, 1, where)
            return Endpoint(
                url=http.url,
                protocol=PROTOCOL.name,
                model=name,
                takes="texts",
                side="text",
                width=checked(vectors, 1, None, where).shape[1],
                encoding=encoding,
                server=said,
            )
    raise EngineError(f"{where}: HTTP {answer.status}: {answer.reason}")


def _body(name: str, texts: list[str], encoding: str) -> bytes:
    return json.dumps({"model": name, "input": texts, "encoding_format": encoding}).encode()


def _vectors(answer: Answer, rows: int, where: str) -> tuple[np.ndarray, str]:
    """The vectors of an answer by their places, and the encoding that they came in.

    Raises:
        EngineError: they cannot be read, or are not as many.
    """
    try:
        found = parse_json(answer.body, "its body")["data"]
        placed = {int(row.get("index", place)): row["embedding"] for place, row in enumerate(found)}
        if len(found) != rows or set(placed) != set(range(rows)):
            raise ValueError(f"{len(found)} vectors for {rows} inputs")
        encoding = "base64" if isinstance(placed[0], str) else "float"
        vectors = np.array([_vector(placed[place]) for place in range(rows)], np.float32)
    except UNREADABLE as exc:
        raise EngineError(f"{where}: the answer cannot be read: {exc}") from exc
    return vectors, encoding


def _vector(embedding: Any) -> np.ndarray:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    return np.array(embedding, np.float32)


class Engine(Served):
    """A model behind the protocol."""

    def vectors(self, array: np.ndarray, where: str) -> np.ndarray:
        """See `Served`; of a batch of strings."""
        body = _body(self._asked.model, array.tolist(), self._asked.encoding)
        answer = self._http.vectors(PATH, body, JSON, where)
        return _vectors(answer, len(array), where)[0]


PROTOCOL = Protocol("openai", server, models, Engine)
