"""A small model server for tests, in a process of its own: KServe v2 and OpenAI's embeddings.

``python model_server.py ARTIFACT OPTIONS`` prints its port, and embeds with `clipperf.load`. It
knows four models, as ``clipperf export --layout triton`` names them, and is not written with the
code that it tests. Options are JSON, and what is posted to ``/control`` takes their place: which
``protocols`` it speaks, which ``models`` it has, whether tensors and vectors may travel in
``binary``, the ``token`` that it asks for (``echo``: and repeats a wrong one), other ``inputs`` of
models than it can embed, and a ``fault`` that comes from the ``after``-th request
for vectors on, in each ``every``-th of them.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

import clipperf
from clipperf.errors import ClipperfError

INPUTS = {
    "clip_image": ("image", "BYTES", [-1, 1]),
    "clip_text": ("text", "BYTES", [-1, 1]),
    "clip_image_tower": ("pixel_values", "FP32", [-1, 3, 64, 64]),
    "clip_text_tower": ("input_ids", "INT64", [-1, -1]),
}
TYPES = {"FP32": "<f4", "INT64": "<i8"}
MAX_BATCH = 8
ANSWERED = ("broken", "reset", "bit", "closed", "500", "503", "400", "nonsense", "endless")
"""Faults that leave nothing to say."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes | None) -> None:
        own = self.server
        with own.lock:
            own.seen[self.path] += 1
        if self.path == "/control":
            own.begin(json.loads(body or b"{}"))
            self.say({})
            return
        if self.path == "/seen":
            self.say(own.seen)
            return
        wanted = own.options.get("token")
        if wanted and self.headers.get("Authorization") != f"Bearer {wanted}":
            said = f"no key is {self.headers.get('Authorization')}"
            self.say({"error": said if own.options.get("echo") else "who are you?"}, 401)
            return
        words = self.path.strip("/").split("/")
        protocols = own.options.get("protocols", ["kserve", "openai"])
        try:
            if words[0] == "v2" and "kserve" in protocols:
                self.kserve(words[1:], body)
            elif words[0] == "v1" and "openai" in protocols:
                self.openai(words[1:], body)
            else:
                self.say({"error": "nothing here"}, 404)
        except ClipperfError as exc:
            self.say({"error": str(exc)}, 400)

    def say(self, value: Any, status: int = 200, raw: bytes = b"") -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        if raw:
            self.send_header("Inference-Header-Content-Length", str(len(data)))
        self.send_header("Content-Length", str(len(data) + len(raw)))
        self.end_headers()
        self.wfile.write(data + raw)

    def faulty(self) -> str:
        """The fault that is due now."""
        own = self.server
        number = next(own.numbers) - own.options.get("after", 0)
        due = number >= 0 and number % own.options.get("every", 1) == 0
        fault: str = own.options.get("fault", "") if due else ""
        if fault == "slow":
            time.sleep(own.options["seconds"])
        elif fault == "broken":
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\nhalf")
        elif fault in ("reset", "bit"):
            if fault == "bit":
                self.wfile.write(b"HTTP/1")
                time.sleep(0.1)  # a reset would take along what has not arrived
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault == "closed":
            self.close_connection = True
        elif fault == "gone":
            os._exit(3)
        elif fault in ("500", "503", "400"):
            self.say({"error": {"message": "the GPU is on fire"}}, int(fault))
        elif fault == "nonsense":
            self.say(b"<html>welcome</html>")
        elif fault == "endless":
            numbers = b'[{"name":"text_embeds","datatype":"FP32","shape":[1e999],"data":[1]}]'
            self.say(b'{"outputs":' + numbers + b',"data":[{"index":1e999,"embedding":[1]}]}')
        return fault

    def embedded(self, model: str, given: Any, fault: str) -> np.ndarray:
        own = self.server.model
        with self.server.lock:  # one batch at a time
            if model == "clip_image":
                found = own.encode_images(given)
            elif model == "clip_image_tower":
                found = own.encode_pixels(given)
            elif model == "clip_text_tower":
                found = own.encode_tokens(given)
            else:
                found = own.encode_texts(given)
            self.server.ran[model, len(found)] += 1
        if fault == "width":
            return found[:, :-1]
        if fault == "rows":
            return found[:-1]
        if fault == "nan":
            found[0, 0] = np.nan
        if fault == "other":
            found = np.roll(found, 1, axis=1)
        return found

    def kserve(self, words: list[str], body: bytes | None) -> None:
        binary = self.server.options.get("binary", True)
        if not words:
            extensions = ["binary_tensor_data", "statistics"] if binary else []
            self.say({"name": "tests", "version": "1.0", "extensions": extensions})
            return
        if words == ["repository", "index"] and binary:
            ready = [{"name": n, "version": "1", "state": "READY"} for n in self.served()]
            self.say([*ready, {"name": "not_loaded"}])  # as Triton says it
            return
        name = words[1] if len(words) > 1 else ""
        if name not in self.served():
            self.say({"error": f"unknown model {name}"}, 404)
            return
        tensor, kind, shape = self.inputs()[name]
        output = f"{'text' if 'text' in name else 'image'}_embeds"
        if len(words) == 2:
            wide = {"name": output, "datatype": "FP32", "shape": [-1, 192]}
            given = {"name": tensor, "datatype": kind, "shape": shape}
            self.say({"name": name, "inputs": [given], "outputs": [wide]})
        elif words[2] == "config" and binary:
            self.say({"max_batch_size": MAX_BATCH})
        elif words[2] == "stats" and binary:
            ran = [(size, n) for (model, size), n in self.server.ran.items() if model == name]
            rows = [{"batch_size": s, "compute_infer": {"count": n}} for s, n in ran]
            self.say({"model_stats": [{"batch_stats": rows}]})
        elif words[2] == "infer":
            fault = self.faulty()
            if fault not in ANSWERED:
                assert body is not None
                self.infer(name, output, body, fault)
        else:
            self.say({"error": "no such thing"}, 404)

    def served(self) -> list[str]:
        return list(self.server.options.get("models", self.inputs()))

    def inputs(self) -> dict[str, Any]:
        """What each model takes, in the words of its metadata."""
        found: dict[str, Any] = self.server.options.get("inputs", INPUTS)
        return found

    def infer(self, name: str, output: str, body: bytes, fault: str) -> None:
        length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
        head = json.loads(body[:length])
        (tensor,) = head["inputs"]
        kind, shape = tensor["datatype"], tensor["shape"]
        assert (tensor["name"], kind) == INPUTS[name][:2] and len(shape) == len(INPUTS[name][2])
        if "data" not in tensor:
            raw = body[length:]
            assert len(raw) == tensor["parameters"]["binary_data_size"]
            given: Any = strings(raw) if kind == "BYTES" else np.frombuffer(raw, TYPES[kind])
        else:
            given = tensor["data"] if kind == "BYTES" else np.array(tensor["data"], TYPES[kind])
        if name == "clip_text":
            given = [each.decode() if isinstance(each, bytes) else each for each in given]
        if kind != "BYTES":
            given = given.reshape(shape)
        assert len(given) == shape[0]
        if len(given) > MAX_BATCH:
            self.say({"error": f"batch-size must be <= {MAX_BATCH}"}, 400)
            return
        found = self.embedded(name, given, fault)
        said: dict[str, Any] = {"name": output, "datatype": "FP32", "shape": list(found.shape)}
        (wanted,) = head["outputs"]
        if wanted.get("parameters", {}).get("binary_data"):
            data = found.astype("<f4").tobytes()
            said["parameters"] = {"binary_data_size": len(data)}
            self.say({"model_name": name, "outputs": [said]}, raw=data)
        else:
            said["data"] = found.reshape(-1).astype(float).tolist()
            self.say(json.dumps({"model_name": name, "outputs": [said]}).encode())

    def openai(self, words: list[str], body: bytes | None) -> None:
        if words == ["models"]:
            names = self.server.options.get("models", ["clip_text"])
            self.say({"object": "list", "data": [{"id": name} for name in names]})
        elif words == ["embeddings"] and body is not None:
            asked = json.loads(body)
            if asked["encoding_format"] == "base64" and not self.server.options.get("binary", True):
                self.say({"error": {"message": "encoding_format: float alone"}}, 400)
                return
            fault = self.faulty()
            if fault in ANSWERED:
                return
            found = self.embedded("clip_text", asked["input"], fault).astype("<f4")
            coded = asked["encoding_format"] == "base64"
            vectors = [base64.b64encode(v).decode() if coded else v.tolist() for v in found]
            data = [{"index": place, "embedding": v} for place, v in enumerate(vectors)]
            self.say({"object": "list", "data": data[::-1]})
        else:
            self.say({"error": {"message": "no such thing"}}, 404)


