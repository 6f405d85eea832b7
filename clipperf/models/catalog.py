"""Every model that can be named: open_clip's architectures and tags, and the bundled sample.

Nothing here imports torch or open_clip, so a listing takes a fraction of a second. Architectures
are read from the installed open_clip's own `model_configs`; its tags cannot be, as reading them
means importing open_clip and with it torch, or interpreting its source. They come from a snapshot
(`clipperf/data/open_clip_catalog.json`, written by `tools/make_catalog.py`) that also holds
parameters and GFLOPs; a test compares it with the installed open_clip. Figures of an architecture
whose configuration has changed since are left out rather than shown wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from clipperf.errors import UsageError
from clipperf.models import sample
from clipperf.models.open_clip_facts import (
    COUNTS,
    FACTS,
    config_digest,
    config_facts,
    count_safetensors,
    installed_configs,
    read_snapshot,
)
from clipperf.models.published import Published, accuracy, normal, published_accuracy

SAMPLE_TAG = "bundled"

# open_clip's profile table fed these text towers (by the start of their architecture's name) as
# many tokens as they can take, not the 77 that its tokenizer produces.
_COUNTED_AT = {"roberta": 512, "xlm-roberta": 512, "nllb": 1024}


@dataclass(frozen=True)
class CatalogEntry:
    """One architecture and the weights it can be had with.

    Parameters are counts; GFLOPs are 1e9 floating-point operations for one image, or for one text
    of `context_tokens` tokens, a multiply-add counting as two. None where unknown.
    `licences` has every tag, with None where the licence is unknown. `text_kind` is "clip-bpe"
    (CLIP's own tokenizer), "hf-tokenizer:NAME" (an open_clip text tower, a hub's tokenizer) or
    "hf:NAME" (text tower and tokenizer from the hub). `notes` say what to know before exporting.
    """

    architecture: str
    image_px: int
    context_tokens: int
    embed_dim: int
    text_kind: str
    tags: tuple[str, ...]
    licences: dict[str, str | None]
    image_parameters: int | None = None
    text_parameters: int | None = None
    image_gflops: float | None = None
    text_gflops: float | None = None
    notes: tuple[str, ...] = ()

    def licence(self, tag: str) -> str | None:
        """The licence of one tag's weights; None where unknown, and for files and random ones."""
        return self.licences.get(tag)

    def published(self, tag: str) -> list[Published]:
        """Every published accuracy of one tag's weights, as shares of one."""
        return published_accuracy(self.architecture, tag)

    def imagenet(self, tag: str) -> float | None:
        """The published zero-shot top-1 on ImageNet, a share of one; None where there is none."""
        figure = accuracy(self.architecture, tag)
        return None if figure is None else figure.value


def snapshot_note() -> str | None:
    """A sentence for where tags or figures may be out of step with the installed open_clip."""
    try:
        installed = version("open_clip_torch")
    except PackageNotFoundError:
        return "open_clip is not installed: the list is that of " + read_snapshot()["open_clip"]
    known = read_snapshot()["open_clip"]
    if installed == known:
        return None
    return f"tags and sizes are those of open_clip {known}; {installed} is installed"


def entries() -> list[CatalogEntry]:
    """Every architecture in alphabetical order, the bundled sample first where it is there."""
    return list(_entries())


@cache
def _entries() -> tuple[CatalogEntry, ...]:
    known = read_snapshot()["models"]
    configs = installed_configs()
    found = _sample_entries()
    for name in sorted(known if configs is None else configs, key=str.lower):
        record = known.get(name, {})
        if configs is None:
            facts, current = {key: record[key] for key in FACTS}, True
        else:
            facts = config_facts(configs[name])
            current = record.get("config_sha256") == config_digest(configs[name])
        counts = {key: record[key] for key in COUNTS} if current else {}
        tags = record.get("tags", {})
        found.append(
            CatalogEntry(
                architecture=name,
                tags=tuple(tags),
                licences={tag: source["licence"] for tag, source in tags.items()},
                notes=_notes(name, facts["text_kind"], bool(tags)),
                **facts,
                **counts,
            )
        )
    return tuple(found)


