"""The bundled sample: a small CLIP really trained on emoji drawings, and its evaluation set."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

NAME = "clipperf-sample"
TAG = "bundled"
LICENCE = "Apache-2.0"
NOTICES = ("NOTICE.md", "LICENSE-Apache-2.0.txt", "LICENSE-MIT.txt")
"""What goes with any of its images: whose they are, under which terms."""


def folder() -> Path:
    """Where the sample lives inside the installed package."""
    return Path(str(files("clipperf") / "data" / "sample"))


def config() -> dict[str, Any]:
    """The sample's open_clip configuration: ``model_cfg`` and ``preprocess_cfg``."""
    text = (folder() / "open_clip_config.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def weights_path() -> Path:
    """The sample's weights: fp16 safetensors under open_clip's own key names."""
    return folder() / "model.safetensors"
