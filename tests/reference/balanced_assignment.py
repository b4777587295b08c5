"""The shortest assignment of points to clusters of one size, by trying all."""

import itertools

import numpy as np
import numpy.typing as npt


def shortest_assignment(distances: npt.NDArray[np.float32]) -> float:
    """Least sum of distances. Shape: [num_points, num_clusters], few of both."""
    num_points, num_clusters = distances.shape
    size = num_points // num_clusters
    points = np.arange(num_points)
    return min(
        float(distances[points, list(choice)].sum())
        for choice in itertools.product(range(num_clusters), repeat=num_points)
        if all(choice.count(cluster) == size for cluster in range(num_clusters))
    )