def strings(raw: bytes) -> list[bytes]:
    """The strings of a BYTES tensor, each behind its length."""
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    model: Any

    def begin(self, options: dict[str, Any]) -> None:
        """Be as new, with these options."""
        self.options, self.lock = options, threading.Lock()
        self.seen: Counter[str] = Counter()
        self.ran: Counter[tuple[str, int]] = Counter()
        self.numbers = itertools.count()


def main() -> None:
    server = Server(("127.0.0.1", 0), Handler)
    server.begin(json.loads(sys.argv[2]))
    with clipperf.load(sys.argv[1]) as model:
        server.model = model
        print(server.server_address[1], flush=True)
        server.serve_forever()


def control(url: str, **options: Any) -> None:
    """Give a server other options."""
    request = urllib.request.Request(f"{url}/control", json.dumps(options).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()


def requests_seen(url: str) -> dict[str, int]:
    """How often each path was asked for since the server had these options."""
    with urllib.request.urlopen(f"{url}/seen", timeout=60) as answer:
        found: dict[str, int] = json.loads(answer.read())
        return found


@contextlib.contextmanager
def serving(artifact: Path, **options: Any) -> Iterator[str]:
    """The URL of such a server, in a process of its own, which ends with the block."""
    words = [sys.executable, __file__, str(artifact), json.dumps(options)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


if __name__ == "__main__":
    main()
