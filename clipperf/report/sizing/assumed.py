"""Sizing with published speeds, for hardware that nobody here has measured. Marked as assumed.

A tower whose speed is published on that hardware is taken to have it. Of another one the speed
follows from a published one and the ratio between the two that was measured here; so does a text
tower's from the image tower's, of which alone most sources tell. How wrong such a transfer can be
is shown by towers of which both sides are known: each is predicted from another, and the furthest
off is told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from clipperf import units
from clipperf.errors import UsageError
from clipperf.models.speeds import IMAGE_TOWERS, TITAN_RTX, Speed, newest, speeds, speeds_of
from clipperf.nouns.cell import CLOSED_LOOP
from clipperf.nouns.result import Environment
from clipperf.nouns.variant import SIDES, Side
from clipperf.report.pairs import alike
from clipperf.report.records import Row
from clipperf.report.sizing.types import HOURS_A_MONTH, Assumed, Targets
from clipperf.report.words import listed

FULL = 1 - 1e-9

MOST_NAMED = 8
"""Models that an error names."""


@dataclass(frozen=True)
class Guess:
    """A tower's rate on the hardware: what it rests on, and the largest known error as a factor.

    `error` is 1 for what is published as it is, None where nothing shows how far off it may be.
    """

    per_s: float
    rests_on: str
    error: float | None = 1.0
    source: str = ""


def assume(
    hardware: str, rows: Sequence[Row], targets: Targets, price: float | None
) -> list[Assumed]:
    """Every model of the rows of which something is known on the hardware, the cheapest first.

    Of the `rows` those of a closed loop count that went well.

    Raises:
        UsageError: of none of the models anything is known.
    """
    known = [r for r in rows if r.items_per_s and not r.failed and r.cell.scenario == CLOSED_LOOP]
    mine = [s for s in speeds() if s.hardware == hardware]
    setups = list(dict.fromkeys(s.setup for s in newest(mine)))
    found = []
    for model_id in dict.fromkeys(r.cell.model_id for r in known):
        for setup in setups:
            plan = _model(hardware, setup, model_id, known, targets, price)
            if plan is not None:
                found.append(plan)
    if not found:
        raise UsageError(_nothing_known(hardware, [*dict.fromkeys(r.cell.model_id for r in rows)]))
    return sorted(found, key=lambda p: (p.machines, p.machines_interval or (0, 0), p.model_id))


def _nothing_known(hardware: str, models: Sequence[str]) -> str:
    """Why no model can be sized there, and what could be."""
    there = [name for name in IMAGE_TOWERS if speeds_of(name, hardware)]
    more = f" and {len(there) - MOST_NAMED} more" if len(there) > MOST_NAMED else ""
    return (
        f"--assume {hardware}: no speed there follows for {listed(models)}, neither from one that "
        f"is published nor from that of a model which was measured alike on the same machine. "
        f"Published there are {', '.join(there[:MOST_NAMED])}{more}: profile one of them beside "
        f"yours, or leave --assume out"
    )


def published_machine(hardware: str) -> Environment:
    """What stands for the hardware where machines have names and prices."""
    return Environment(
        f"published {hardware}", "", 0, 0, hardware, None, None, "", "", {}, None, ""
    )


def _model(
    hardware: str,
    setup: str,
    model_id: str,
    rows: Sequence[Row],
    targets: Targets,
    price: float | None,
) -> Assumed | None:
    image = _image(hardware, setup, model_id, rows)
    text = _text(hardware, setup, model_id, rows, image) if targets.texts_per_s else None
    sides = [
        (guess, target)
        for guess, target in ((image, targets.images_per_s), (text, targets.texts_per_s))
        if guess is not None and target > 0
    ]
    if len(sides) < (targets.images_per_s > 0) + (targets.texts_per_s > 0):
        return None

    def machines(side: int) -> int:
        """With rates as they are, or as far off as is known, to one side or the other."""
        load = math.fsum(
            target / (guess.per_s * (guess.error or 1.0) ** side * targets.utilisation)
            for guess, target in sides
        )
        return max(1, math.ceil(load * FULL)) + targets.spare

    count = machines(0)
    per_hour = None if price is None else count * price
    items_per_s = targets.images_per_s + targets.texts_per_s
    unknown = any(guess.error is None for guess, _ in sides)
    return Assumed(
        hardware=hardware,
        setup=setup,
        model_id=model_id,
        random_weights=any(r.random_weights for r in rows if r.cell.model_id == model_id),
        images_per_s=image.per_s if image is not None and targets.images_per_s else None,
        texts_per_s=text.per_s if text is not None else None,
        images_rest_on=image.rests_on if image is not None and targets.images_per_s else None,
        texts_rest_on=text.rests_on if text is not None else None,
        error=None if unknown else max(guess.error or 1.0 for guess, _ in sides),
        sources=tuple(dict.fromkeys(guess.source for guess, _ in sides)),
        machines=count,
        machines_interval=None if unknown else (machines(1), machines(-1)),
        per_month=None if per_hour is None else per_hour * HOURS_A_MONTH,
        per_million=None if per_hour is None else per_hour / 3600 / items_per_s * 1e6,
    )


def _published(hardware: str, setup: str, model_id: str, side: Side) -> Speed | None:
    found = [s for s in speeds_of(model_id, hardware) if (s.side, s.setup) == (side, setup)]
    # The rates of M-CLIP's rows do not fit their towers: its LABSE with ViT-L-14 would embed twice
    # the images of ViT-L-14 alone.
    usable = [s for s in found if not s.tower.startswith("M-CLIP/")]
    return usable[-1] if usable else None


def _image(hardware: str, setup: str, model_id: str, rows: Sequence[Row]) -> Guess | None:
    """Published, else from the published tower whose speed here is closest."""
    direct = _published(hardware, setup, model_id, "image")
    if direct is not None:
        return Guess(direct.per_s, f"published {direct.date}", source=direct.source)
    best: tuple[float, Row, Row] | None = None
    both = _known_on_both(hardware, setup, rows)
    for mine in rows:
        if (mine.cell.model_id, mine.cell.side) != (model_id, "image"):
            continue
        for other, _ in both:
            if _same_run(mine, other):
                apart = abs(math.log(_rate(mine) / _rate(other)))
                if best is None or apart < best[0]:
                    best = (apart, mine, other)
    if best is None:
        return None
    _, mine, other = best
    there = _published(hardware, setup, other.cell.model_id, "image")
    assert there is not None
    ratio = _rate(mine) / _rate(other)
    # Checkpoints of one architecture share a figure: they would predict each other.
    towers = {s.tower: (_rate(o), s.per_s) for o, s in both if _same_run(o, other)}
    error = largest_error(list(towers.values()))
    return Guess(
        there.per_s * ratio,
        f"published {there.date} for {other.cell.model_id}, times {units.ratio(ratio)} measured",
        error if error is not None else published_error(hardware),
        there.source,
    )


def _known_on_both(hardware: str, setup: str, rows: Sequence[Row]) -> list[tuple[Row, Speed]]:
    """Image towers that were measured here and are published there, with that speed."""
    found = []
    for row in rows:
        if row.cell.side == "image":
            speed = _published(hardware, setup, row.cell.model_id, "image")
            if speed is not None:
                found.append((row, speed))
    return found


def _text(
    hardware: str, setup: str, model_id: str, rows: Sequence[Row], image: Guess | None
) -> Guess | None:
    """Published, else the image tower's speed times the ratio of both that was measured here."""
    direct = _published(hardware, setup, model_id, "text")
    if direct is not None:
        return Guess(direct.per_s, f"published {direct.date}", source=direct.source)
    ratios = _text_ratios(rows)
    mine = ratios.get(model_id)
    if mine is None or image is None:
        return None
    known = {m: ratio for m in ratios if (ratio := _titan_ratio(m)) is not None}
    errors = [abs(math.log(ratios[m] / known[m])) for m in known]
    error = None
    if errors and image.error is not None:
        error = image.error * math.exp(max(errors))
    return Guess(
        image.per_s * mine,
        f"its image tower's, times {units.ratio(mine)} measured",
        error,
        image.source,
    )


