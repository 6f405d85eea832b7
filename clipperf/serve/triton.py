"""One tower behind Triton's Python backend: encoded images or strings to vectors.

``clipperf export --layout triton`` writes a model whose `model.py` takes `TritonPythonModel` from
here. Triton batches requests; all that it hands over at once goes to the tower as one call, and a
request that cannot be served gets an error of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipperf.errors import ArtifactError, ClipperfError, EngineError, UsageError
from clipperf.nouns.artifact import OUTPUT_NAMES
from clipperf.nouns.variant import SIDES, Side

INPUTS: dict[Side, str] = {"image": "image", "text": "text"}
"""What a request gives: an image file's bytes, or a text in UTF-8, [batch, 1]."""

LOADING = ("threads", "streams")
"""Parameters of a model's configuration that `clipperf.load` takes."""


class TritonPythonModel:
    """What Triton calls. The artifact of the tower lies beside the versions of its model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the tower in the model's folder, on the GPU of this instance where it is for one.

        Raises:
            ClipperfError: as `clipperf.load`; Triton says so, and the model is not ready.
        """
        from clipperf.serve.load import load

        given = json.loads(args["model_config"]).get("parameters", {})
        options: dict[str, Any] = {n: int(given[n]["string_value"]) for n in LOADING if n in given}
        if args.get("model_instance_kind") == "GPU":  # each instance is a process of its own
            options["device"] = f"cuda:{args['model_instance_device_id']}"
        folder = Path(args["model_repository"])  # the model's own
        found = [side for side in SIDES if (folder / side).is_dir()]
        if not found:
            raise ArtifactError(
                f"{folder} holds neither {' nor '.join(SIDES)}, the folder of its tower: write the "
                f"repository again: clipperf export MODEL --layout triton --out REPOSITORY"
            )
        self.side: Side = found[0]
        self.model = load(folder / self.side, verify=True, **options)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """The responses to requests, in their order."""
        import triton_python_backend_utils as triton

        name = INPUTS[self.side]
        given = [
            triton.get_input_tensor_by_name(request, name).as_numpy().reshape(-1).tolist()
            for request in requests
        ]
        responses = []
        for found in embedded(self.model, self.side, given):
            if isinstance(found, ClipperfError):
                kind = "INVALID_ARG" if isinstance(found, UsageError) else "INTERNAL"
                error = triton.TritonError(str(found), getattr(triton.TritonError, kind))
                responses.append(triton.InferenceResponse([], error))
            else:
                tensor = triton.Tensor(OUTPUT_NAMES[self.side], found)
                responses.append(triton.InferenceResponse([tensor]))
        return responses

    def finalize(self) -> None:
        """Close the tower."""
        self.model.close()


def embedded(
    model: Any, side: Side, given: Sequence[Sequence[bytes]]
) -> list[np.ndarray | ClipperfError]:
    """Vectors [n, embed_dim] of each request's inputs, or why it has none.

    All of them are one call, as long as none is at fault.
    """
    inputs: list[Any] = []
    answers: list[np.ndarray | ClipperfError | slice] = []
    for each in given:
        try:
            taken = each if side == "image" else [_text(data) for data in each]
        except UsageError as exc:
            answers.append(exc)
            continue
        answers.append(slice(len(inputs), len(inputs) + len(taken)))
        inputs += taken
    rows = _encoded(model, side, inputs) if inputs else None
    found: list[np.ndarray | ClipperfError] = []
    for answer in answers:
        if not isinstance(answer, slice):
            found.append(answer)
        elif rows is not None and np.isfinite(rows[answer]).all():
            found.append(rows[answer])
        else:
            found.append(_alone(model, side, inputs[answer]))
    return found


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise UsageError(f"a text is no UTF-8: {exc}") from exc


def _encoded(model: Any, side: Side, inputs: Sequence[Any]) -> np.ndarray | None:
    """Vectors of all inputs, NaN for images that cannot be read; None where the call fails."""
    try:
        if side == "image":
            found: np.ndarray = model.encode_images(inputs, on_error="mark")
            return found
        found = model.encode_texts(inputs)
        return found
    except Exception:  # noqa: BLE001 - each request is tried alone, and says why
        return None


def _alone(model: Any, side: Side, inputs: Sequence[Any]) -> np.ndarray | ClipperfError:
    """Vectors of one request, or why it has none."""
    try:
        encode = model.encode_images if side == "image" else model.encode_texts
        found: np.ndarray = encode(inputs)
    except ClipperfError as exc:
        return exc
    except Exception as exc:  # noqa: BLE001 - Triton would fail all requests of the batch
        return EngineError(f"{type(exc).__name__}: {exc}")
    if not np.isfinite(found).all():
        return EngineError("the tower gives values that are not finite for this input")
    return found
