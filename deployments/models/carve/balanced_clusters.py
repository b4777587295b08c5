"""Clusters of equal size: k-means in which every cluster has the same number of places.

An expert of a mixture must hold as many neurons as every other one, so the
usual step "each point goes to its nearest centre" becomes an assignment: the
points that would lose most by their second choice choose first.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def balanced_clusters(
    features: Floats, num_clusters: int, seed: int, max_rounds: int = 10
) -> Indices:
    """Members of each cluster, ascending.

    Shape: `features` [num_points, num_features], of which `num_clusters` must
    divide num_points; the result [num_clusters, num_points / num_clusters].
    The same arguments give the same clusters. Stops where no point moves, or
    after `max_rounds`. Takes num_points * num_clusters * num_features
    operations a round.
    """
    num_points = len(features)
    assert num_points % num_clusters == 0
    size = num_points // num_clusters
    centres = _spread_centres(features, num_clusters, np.random.default_rng(seed))
    cluster_of = np.full(num_points, -1)
    for _ in range(max_rounds):
        moved = assign(_distances(features, centres), size)
        if np.array_equal(moved, cluster_of):
            break
        cluster_of = moved
        centres = _means(features, cluster_of, num_clusters)
    return np.argsort(cluster_of, kind="stable").reshape(num_clusters, size)


def assign(distances: Floats, size: int) -> Indices:
    """Cluster of each point, `size` points to each, at a small sum of distances.

    Shape: `distances` [num_points, num_clusters] -> [num_points]. Points with
    the largest regret (second nearest minus nearest) choose first; then pairs
    of points change places as long as that shortens the sum.
    """
    nearest_two = np.partition(distances, 1, axis=1)[:, :2]
    regret = nearest_two[:, 1] - nearest_two[:, 0]
    order = np.argsort(distances, axis=1, kind="stable")
    room = [size] * distances.shape[1]
    cluster_of = np.empty(len(distances), dtype=np.int64)
    for point in np.argsort(-regret, kind="stable").tolist():
        cluster = next(c for c in order[point].tolist() if room[c])
        room[cluster] -= 1
        cluster_of[point] = cluster
    _exchange(distances, cluster_of)
    return cluster_of


def _exchange(distances: Floats, cluster_of: Indices) -> None:
    """Let each point change places once, with the partner that gains most, if any."""
    points = np.arange(len(distances))
    for point in points.tolist():
        own = cluster_of[point]
        before = distances[point, own] + distances[points, cluster_of]
        after = distances[point, cluster_of] + distances[points, own]
        gain = before - after
        partner = int(np.argmax(gain))
        if gain[partner] > 1e-6 * float(before[partner]):
            cluster_of[point], cluster_of[partner] = cluster_of[partner], own


def _spread_centres(features: Floats, num_clusters: int, rng: np.random.Generator) -> Floats:
    """Points far from each other, by k-means++ (Arthur and Vassilvitskii, 2007)."""
    chosen = [int(rng.integers(len(features)))]
    nearest = _distances(features, features[chosen])[:, 0]
    while len(chosen) < num_clusters:
        total = float(nearest.sum())
        share = nearest / total if total > 0 else None
        chosen.append(int(rng.choice(len(features), p=share)))
        nearest = np.minimum(nearest, _distances(features, features[chosen[-1:]])[:, 0])
    return features[chosen]


def _means(features: Floats, cluster_of: Indices, num_clusters: int) -> Floats:
    return np.stack([features[cluster_of == c].mean(axis=0) for c in range(num_clusters)])


def _distances(features: Floats, centres: Floats) -> Floats:
    """Squared distances, never below zero. Shape: [num_points, num_centres]."""
    squares = (features**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    found: Floats = np.maximum(squares - 2 * features @ centres.T, 0.0)
    return found
