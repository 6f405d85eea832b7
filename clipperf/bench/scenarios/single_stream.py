"""The scenario "single-stream": one input at a time, the next as soon as the answer is there."""

from __future__ import annotations

from clipperf.bench.serve_turns import scenario, until_long_enough
from clipperf.nouns.serving import SINGLE_STREAM

SCENARIO = scenario(SINGLE_STREAM, until_long_enough)
