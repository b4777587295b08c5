import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.models.carve.balanced_clusters import Floats, assign, balanced_clusters
from tests.reference.balanced_assignment import shortest_assignment

# Few values and many repeats: ties are the point.
SHAPES = st.tuples(st.integers(2, 4), st.integers(1, 2))


@st.composite
def distances(draw: st.DrawFn) -> Floats:
    num_clusters, size = draw(SHAPES)
    cells = num_clusters * num_clusters * size
    values = draw(st.lists(st.integers(0, 3), min_size=cells, max_size=cells))
    return np.array(values, dtype=np.float32).reshape(num_clusters * size, num_clusters)


@st.composite
def features(draw: st.DrawFn) -> tuple[Floats, int]:
    num_clusters, size = draw(st.tuples(st.integers(2, 5), st.integers(1, 4)))
    cells = num_clusters * size * 2
    values = draw(st.lists(st.integers(-1, 1), min_size=cells, max_size=cells))
    return np.array(values, dtype=np.float32).reshape(-1, 2), num_clusters


@given(features(), st.integers(0, 3))
def test_every_point_is_in_one_cluster_and_clusters_are_of_one_size(
    points: tuple[Floats, int], seed: int
) -> None:
    given_features, num_clusters = points
    clusters = balanced_clusters(given_features, num_clusters, seed)
    assert clusters.shape == (num_clusters, len(given_features) // num_clusters)
    assert sorted(clusters.flatten().tolist()) == list(range(len(given_features)))
    assert (np.diff(clusters, axis=1) > 0).all()
    assert np.array_equal(clusters, balanced_clusters(given_features, num_clusters, seed))


@settings(max_examples=200)
@given(distances())
def test_an_assignment_fills_every_place_and_is_not_far_from_the_shortest(
    given_distances: Floats,
) -> None:
    num_points, num_clusters = given_distances.shape
    found = assign(given_distances, num_points // num_clusters)
    counts = np.bincount(found, minlength=num_clusters).tolist()
    assert counts == [num_points // num_clusters] * num_clusters
    total = float(given_distances[np.arange(num_points), found].sum())
    shortest = shortest_assignment(given_distances)
    # At most one pair's worth above it, of distances up to 3.
    assert shortest <= total <= shortest + 6


def test_two_clouds_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    clouds = np.concatenate([rng.normal(c, 0.1, (8, 3)) for c in (0.0, 5.0)])
    clusters = balanced_clusters(clouds.astype(np.float32), 2, seed=0)
    assert sorted(clusters.tolist()) == [list(range(8)), list(range(8, 16))]


def test_a_cloud_that_is_too_large_gives_away_what_lies_nearest_to_the_other() -> None:
    line = np.array([[0.0], [0.1], [0.2], [0.9], [5.0], [5.1]], dtype=np.float32)
    clusters = balanced_clusters(line, 2, seed=0)
    assert sorted(clusters.tolist()) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("num_clusters", [2, 3])
def test_points_that_are_all_alike_are_divided_all_the_same(num_clusters: int) -> None:
    clusters = balanced_clusters(np.zeros((6, 2), dtype=np.float32), num_clusters, seed=0)
    assert clusters.shape == (num_clusters, 6 // num_clusters)
