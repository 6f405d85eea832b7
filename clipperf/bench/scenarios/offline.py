"""The scenario "offline": all inputs are there at once, in batches of the cell's size."""

from __future__ import annotations

from clipperf.bench.serve_turns import scenario, until_long_enough
from clipperf.nouns.serving import OFFLINE

SCENARIO = scenario(OFFLINE, until_long_enough)
