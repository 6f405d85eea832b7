"""Drift of embeddings by hand; what has no direction never counts as alike."""

from __future__ import annotations

import numpy as np
import pytest

from clipperf.drift import drift_of, neighbour_agreement, room_of


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_cosines_by_hand() -> None:
    found = drift_of(3 * at(0, 60, 90), at(0, 0, 0))
    np.testing.assert_allclose(found.cosines, [1, 0.5, 0], atol=1e-6)
    assert (found.min_cosine, found.mean_cosine) == pytest.approx((0, 0.5), abs=1e-6)
    assert found.max_abs_diff == pytest.approx(3) and found.finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ours", [True, False])
def test_a_row_that_is_not_finite_is_like_nothing(value: float, ours: bool) -> None:
    """Even where all its other values are right."""
    whole, broken = np.eye(3, 4, dtype=np.float32), np.eye(3, 4, dtype=np.float32)
    broken[1, 2] = value
    found = drift_of(broken, whole) if ours else drift_of(whole, broken)
    assert found.cosines.tolist() == [1, 0, 1]
    assert found.finite is not ours and np.isfinite(found.max_abs_diff)


def test_neighbours() -> None:
    reference = at(0, 10, 90)
    assert neighbour_agreement(2 * reference, reference) == 1
    assert neighbour_agreement(at(0, 10, -80), reference) == pytest.approx(2 / 3)
    assert neighbour_agreement(reference[:2], reference[:2]) is None


def test_differences_count_in_either_direction() -> None:
    ours, theirs = np.array([[1.0, 2.0], [0.0, 5.0]]), np.array([[1.5, 2.0], [0.0, 3.0]])
    assert drift_of(ours, theirs).max_abs_diff == 2.0
    assert drift_of(theirs, ours).max_abs_diff == 2.0


def test_the_farthest_and_the_mean_are_over_rows() -> None:
    found = drift_of(at(0, 60, 180), at(0, 0, 0))
    assert found.min_cosine == pytest.approx(-1)
    assert found.mean_cosine == pytest.approx(0.5 / 3)
    assert found.cosines.dtype == np.float64


def test_short_vectors_have_their_direction() -> None:
    tiny = 1e-6 * at(0, 60)
    np.testing.assert_allclose(drift_of(tiny, at(0, 0)).cosines, [1, 0.5], atol=1e-6)


def test_neighbours_are_found_in_the_reference_and_never_oneself() -> None:
    # Row 2 moved from beside row 3 to beside row 0; the others keep their neighbours.
    reference = at(0, 5, 100, 110)
    assert neighbour_agreement(at(0, 5, -10, 110), reference) == pytest.approx(3 / 4)
    # A short vector is no nearer than a long one of the same direction.
    scaled = np.array([[1.0], [9.0], [0.1], [5.0]], np.float32) * reference
    assert neighbour_agreement(scaled, scaled) == 1
    assert neighbour_agreement(scaled, reference) == 1
    assert neighbour_agreement(reference, scaled) == 1
    assert neighbour_agreement(reference[:3], reference[:3]) == 1


def test_neighbours_of_what_is_not_finite() -> None:
    reference = at(0, 10, 90, 100)
    broken = reference.copy()
    broken[3, 0] = np.nan
    assert neighbour_agreement(broken, reference) == pytest.approx(3 / 4)


def test_the_nearest_is_another_one() -> None:
    # The first two moved past the middle between them: still each other's neighbours.
    assert neighbour_agreement(at(8, 2, 90, 100), at(0, 10, 90, 100)) == 1


def test_neighbours_are_looked_up_in_the_reference() -> None:
    # In the reference 130 and 10 are nearest to 60, and 60 to 10. There 50 and 80 are nearest to
    # 60, and 40 to 10: the same. The other way round 60 and 10 are nearest to 50 and 40.
    ours, theirs = at(50, 40, 80), at(130, 60, 10)
    assert neighbour_agreement(ours, theirs) == 1
    assert neighbour_agreement(theirs, ours) == pytest.approx(1 / 3)


def test_lengths_by_hand() -> None:
    found = drift_of(np.array([[3, 4], [0.8, 0]]), np.array([[4, 3], [1.0, 0]]))
    assert found.longer.tolist() == pytest.approx([0, -0.2])
    assert found.most_longer == pytest.approx(-0.2)
    assert drift_of(np.zeros((1, 2)), np.zeros((1, 2))).most_longer == -1, "no length is no vector"
    assert [room_of(least) for least in (0.99999, 0.99, 0.98)] == pytest.approx(
        [0.05, 0.1414, 0.2], abs=1e-4
    )
