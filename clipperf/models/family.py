"""Where models come from: each family is one record, which answers for all of its models.

A family of clipperf's own is a file in `families`; others come with installed packages, as entry
points in the group ``clipperf.family``. Records and what lists or resolves names import neither
torch nor the family's library; what fetches, builds or describes a model may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipperf.inputs.preprocess_spec import PreprocessSpec
from clipperf.models.published import Published, accuracy, published_accuracy
from clipperf.nouns.model import ModelSpec, Sizes, TextIds, Tower
from clipperf.nouns.variant import Side
from clipperf.registry import Registry


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

    def spec(self, id: str, family: str, pretrained: str) -> ModelSpec:
        """The model of some weights: a tag, ``random:SEED``, or the absolute path of a file."""
        return ModelSpec(
            id=id,
            family=family,
            architecture=self.architecture,
            pretrained=pretrained,
            image_px=self.image_px,
            context_tokens=self.context_tokens,
            embed_dim=self.embed_dim,
            image_parameters=self.image_parameters,
            text_parameters=self.text_parameters,
            licence=self.licence(pretrained),
        )

    def published(self, tag: str) -> list[Published]:
        """Every published accuracy of one tag's weights, as shares of one."""
        return published_accuracy(self.architecture, tag)

    def imagenet(self, tag: str) -> float | None:
        """The published zero-shot top-1 on ImageNet, a share of one; None where there is none."""
        figure = accuracy(self.architecture, tag)
        return None if figure is None else figure.value


@dataclass(frozen=True)
class Family:
    """A family of models: how they are named, had, built and fed.

    Names and listing:

    - `resolve(name, pretrained)`: the model that a user means, with ``--pretrained`` or None. None
      where the name is another family's; UsageError where it is this one's and wrong. The spec's
      `family` is the record's `name`, its `pretrained` ``random:SEED`` for seeded noise.
    - `entries()`: what `clipperf models` lists, licences included.
    - `checkpoint(name, pretrained)`: the file that `resolve` would read whole, for its digest.
    - `resized(spec, sizes)`: the same model at other sizes (`nouns.model.resized` names it), or
      UsageError where one cannot be; None where the models of the family keep to their sizes.
    - `files`: names by which a folder is known as one of its models, for the error where none is.

    Weights, which are never asked for where they are random:

    - `weights(spec)`: their file, None as long as they have to be fetched.
    - `fetch(spec)`: the same, fetched if need be; raises WeightsError.

    The model:

    - `config(spec)`: plain values on which a tower's graph depends, next to the sizes in the spec
      and the versions of `packages`: all but the weights.
    - `build(spec, side, normalize)`: one tower in fp32 on the CPU, as `nouns.model.Tower` says;
      raises WeightsError.

    Its inputs:

    - `pixels(spec)`: how images are preprocessed.
    - `write_tokenizer(spec, folder)`: writes the files that `inputs.tokenize` reads.
    - `text_ids(spec)`: valid token ids for synthetic texts.
    """

    name: str
    resolve: Callable[[str, str | None], ModelSpec | None]
    weights: Callable[[ModelSpec], Path | None]
    fetch: Callable[[ModelSpec], Path]
    config: Callable[[ModelSpec], dict[str, Any]]
    build: Callable[[ModelSpec, Side, bool], Tower]
    pixels: Callable[[ModelSpec], PreprocessSpec]
    write_tokenizer: Callable[[ModelSpec, Path], None]
    text_ids: Callable[[ModelSpec], TextIds]
    entries: Callable[[], Sequence[CatalogEntry]] = tuple
    checkpoint: Callable[[str, str | None], Path | None] = lambda name, pretrained: None
    resized: Callable[[ModelSpec, Sizes], ModelSpec] | None = None
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


FAMILIES: Registry[Family] = Registry(
    "family",
    room="clipperf.models.families",
    first=("sample", "open_clip", "open_clip_files", "mclip", "hugging_face"),
)
"""The families in the order in which they are asked whose a name is."""


def family_of(spec: ModelSpec) -> Family:
    """The family of a model.

    Raises:
        UsageError: it came with a package that is not installed here.
    """
    return FAMILIES.get(spec.family)
