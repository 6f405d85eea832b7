"""The scenario "server": as many inputs a second as keep to a bound, at random moments."""

from __future__ import annotations

from clipperf.bench.serve_turns import scenario, up_to_the_bound
from clipperf.nouns.serving import SERVER

SCENARIO = scenario(SERVER, up_to_the_bound)
