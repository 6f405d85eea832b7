"""Files of datasets that hold no JSON object."""

from __future__ import annotations

import pytest

from clipperf.errors import UsageError
from clipperf.inputs.sources import parse_object


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, f'{{"a": {"9" * 5000}}}'])
def test_what_is_no_json_object_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"captions\.jsonl line 3"):
        parse_object(text, "captions.jsonl line 3")
    assert parse_object('{"a": 1}', "x") == {"a": 1}
