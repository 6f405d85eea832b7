"""From image files to vectors: what is read, in which ways, and what came of one."""

from __future__ import annotations

from dataclasses import dataclass

FROM_FILES = "from-files"
"""The scenario: image files are decoded and resized by threads while the engine runs."""


def option_of(scenario: str) -> str:
    """What asks for a scenario on the command line: "--scenario server", "--from-files"."""
    return f"--{FROM_FILES}" if scenario == FROM_FILES else f"--scenario {scenario}"


@dataclass(frozen=True)
class Way:
    """How pixels are made of files: `method` as `load` takes it, and by how many `threads`.

    With 0 threads the caller prepares each batch before the engine runs it.
    """

    method: str
    threads: int


@dataclass(frozen=True)
class FileWork:
    """The files that are read over and over, and the ways that take turns.

    `middle_px` are the medians of the images' widths and heights; `notes` say which of the folder's
    are not among them.
    """

    paths: tuple[str, ...]
    ways: tuple[Way, ...]
    middle_px: tuple[int, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileRun:
    """What one way gave, in seconds.

    `decode_s` and `resize_s` are medians of one image in one thread while nothing else ran, reading
    the file being part of decoding, and filling the batch of resizing. The others are raw samples
    of batches, the first of a turn left out: `engine_s` in the engine, `wait_s` while the engine
    waited for pixels. `blocks` says to which turn each belongs.
    """

    way: Way
    decode_s: float
    resize_s: float
    engine_s: tuple[float, ...] = ()
    wait_s: tuple[float, ...] = ()
    blocks: tuple[int, ...] = ()
    stable: bool = False

    @property
    def batch_s(self) -> list[float]:
        """Seconds from one batch's end to the next one's."""
        return [sum(pair) for pair in zip(self.engine_s, self.wait_s, strict=True)]
