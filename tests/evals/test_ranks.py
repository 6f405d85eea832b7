"""Ranks against cases worked out by hand and against a slow, plain second implementation."""

from __future__ import annotations

import numpy as np
import pytest

from clipperf.evals import ranks
from clipperf.evals.ranks import (
    chance_any_in_top,
    classifier_weights,
    classify,
    hits_at,
    normalize,
    retrieve,
)


def unit(*rows: tuple[float, ...]) -> np.ndarray:
    return normalize(np.array(rows, dtype=np.float32))


def random_unit(rng: np.random.Generator, n: int, dim: int = 8) -> np.ndarray:
    return normalize(rng.standard_normal((n, dim)))


AXES = unit((1, 0, 0), (0, 1, 0), (0, 0, 1))


def test_normalize_gives_length_one() -> None:
    out = unit((3, 4), (0, -2))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [[0.6, 0.8], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("row", "words"), [((0.0, 0.0), "zeros"), ((np.nan, 1.0), "NaN"), ((np.inf, 1.0), "NaN")]
)
def test_normalize_refuses_what_has_no_direction(row: tuple[float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unit((1, 0), row)


def test_classifier_weights_normalise_average_normalise() -> None:
    # A long prompt must not outweigh a short one: (10, 0) and (0, 1) average to the diagonal.
    weights = classifier_weights(np.array([[[10, 0], [0, 1]], [[0, 3], [0, 5]]], dtype=np.float32))
    half = 2**-0.5
    np.testing.assert_allclose(weights, [[half, half], [0, 1]], rtol=1e-6)


def test_classifier_weights_of_prompts_that_cancel_out() -> None:
    with pytest.raises(ValueError, match="zeros"):
        classifier_weights(np.array([[[1, 0], [-1, 0]]], dtype=np.float32))


@pytest.mark.parametrize("shape", [(2, 3), (0, 1, 2), (2, 0, 3)])
def test_classifier_weights_need_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="classes, templates, dim"):
        classifier_weights(np.ones(shape, dtype=np.float32))


def test_classification_by_hand() -> None:
    images = unit((3, 2, 1), (3, 2, 1), (3, 2, 1), (0, 0, 1))
    result = classify(images, AXES, np.array([0, 1, 2, 2]))
    assert result.predicted.tolist() == [0, 0, 0, 2]
    assert result.ranks.tolist() == [0, 1, 2, 0]
    assert hits_at(result.ranks, 1).tolist() == [True, False, False, True]
    assert hits_at(result.ranks, 2).tolist() == [True, True, False, True]
    assert hits_at(result.ranks, 5).all()  # k above the number of classes


def test_classification_tie_is_a_miss_and_predicts_the_first() -> None:
    images = unit((1, 1, 0), (1, 1, 0))
    result = classify(images, AXES, np.array([0, 1]))
    assert result.ranks.tolist() == [1, 1]
    assert result.predicted.tolist() == [0, 0]


def test_classification_of_a_constant_tower_is_zero() -> None:
    images, weights = np.tile(unit((1, 2, 3)), (6, 1)), np.tile(unit((1, 2, 3)), (3, 1))
    result = classify(images, weights, np.arange(6) % 3)
    assert not hits_at(result.ranks, 1).any()
    assert not hits_at(result.ranks, 2).any()
    assert hits_at(result.ranks, 3).all()


def test_classification_with_one_class() -> None:
    result = classify(AXES, AXES[:1], np.zeros(3, dtype=int))
    assert result.ranks.tolist() == [0, 0, 0]


def test_nan_is_refused_instead_of_counted_as_a_hit() -> None:
    broken = AXES.copy()
    broken[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        classify(broken, AXES, np.arange(3))
    with pytest.raises(ValueError, match="NaN"):
        retrieve(AXES, broken, np.arange(3))


def test_retrieval_by_hand_with_several_captions_an_image() -> None:
    images = AXES
    captions = unit(
        (5, 1, 0),  # image 0: right first
        (1, 5, 0),  # image 0: image 1 is better
        (1, 2, 3),  # image 1: image 2 is better
        (4, 3, 5),  # image 2: right first
        (4, 3, 2),  # image 2: images 0 and 1 are better
    )
    result = retrieve(images, captions, np.array([0, 0, 1, 2, 2]))
    assert result.text_to_image.tolist() == [0, 1, 1, 0, 2]
    # Image 0's best caption is the best of all. Image 1's best (2/sqrt(14) = 0.53) is beaten by
    # (1,5,0) = 0.98 and (4,3,2) = 0.56. Image 2's best, (4,3,5) = 0.71, loses to (1,2,3) = 0.80.
    assert result.image_to_text.tolist() == [0, 2, 1]


def test_retrieval_counts_any_of_the_captions() -> None:
    captions = unit((0, 1, 0), (1, 0, 0), (0, 1, 0.1), (0, 0, 1))
    result = retrieve(AXES, captions, np.array([0, 0, 1, 2]))
    assert result.image_to_text[0] == 0  # its second caption is on the spot


def test_retrieval_ties_count_against_us() -> None:
    images = unit((1, 0), (1, 0), (0, 1))
    captions = unit((1, 0), (1, 0), (0, 1))
    result = retrieve(images, captions, np.arange(3))
    assert result.text_to_image.tolist() == [1, 1, 0]
    assert result.image_to_text.tolist() == [1, 1, 0]


def test_equal_captions_of_one_image_are_no_tie() -> None:
    captions = unit((1, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    result = retrieve(AXES, captions, np.array([0, 0, 1, 2]))
    assert result.image_to_text.tolist() == [0, 0, 0]


def test_ties_survive_the_rounding_of_the_matrix_product() -> None:
    # The same image 700 times over: every copy must tie, wherever it lies in the product.
    rng = np.random.default_rng(3)
    images = np.repeat(random_unit(rng, 1, 512), 700, axis=0)
    captions = random_unit(rng, 700, 512)
    result = retrieve(images, captions, np.arange(700))
    assert result.text_to_image.tolist() == [699] * 700


def test_one_image_and_one_caption() -> None:
    result = retrieve(AXES[:1], AXES[:1], np.array([0]))
    assert hits_at(result.text_to_image, 10).tolist() == [True]
    assert hits_at(result.image_to_text, 10).tolist() == [True]


def slow_retrieve(
    images: np.ndarray, captions: np.ndarray, owner: np.ndarray
) -> tuple[list[int], list[int]]:
    """The definition, one pair at a time."""
    similar = images.astype(np.float64) @ captions.astype(np.float64).T
    to_image = [
        sum(similar[i, t] >= similar[owner[t], t] for i in range(len(images)) if i != owner[t])
        for t in range(len(captions))
    ]
    to_text = []
    for i in range(len(images)):
        best = max(similar[i, t] for t in range(len(captions)) if owner[t] == i)
        to_text.append(sum(similar[i, t] >= best for t in range(len(captions)) if owner[t] != i))
    return to_image, to_text


@pytest.mark.parametrize("tile", [(512, 4096), (7, 11), (1, 1)])
def test_retrieval_against_the_definition(
    tile: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_TILE_ROWS", tile[0])
    monkeypatch.setattr(ranks, "_TILE_COLUMNS", tile[1])
    rng = np.random.default_rng(0)
    images, captions = random_unit(rng, 23), random_unit(rng, 57)
    owner = rng.permutation(np.concatenate([np.arange(23), rng.integers(0, 23, 34)]))
    result = retrieve(images, captions, owner)
    to_image, to_text = slow_retrieve(images, captions, owner)
    assert result.text_to_image.tolist() == to_image
    assert result.image_to_text.tolist() == to_text


def test_classification_across_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    images, weights = random_unit(rng, 40), random_unit(rng, 9)
    labels = rng.integers(0, 9, 40)
    whole = classify(images, weights, labels)
    monkeypatch.setattr(ranks, "_TILE_ROWS", 7)
    tiled = classify(images, weights, labels)
    assert tiled.ranks.tolist() == whole.ranks.tolist()
    similar = images @ weights.T
    assert whole.predicted.tolist() == similar.argmax(axis=1).tolist()
    order = np.argsort(-similar, axis=1)
    assert whole.ranks.tolist() == [list(order[i]).index(labels[i]) for i in range(40)]


def test_bad_shapes_and_indices() -> None:
    with pytest.raises(ValueError, match="one image index for each of 3"):
        retrieve(AXES, AXES, np.array([0, 1]))
    with pytest.raises(ValueError, match="image 1 has no caption"):
        retrieve(AXES, AXES, np.array([0, 0, 2]))
    with pytest.raises(ValueError, match="only 3"):
        classify(AXES, AXES, np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="only 3"):
        classify(AXES, AXES, np.array([0, 1, -1]))
    with pytest.raises(ValueError, match="3 values, text 2"):
        classify(AXES, unit((1, 0)), np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match=r"\[n, dim\]"):
        classify(np.empty((0, 3), dtype=np.float32), AXES, np.empty(0, dtype=int))
    with pytest.raises(ValueError, match="at least 1"):
        hits_at(np.array([0]), 0)


def test_chance() -> None:
    assert chance_any_in_top(1, 10, np.array([1, 1])) == pytest.approx(0.1)
    assert chance_any_in_top(5, 10, np.array([1])) == pytest.approx(0.5)
    # Two right among five, two drawn: 1 - (3/5)(2/4).
    assert chance_any_in_top(2, 5, np.array([2])) == pytest.approx(0.7)
    assert chance_any_in_top(10, 5, np.array([1])) == 1.0
    assert chance_any_in_top(4, 5, np.array([2])) == 1.0


def test_which_side_is_wrong_is_said_in_the_right_order() -> None:
    narrow = unit((1, 0), (0, 1))
    with pytest.raises(ValueError, match="image embeddings have 3 values, text 2"):
        classify(AXES, narrow, np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="image embeddings have 3 values, text 2"):
        retrieve(AXES, narrow, np.zeros(2, dtype=int))
    with pytest.raises(ValueError, match="a label names class 3, but there are only 3"):
        classify(AXES, AXES, np.array([0, 1, 3]))
    with pytest.raises(ValueError, match="a caption names image 4, but there are only 3"):
        retrieve(AXES, AXES, np.array([0, 1, 4]))
    with pytest.raises(ValueError, match=r"one class index for each of 3, not \[2\]"):
        classify(AXES, AXES, np.array([0, 1]))
    with pytest.raises(ValueError, match=r"not \[3\]"):
        classify(AXES, np.ones(3, np.float32), np.arange(3))
    with pytest.raises(ValueError, match=r"not \[3, 0\]"):
        retrieve(AXES, np.ones((3, 0), np.float32), np.arange(3))
    with pytest.raises(ValueError, match="only 3"):
        retrieve(AXES, AXES, np.array([0, 1, -1]))


def test_how_close_is_a_tie() -> None:
    # Class 1 lies 1e-10 nearer than class 0, then 1e-14: only the second is a tie.
    images = np.array([[1.0, 0.0]])
    for gap, predicted in ((1e-10, 1), (1e-14, 0)):
        weights = np.array([[0.5, 0.0], [0.5 + gap, 0.0]])
        result = classify(images, weights, np.array([1]))
        assert result.predicted.tolist() == [predicted]
        assert result.ranks.tolist() == [1 - predicted]
        found = retrieve(images, np.array([[0.5, 0.0]]), np.array([0]))
        assert found.text_to_image.tolist() == [0]
    assert ranks.TIE == 1e-12


def test_what_is_just_so_far_apart_is_a_tie() -> None:
    images, texts = np.array([[1.0], [0.0]]), np.array([[ranks.TIE], [0.0]])
    found = retrieve(images, texts, np.array([0, 1]))
    assert (found.text_to_image[0], found.image_to_text[0]) == (1, 1)
    result = classify(images[:1], texts[::-1], np.array([1]))
    assert (result.predicted.tolist(), result.ranks.tolist()) == ([0], [1])


def test_a_tile_of_similarities_takes_16_mib() -> None:
    assert ranks._TILE_ROWS * ranks._TILE_COLUMNS * 8 == 16 * 2**20


def test_types_of_results() -> None:
    result = classify(AXES, AXES, np.arange(3))
    assert result.predicted.dtype == result.ranks.dtype == np.int64
    found = retrieve(AXES, AXES, np.arange(3))
    assert found.text_to_image.dtype == found.image_to_text.dtype == np.int64
    assert hits_at(result.ranks, 1).dtype == bool
    weights = classifier_weights(np.ones((2, 1, 3), np.float32))
    assert weights.dtype == np.float32 and weights.shape == (2, 3)


def test_chance_of_several_samples() -> None:
    # One right of four: 1/4; three right of four: 3/4; drawn twice: 1/2 and 1.
    assert chance_any_in_top(1, 4, np.array([1, 3])) == pytest.approx(0.5)
    assert chance_any_in_top(2, 4, np.array([1, 3])) == pytest.approx(0.75)
    assert chance_any_in_top(3, 3, np.array([0, 1])) == pytest.approx(0.5)


def test_retrieval_takes_tiles_and_no_matrix() -> None:
    """A matrix of all similarities would take 160 MB."""
    import tracemalloc

    rng = np.random.default_rng(0)
    images, captions = (normalize(rng.normal(size=(n, 8))) for n in (1000, 20_000))
    owner = np.arange(20_000) % 1000
    tracemalloc.start()
    found = retrieve(images, captions, owner)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    # CLIP_benchmark's recall@5 of the same arrays, where nothing is tied: any among the five best.
    scores = captions.astype(np.float64) @ images.astype(np.float64).T
    best = np.argpartition(-scores, 4, axis=1)[:, :5]
    assert hits_at(found.text_to_image, 5).tolist() == (best == owner[:, None]).any(1).tolist()
    best = np.argpartition(-scores.T, 4, axis=1)[:, :5]
    expected = (owner[best] == np.arange(1000)[:, None]).any(axis=1)
    assert hits_at(found.image_to_text, 5).tolist() == expected.tolist()
