"""The protocol "kserve": KServe's Open Inference Protocol v2 over HTTP, as Triton speaks it.

https://github.com/kserve/open-inference-protocol. Tensors travel as they lie in memory where the
server has Triton's extension for that
(https://github.com/triton-inference-server/server/tree/main/docs/protocol, "binary_tensor_data"),
else as JSON. Triton's extensions also say which models there are, how many inputs one takes at
once, and which batches it ran.
"""

from __future__ import annotations

import json
import math
from typing import Any
from urllib.parse import quote

import numpy as np

from clipperf.engines.endpoint import UNREADABLE, Found, Protocol, Served, Wanted, listing, pick
from clipperf.engines.http import Answer, Http
from clipperf.errors import EngineError, UnsupportedError
from clipperf.nouns.artifact import OUTPUT_NAMES
from clipperf.nouns.endpoint import Endpoint, Takes
from clipperf.nouns.variant import SIDES, Side
from clipperf.serialize import parse_json
from clipperf.text import one_line, shown

USUAL = tuple(f"clip_{side}{end}" for end in ("", "_tower") for side in SIDES)
"""What ``clipperf export --layout triton`` calls its models; those of bytes and strings first."""

NUMBERS = {
    "FP64": "<f8",
    "FP32": "<f4",
    "FP16": "<f2",
    "INT64": "<i8",
    "INT32": "<i4",
    "UINT8": "u1",
}
"""Numpy's types of the protocol's; BYTES are counted one by one."""

BINARY = "binary_tensor_data"
LENGTH = "inference-header-content-length"
"""The header with the length of the JSON that comes before tensors as they lie in memory."""

FIRST: tuple[Takes, ...] = ("image files", "texts", "pixels", "tokens")
"""Of several models of a tower the one is taken that does the most."""


def server(http: Http) -> str | None:
    """See `Protocol`."""
    found = http.get("v2").json
    if not isinstance(found, dict) or "name" not in found or "error" in found:
        return None
    return one_line(f"{found['name']} {found.get('version', '')}", 80)


def models(http: Http, wanted: Wanted, said: str) -> Found:
    """See `Protocol`."""
    served = _served(http, wanted)
    described = http.get("v2").json
    extensions = described.get("extensions") if isinstance(described, dict) else None
    binary = isinstance(extensions, list) and BINARY in extensions
    encoding = "binary" if binary else "json"
    found, problems = [], []
    for name in pick(wanted, served, USUAL):
        try:
            found.append(_endpoint(http, name, wanted, encoding, said))
        except UnsupportedError as exc:
            problems.append(str(exc))
    if wanted.names:
        for each in found:
            if each.side not in wanted.sides:
                problems.append(f"{shown(each.model)} is no {' or '.join(wanted.sides)} tower")
        if problems:
            raise UnsupportedError(f"{http.url}: {'; '.join(problems)}: see --served-as, --tower")
        return Found(tuple(sorted(found, key=lambda each: wanted.sides.index(each.side))))
    taken, missing = [], {}
    for side in wanted.sides:
        try:
            taken.append(_one(found, side, problems))
        except EngineError as exc:
            missing[side] = f"{http.url}: no model to measure: {exc}; {listing(served)}"
    if not taken:
        raise EngineError("; ".join(dict.fromkeys(missing.values())))
    return Found(tuple(taken), missing)


def _one(found: list[Endpoint], side: Side, problems: list[str]) -> Endpoint:
    """Of all models the one of a tower that does the most.

    Raises:
        EngineError: there is none, or several that do as much.
    """
    mine = [each for each in found if each.side == side]
    if not mine:
        raise EngineError("; ".join(problems) or f"none is an {side} tower")
    first = min((each.takes for each in mine), key=FIRST.index)
    best = [each for each in mine if each.takes == first]
    if len(best) > 1:
        names = ", ".join(shown(each.model) for each in best[:20])
        raise EngineError(f"{names} all take {first}: say which, with --served-as NAME")
    return best[0]