def _notes(architecture: str, text_kind: str, has_tags: bool) -> tuple[str, ...]:
    notes = []
    origin, _, name = text_kind.partition(":")
    if origin == "hf":
        notes.append(f"text tower {name} needs the transformers package: clipperf[eval]")
        notes += [
            f"text GFLOPs are for {tokens} tokens"
            for start, tokens in _COUNTED_AT.items()
            if architecture.startswith(start)
        ]
    elif origin == "hf-tokenizer":
        notes.append(f"tokenizer {name} is fetched from the hub")
    if not has_tags:
        notes.append("no published weights: --pretrained random or a file")
    return tuple(notes)


def _sample_entries() -> list[CatalogEntry]:
    try:
        config = sample.config()["model_cfg"]
    except FileNotFoundError:
        return []  # a source checkout in which the sample was not built
    image, text = count_safetensors(sample.weights_path())
    return [
        CatalogEntry(
            architecture=sample.NAME,
            tags=(SAMPLE_TAG,),
            licences={SAMPLE_TAG: sample.LICENCE},
            image_parameters=image,
            text_parameters=text,
            notes=("ships with clipperf: works offline, trained on emoji drawings",),
            **config_facts(config),
        )
    ]


def search(text: str) -> list[CatalogEntry]:
    """The entries whose architecture or a tag contains `text`; an alias finds its architecture.

    Case does not matter, nor whether hyphens or underscores are used. Where only tags match, the
    entry still lists all of them.
    """
    architecture, _, tag = (normal(part) for part in text.partition("::"))
    if tag:
        return [
            entry
            for entry in entries()
            if architecture in normal(entry.architecture)
            and any(tag in normal(known) for known in entry.tags)
        ]
    return [
        entry
        for entry in entries()
        if any(architecture in normal(name) for name in (entry.architecture, *entry.tags))
    ]


def find(name: str) -> CatalogEntry:
    """The entry of an architecture, or of the architecture in ``ARCHITECTURE::TAG``.

    Raises:
        UsageError: there is none; the message lists the closest names.
    """
    _refuse_mclip(name)
    wanted = name.partition("::")[0]
    known = {normal(entry.architecture): entry for entry in entries()}
    if normal(wanted) in known:
        return known[normal(wanted)]
    close = difflib.get_close_matches(normal(wanted), known, n=4, cutoff=0.5)
    names = ", ".join(known[key].architecture for key in close)
    hint = f"did you mean {names}? " if names else ""
    raise UsageError(f"unknown model {wanted!r}: {hint}clipperf models lists all")


def split_alias(name: str) -> tuple[str, str]:
    """``("ViT-H-14", "laion2b_s32b_b79k")`` for ``ViT-H-14::laion2b-s32b-b79k``.

    Architecture and tag come back as open_clip spells them; case does not matter, nor whether
    hyphens or underscores are used.

    Raises:
        UsageError: unknown architecture or tag, or no tag; the message names what there is.
    """
    entry = find(name)
    wanted = name.partition("::")[2]
    for tag in entry.tags:
        if normal(tag) == normal(wanted):
            return entry.architecture, tag
    there = ", ".join(entry.tags) or "none (use --pretrained random, or a file)"
    if not wanted:
        raise UsageError(f"{name!r} names no weights; tags of {entry.architecture}: {there}")
    close = difflib.get_close_matches(normal(wanted), [normal(t) for t in entry.tags], n=1)
    hint = next((f"did you mean {t}? " for t in entry.tags if close == [normal(t)]), "")
    raise UsageError(f"{entry.architecture} has no tag {wanted!r}: {hint}Its tags: {there}")


def _refuse_mclip(name: str) -> None:
    if normal(name).startswith("m-clip/"):
        raise UsageError(
            f"{name}: M-CLIP's multilingual text towers are not supported yet. Multilingual "
            f"models that are: xlm-roberta-base-ViT-B-32, ViT-B-16-SigLIP-i18n-256"
        )


def long_text_counts(listed: Sequence[CatalogEntry]) -> dict[str, int]:
    """At how many tokens text GFLOPs were counted, where not at the entry's own.

    Keys are the starts of the names of those architectures that are among the `listed`.
    """
    return {
        start: tokens
        for start, tokens in _COUNTED_AT.items()
        if any(entry.architecture.startswith(start) for entry in listed)
    }
