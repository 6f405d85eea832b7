"""The Python environments that the candidates of `peers.py` live in.

clipperf's own, and three of the peers, no two of which install together: optimum-onnx,
optimum-intel and infinity-emb each want another release of transformers, optimum or numpy.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from clipperf.system import extras

OWN = ""
"""The Python that runs `peers.py`."""

ENVIRONMENTS = {
    "peers": "requirements-peers.txt",
    "peers-intel": "requirements-peers-intel.txt",
    "peers-infinity": "requirements-peers-infinity.txt",
}
"""Each environment's name, which is that of its folder, and what is installed in it."""


def python_of(home: str, folder: Path) -> str:
    """The Python of an environment, of those in `folder`."""
    return sys.executable if home == OWN else str(folder / home / "bin" / "python")


def install_command(home: str, folder: Path) -> str:
    """What makes an environment."""
    at = folder / home
    return (
        f"python3 -m venv {at} && {at}/bin/pip install -r benchmarks/{ENVIRONMENTS[home]}"
    )  # fmt: skip


def absent(home: str, modules: tuple[str, ...], folder: Path) -> str:
    """Why a candidate cannot run for want of its environment or of modules; empty where it can."""
    if home != OWN:
        if Path(python_of(home, folder)).is_file():
            return ""
        return f"there is no {python_of(home, folder)}; to make it: {install_command(home, folder)}"
    lost = [name for name in modules if importlib.util.find_spec(name) is None]
    said = [f"{name} is not installed: {extras.bring(name)}" for name in lost]
    return "; ".join(said)