def _text_ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Texts a second over images a second, by model: the median over runs that are alike."""
    found: dict[str, list[float]] = {}
    sides = [[r for r in rows if r.cell.side == side] for side in SIDES]
    for image, text in itertools.product(*sides):
        if _same_run(image, text) and image.cell.model_id == text.cell.model_id:
            found.setdefault(text.cell.model_id, []).append(_rate(text) / _rate(image))
    return {model: sorted(each)[len(each) // 2] for model, each in found.items()}


def _titan_ratio(model_id: str) -> float | None:
    """Texts over images a second of a model on the one hardware of which both are published."""
    rates = {s.side: s.per_s for s in speeds_of(model_id, TITAN_RTX)}
    return rates["text"] / rates["image"] if len(rates) == 2 else None


def _same_run(a: Row, b: Row) -> bool:
    """Whether two towers were run alike on one machine."""
    fields = ("model_id", "side", "tokens", "input")
    return a.env_id == b.env_id and alike(a.cell, *fields) == alike(b.cell, *fields)


def _rate(row: Row) -> float:
    assert row.items_per_s is not None
    return row.items_per_s


def largest_error(towers: Sequence[tuple[float, float]]) -> float | None:
    """Each tower's speed there, predicted from the one that is closest here: the furthest off.

    `towers` are speeds here and there. A factor from 1; None of less than two towers.
    """
    worst = 0.0
    for place, (here, there) in enumerate(towers):
        others = [t for other, t in enumerate(towers) if other != place]
        if not others:
            return None
        near_here, near_there = min(others, key=lambda t: abs(math.log(t[0] / here)))
        worst = max(worst, abs(math.log(near_there * here / near_here / there)))
    return math.exp(worst) if towers else None


@cache
def published_error(hardware: str) -> float | None:
    """The largest error of a transfer to it from any other hardware, over published image towers.

    It stands in where too few towers were measured here.
    """
    rates = _newest_rates()
    there = rates.get(hardware, {})
    errors = [
        largest_error([(here[tower], there[tower]) for tower in here if tower in there])
        for name, here in rates.items()
        if name != hardware
    ]
    return max((error for error in errors if error is not None), default=None)


def _newest_rates() -> dict[str, dict[str, float]]:
    """Published speeds of image towers by hardware: of the newest setup, the first by name."""
    setups: dict[str, tuple[str, str]] = {}
    towers = [s for s in speeds() if not s.server]
    for speed in sorted(towers, key=lambda s: s.setup, reverse=True):
        if speed.date >= setups.get(speed.hardware, ("", ""))[0]:
            setups[speed.hardware] = (speed.date, speed.setup)
    found: dict[str, dict[str, float]] = {}
    for speed in towers:
        if setups[speed.hardware][1] == speed.setup:
            found.setdefault(speed.hardware, {})[speed.tower] = speed.per_s
    return found
