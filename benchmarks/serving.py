"""What a server around a model costs: Triton and the same model in this process, under load.

    clipperf export ViT-B-32 --pretrained random --precision int8 --layout triton \\
        --out repository
    tritonserver --model-repository=repository --model-control-mode=explicit \\
        --load-model=clip_image --load-model=clip_text
    python benchmarks/serving.py repository --http 127.0.0.1:8000

1, 8 and 64 clients each send one input after the other, in turns against Triton over HTTP and
against `clipperf.load` of the folder in the repository, called from as many threads. Both have all
cores, which the clients share with Triton. Rates are inputs that were answered a second; times are
of single requests, p99 only where 662 of them back it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import statistics
import threading
import time
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import asked

import clipperf
from clipperf.models import sample
from clipperf.nouns.variant import SIDES, Side

CLIENTS = (1, 8, 64)
FOR_P99 = 662
"""Requests that back a 99th percentile (MLPerf)."""

Ask = Callable[[int], None]
"""Sends the input of a number and waits for its vector."""


def main() -> None:
    """Print one Markdown row for each tower and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repository", type=asked.folder)
    parser.add_argument("--http", default="127.0.0.1:8000")
    parser.add_argument("--seconds", type=asked.seconds, default=10)
    parser.add_argument("--rounds", type=asked.count, default=3)
    parser.add_argument("--towers", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--also", help="another model of Triton's that takes images")
    options = parser.parse_args()
    print("| tower | clients | where | inputs/s | p50 ms | p99 ms |\n|---|---:|---|---:|---:|---:|")
    for side in options.towers:
        inputs = make_inputs(side)
        with clipperf.load(options.repository / f"clip_{side}" / side) as model:
            places: dict[str, Callable[[], Ask]] = {
                "Triton": partial(over_http, options.http, f"clip_{side}", inputs),
                "in process": partial(within, model, side, inputs),
            }
            if options.also and side == "image":
                places[options.also] = partial(over_http, options.http, options.also, inputs)
            for clients in CLIENTS:
                found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in places}
                for _ in range(options.rounds):
                    for name, connect in places.items():
                        found[name].append(load(connect, clients, options.seconds))
                for name, rounds in found.items():
                    print(row(side, clients, name, rounds), flush=True)


def make_inputs(side: Side) -> list[Any]:
    """100 captions of the bundled sample, or its drawings at 640 x 480 px as JPEG files."""
    from PIL import Image

    with zipfile.ZipFile(sample.folder() / "eval.zip") as archive:
        entries = [json.loads(x) for x in archive.read("captions.jsonl").splitlines()[::16][:100]]
        if side == "text":
            return [entry["caption"] for entry in entries]
        files = []
        for entry in entries[:20]:
            image = Image.open(io.BytesIO(archive.read(entry["image"]))).convert("RGB")
            made = io.BytesIO()
            image.resize((640, 480)).save(made, "JPEG", quality=90)
            files.append(made.getvalue())
        return files


def over_http(address: str, model: str, inputs: list[Any]) -> Ask:
    """One connection to a model of Triton's."""
    connection = http.client.HTTPConnection(address, timeout=120)
    path = f"/v2/models/{model}/infer"

    def ask(number: int) -> None:
        given = inputs[number % len(inputs)]
        data = given.encode() if isinstance(given, str) else given
        headers = {"Inference-Header-Content-Length": "0"}
        connection.request("POST", path, data, headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"Triton answers {answer.status}: {said[:300]!r}")

    return ask


def within(model: Any, side: Side, inputs: list[Any]) -> Ask:
    """The model in this process."""
    encode = model.encode_texts if side == "text" else model.encode_images
    more: dict[str, Any] = {} if side == "text" else {"workers": 0}

    def ask(number: int) -> None:
        encode([inputs[number % len(inputs)]], **more)

    return ask


def load(connect: Callable[[], Ask], clients: int, seconds: float) -> tuple[float, list[float]]:
    """Inputs a second, and the seconds of each request, of clients in a closed loop.

    Raises whatever a client fails with.
    """
    times: list[list[float]] = [[] for _ in range(clients)]
    ready = threading.Barrier(clients + 1)
    end = threading.Event()
    failures: list[BaseException] = []

    def client(place: int) -> None:
        try:
            serve(place)
        except BaseException as exc:  # noqa: BLE001 - raised again where the threads are joined
            failures.append(exc)
            end.set()
            ready.abort()

    def serve(place: int) -> None:
        ask = connect()
        ask(place)  # warm-up
        ready.wait()
        number = place
        while not end.is_set():
            start = time.perf_counter()
            ask(number)
            times[place].append(time.perf_counter() - start)
            number += clients

    threads = [threading.Thread(target=client, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    start = time.perf_counter()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
        start = time.perf_counter()
        end.wait(seconds)
    end.set()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - start
    first = next((e for e in failures if not isinstance(e, threading.BrokenBarrierError)), None)
    if first is not None:
        raise first
    every = [each for found in times for each in found]
    return len(every) / taken, every


def row(side: Side, clients: int, name: str, rounds: list[tuple[float, list[float]]]) -> str:
    """The median rate of the rounds, and percentiles over all of their requests."""
    rate = statistics.median(found for found, _ in rounds)
    every = sorted(each for _, times in rounds for each in times)
    p50 = every[len(every) // 2] * 1e3
    p99 = f"{every[int(len(every) * 0.99)] * 1e3:.3g}" if len(every) >= FOR_P99 else "-"
    return f"| {side} | {clients} | {name} | {rate:.3g} | {p50:.3g} | {p99} |"


if __name__ == "__main__":
    asked.run(main)
