"""Repositories of the Hugging Face hub: what lies in its cache, and what is fetched into it.

The cache is looked into without its client, which takes long to import:
``CACHE/models--ORG--NAME/snapshots/COMMIT``, and the commit of a branch in ``refs/BRANCH``.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from clipperf.errors import UsageError, WeightsError

PREFIX = "hf-hub:"
MAIN = "main"

SETTINGS = ("*.json", "*.txt", "*.model")
"""Small files that say what a model is: configurations, vocabularies, sentencepiece models."""

WEIGHTS = (("model*.safetensors",), ("pytorch_model*.bin",))
"""Files of weights as transformers names them, those it prefers first."""

OPEN_CLIPS_WEIGHTS = (("open_clip_*.safetensors",), ("open_clip_*.bin",))
"""The same as open_clip names them."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def repository(name: str) -> tuple[str, str] | None:
    """(ORG/NAME, revision) of ``[hf-hub:]ORG/NAME[@REVISION]``; None for other names."""
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    if _NAME.fullmatch(repo) is None:
        if name.startswith(PREFIX):
            raise UsageError(f"{name}: after {PREFIX} comes ORG/NAME, or ORG/NAME@REVISION")
        return None
    return repo, revision or MAIN


def cache() -> Path:
    """The folder of the hub's cache, as its client finds it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return Path(os.environ[name]).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


def cached(repo: str, revision: str) -> Path | None:
    """The snapshot of a branch, a tag or the beginning of a commit; None where there is none."""
    folder = cache() / f"models--{repo.replace('/', '--')}"
    try:
        commit = (folder / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    found = [folder / "snapshots" / commit]
    if not found[0].is_dir() and re.fullmatch("[0-9a-f]{7,40}", commit):
        found = sorted((folder / "snapshots").glob(f"{commit}*"))
    return found[0] if len(found) == 1 and found[0].is_dir() else None


def hub_answers(timeout_s: float = 5.0) -> bool:
    """Whether the hub can be connected to; through a proxy only the hub client itself can tell."""
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if urllib.request.getproxies().get(endpoint.scheme):
        return True
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        with socket.create_connection((endpoint.hostname or "", port), timeout=timeout_s):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def asked(advice: Callable[[str], str]) -> Iterator[bool]:
    """Let the hub's client be asked; yields whether the hub can be connected to.

    Offline its client has to be told so before it is imported, and where it is already.

    Raises:
        WeightsError: it failed; `advice` is given the reason, and says what to do.
    """
    connected = hub_answers()
    if not connected:
        # Its client would retry for minutes. Offline it still finds what was downloaded before.
        os.environ["HF_HUB_OFFLINE"] = "1"
    import http.client

    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError

    if not connected:  # what has imported it before, as transformers does, made it ask
        constants.HF_HUB_OFFLINE = True

    try:
        yield connected
    except (OSError, HfHubHTTPError, http.client.HTTPException, ValueError, RuntimeError) as exc:
        # The hub client wraps connection errors in any of these, by version.
        said = (str(exc).strip().splitlines() or [""])[0]
        reason = f"{type(exc).__name__}: {said}" if connected else "no connection to the hub"
        raise WeightsError(advice(reason)) from exc


def fetched(repo: str, revision: str, files: Sequence[str]) -> Path:
    """The snapshot of a repository with the `files` (patterns) of it that are there.

    Raises:
        WeightsError: the hub cannot be reached, or has no such repository or revision.
    """

    def advice(reason: str) -> str:
        return (
            f"{repo} cannot be fetched from the hub, and is not in its cache {cache()} ({reason}). "
            f"On a machine with network run: hf download {repo} --local-dir FOLDER. Copy the "
            f"folder here, and give its path in the place of the name"
        )

    with asked(advice) as connected:
        from huggingface_hub import snapshot_download

        patterns = list(files)
        return Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, local_files_only=not connected
            )
        )
