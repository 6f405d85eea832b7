import pytest

from clipperf import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (14889779, "14.2 MiB"),
        (3 * 2**30 + 2**29, "3.50 GiB"),
        (-2048, "-2.0 KiB"),
    ],
)
def test_size(value: int | None, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (2e-6, "2.00 us"),
        (830e-6, "830 us"),
        (0.0124, "12.4 ms"),
        (3.14159, "3.1 s"),
        (119.9, "119.9 s"),
        (245.0, "4 min 05 s"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234567.0, "1234567"),
        (123.4, "123"),
        (12.34, "12.3"),
        (9.999, "10.0"),
        (0.0001234, "0.000123"),
        (-1.5, "-1.50"),
        (float("inf"), "-"),
        (float("nan"), "-"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert units.significant(value) == text


def test_columns() -> None:
    assert units.mib(577 * 2**20) == "577"
    assert units.mib(None) == "-"
    assert units.ms(0.0124) == "12.4"
    assert units.ms(None) == "-"
    assert units.rate(66.04) == "66.0"
    assert units.rate(None) == "-"
    assert units.millions(151277313) == "151.3"
    assert units.millions(None) == "-"


def test_ratio_share_points() -> None:
    assert units.ratio(1.349) == "1.35x"
    assert units.ratio(1.349, (1.311, 1.402)) == "1.35x [1.31, 1.40]"
    assert units.ratio(None) == "-"
    assert units.share(0.531) == "53.1 %"
    assert units.percent(0.531) == "53.1" and units.percent(0.1, 0) == "10"
    assert units.share(None) == "-"
    assert units.points(-0.001) == "-0.1"
    assert units.points(0.0) == "+0.0"
    assert units.points(None) == "-"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**20 - 1, "1024.0 KiB"),
        (2**20, "1.0 MiB"),
        (2**30 - 1, "1024.0 MiB"),
        (2**30, "1.00 GiB"),
        (-1023, "-1023 B"),
        (-(2**30), "-1.00 GiB"),
    ],
)
def test_sizes_between_two_units(value: int, text: str) -> None:
    assert units.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000999, "999 us"),
        (0.001, "1.00 ms"),
        (0.999, "999 ms"),
        (1.0, "1.0 s"),
        (1.5, "1.5 s"),
        (120.0, "2 min 00 s"),
        (121.9, "2 min 01 s"),
    ],
)
def test_times_between_two_units(value: float, text: str) -> None:
    assert units.seconds(value) == text


def test_digits() -> None:
    assert units.significant(0.5) == "0.500"
    assert units.significant(1.0) == "1.00"
    assert units.significant(99.95, 4) == "99.95"
    assert units.significant(12345.6, 2) == "12346"
    assert units.percent(0.12345) == "12.3"
    assert units.points(0.0149) == "+1.5"


def test_gibibytes() -> None:
    assert units.gib(3 * 2**29) == "1.50"
    assert units.gib(None) == "-"
    assert (units.MIB, units.GIB, units.NOT_MEASURED) == (1024**2, 1024**3, "-")