def _served(http: Http, wanted: Wanted) -> list[str]:
    """The names of models that are ready: those of the repository, where the server lists them.

    Triton lists what is not loaded, too, without a state.
    """
    listed = http.post("v2/repository/index", b"{}", {"Content-Type": "application/json"}).json
    if isinstance(listed, list):
        rows = [row for row in listed if isinstance(row, dict) and "name" in row]
        states = any("state" in row for row in rows)
        return [str(row["name"]) for row in rows if not states or row.get("state") == "READY"]
    asked = dict.fromkeys((*wanted.names, *filter(None, (wanted.model,)), *USUAL))
    return [name for name in asked if http.get(_path(name)).status == 200]


def _path(model: str) -> str:
    return f"v2/models/{quote(model, safe='')}"


def _endpoint(http: Http, name: str, wanted: Wanted, encoding: str, said: str) -> Endpoint:
    """What a model's metadata comes to.

    Raises:
        UnsupportedError: it takes or gives what no tower does.
        EngineError: the metadata cannot be read.
    """
    answer = http.get(_path(name))
    found = answer.json
    try:
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {answer.reason}")
        inputs = [(str(t["name"]), str(t["datatype"]), _shape(t)) for t in found["inputs"]]
        outputs = [(str(t["name"]), str(t["datatype"]), _shape(t)) for t in found["outputs"]]
    except UNREADABLE as exc:
        raise EngineError(f"{http.url}: metadata of {shown(name)} cannot be read: {exc}") from exc
    masks = tuple((n, d) for n, d, _ in inputs if "mask" in n and d in ("INT64", "INT32"))
    own = [each for each in inputs if each[:2] not in masks]
    if len(own) != 1:
        raise UnsupportedError(f"{shown(name)} takes {len(own)} inputs, and a tower takes one")
    ((tensor, datatype, shape),) = own
    takes, side = _taken(name, tensor, datatype, shape, wanted)
    if takes == "image files" and encoding != "binary":
        raise UnsupportedError(
            f"{shown(name)} takes image files, which no JSON holds, and the server lacks {BINARY}"
        )
    given = [t for t in outputs if t[1].startswith("FP") and len(t[2]) == 2]
    named = [t for t in given if t[0] == OUTPUT_NAMES[side]] or given
    if not named or named[0][1] not in NUMBERS:
        raise UnsupportedError(f"{shown(name)} gives no vectors of floats [batch, width]")
    output, _, dims = named[0]
    return Endpoint(
        url=http.url,
        protocol=PROTOCOL.name,
        model=name,
        takes=takes,
        side=side,
        input=tensor,
        datatype=datatype,
        shape=shape,
        also=masks,
        output=output,
        width=dims[1] if dims[1] > 0 else None,
        encoding=encoding,
        server=said,
        max_batch=_max_batch(http, name),
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor["shape"])


def _taken(
    name: str, tensor: str, datatype: str, shape: tuple[int, ...], wanted: Wanted
) -> tuple[Takes, Side]:
    """What a model takes, and which tower it is."""
    if datatype == "BYTES" and len(shape) in (1, 2):
        words = f"{tensor} {name}".lower()
        sides = [s for s in SIDES if s in tensor.lower()] or [s for s in SIDES if s in words]
        if len(sides) != 1:
            sides = list(wanted.sides)
        if len(sides) != 1:
            raise UnsupportedError(
                f"{shown(name)} takes bytes as {shown(tensor)!r}: give --tower image for image "
                f"files, --tower text for texts"
            )
        return ("image files" if sides[0] == "image" else "texts"), sides[0]
    if datatype in ("INT64", "INT32") and len(shape) == 2:
        return "tokens", "text"
    if datatype in ("FP32", "FP16", "UINT8") and len(shape) == 4 and shape[1] in (3, -1):
        return "pixels", "image"
    dims = ", ".join(map(str, shape))
    raise UnsupportedError(f"{shown(name)} takes {datatype} [{dims}], which is no tower's input")


