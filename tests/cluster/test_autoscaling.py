"""Engines, and the nodes that they are on, come with the load and go without it."""

import pytest

from tests.bench import autoscaling

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


async def test_engines_and_their_nodes_follow_the_load_down_to_none(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    course = await autoscaling.run(tmp_path_factory.mktemp("scaled"))
    assert course.num_requests >= autoscaling.NUM_FIRST + autoscaling.NUM_MANY
    assert (course.num_lost, course.num_wrong) == (0, 0)
    # No engine and no node of one, an engine, two of both, and none again.
    seen = {(point.num_running, point.num_nodes) for point in course.points}
    assert {(0, 1), (1, 2), (2, 3)} <= seen
    assert max(point.num_running for point in course.points) == 2
    last = course.points[-1]
    assert (last.num_running, last.num_nodes) == (0, 1)