def _max_batch(http: Http, name: str) -> int | None:
    """The most inputs of a request, by Triton's extension."""
    found = http.get(f"{_path(name)}/config").json
    most = found.get("max_batch_size") if isinstance(found, dict) else None
    return most if isinstance(most, int) and most > 0 else None


class Engine(Served):
    """A model behind the protocol."""

    def vectors(self, array: np.ndarray, where: str) -> np.ndarray:
        """See `Served`."""
        asked = self._asked
        body, headers = request_of(asked, array)
        answer = self._http.vectors(f"{_path(asked.model)}/infer", body, headers, where)
        return tensor_in(answer, asked.output, where)

    def batches(self) -> dict[int, int] | None:
        """How many batches of which size were run since the model was loaded (Triton's account)."""
        found = self._http.get(f"{_path(self._asked.model)}/stats").json
        try:
            rows = [row for each in found["model_stats"] for row in each["batch_stats"]]
            counted: dict[int, int] = {}
            for row in rows:
                size = int(row["batch_size"])
                counted[size] = counted.get(size, 0) + int(row["compute_infer"]["count"])
        except UNREADABLE:
            return None
        return counted


def request_of(asked: Endpoint, array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a request for a batch's vectors."""
    shape = [len(array), *([1] if array.ndim == 1 and len(asked.shape) == 2 else array.shape[1:])]
    tensors: list[tuple[str, str, np.ndarray]] = [(asked.input, asked.datatype, array)]
    tensors += [(name, kind, np.ones(array.shape)) for name, kind in asked.also]
    binary = asked.encoding == "binary"
    said, raw = [], []
    for name, kind, values in tensors:
        tensor: dict[str, Any] = {"name": name, "shape": shape, "datatype": kind}
        if binary:
            data = _in_memory(values, kind)
            tensor["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            plain = values if kind == "BYTES" else values.astype(NUMBERS[kind])
            tensor["data"] = plain.reshape(-1).tolist()
        said.append(tensor)
    output: dict[str, Any] = {"name": asked.output}
    if binary:
        output["parameters"] = {"binary_data": True}
    head = json.dumps({"inputs": said, "outputs": [output]}).encode()
    if not binary:
        return head, {"Content-Type": "application/json"}
    return b"".join((head, *raw)), {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(head)),
    }


def _in_memory(values: np.ndarray, kind: str) -> bytes:
    """A tensor as it travels in binary: little-endian numbers, or each string behind its length."""
    if kind != "BYTES":
        return values.astype(NUMBERS[kind], copy=False).tobytes()
    parts: list[bytes] = []
    for value in values.reshape(-1):
        data = value.encode() if isinstance(value, str) else value
        parts += (len(data).to_bytes(4, "little"), data)
    return b"".join(parts)


def tensor_in(answer: Answer, name: str, where: str) -> np.ndarray:
    """A tensor of an answer, in either encoding.

    Raises:
        EngineError: it is not in there, or what is there is damaged.
    """
    try:
        length = int(answer.headers.get(LENGTH, len(answer.body)))
        head, raw = parse_json(answer.body[:length], "its head"), answer.body[length:]
        start = 0
        for tensor in head["outputs"]:
            size = tensor.get("parameters", {}).get("binary_data_size", 0)
            if tensor["name"] == name:
                kind, shape = np.dtype(NUMBERS[tensor["datatype"]]), _shape(tensor)
                if not size:
                    return np.array(tensor["data"], kind).reshape(shape)
                if size != math.prod(shape) * kind.itemsize or len(raw) < start + size:
                    raise ValueError(f"{len(raw)} bytes for {shape}")
                return np.frombuffer(raw, kind, math.prod(shape), start).reshape(shape)
            start += size
        raise ValueError(f"no tensor {name!r}")
    except UNREADABLE as exc:
        raise EngineError(f"{where}: the answer cannot be read: {exc}") from exc


PROTOCOL = Protocol("kserve", server, models, Engine)
