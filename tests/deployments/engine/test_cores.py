"""How the ranks of a node share out its cores."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine.cores import NodeCores, num_ranks_to_share, plan_cores
from deployments.settings import ModelSection
from infra.errors import ConfigError


def section(**changes: object) -> ModelSection:
    return ModelSection.model_validate({"name": "m", "model": "some/model"} | changes)


def start_all(sections: Sequence[ModelSection], num_cores: int) -> list[list[list[int]]]:
    """What replicas of these sections take on one node, one after the other."""
    num_ranks, bound = num_ranks_to_share(sections), Counter[int]()
    taken = []
    for each in [s for s in sections for _ in range(s.num_replicas)]:
        runs = plan_cores(each, NodeCores(range(num_cores), num_ranks, bound))
        bound.update(core for run in runs for core in run)
        taken.append(runs)
    return taken


def test_ranks_get_equal_runs_of_the_cores_there_are() -> None:
    two = section(tensor_parallel_size=2)
    assert plan_cores(two, NodeCores([0, 1])) == [[0], [1]]
    assert plan_cores(two, NodeCores([7, 4, 5, 6, 8])) == [[5, 6], [7, 8]]


def test_one_core_is_left_to_the_rest_where_there_is_one_to_spare() -> None:
    assert plan_cores(section(), NodeCores([2, 0, 1])) == [[1, 2]]
    assert plan_cores(section(), NodeCores([3])) == [[3]]


def test_replicas_of_a_node_share_its_cores_out() -> None:
    assert start_all([section(num_replicas=2)], 2) == [[[0]], [[1]]]
    assert start_all([section(num_replicas=2)], 3) == [[[1]], [[2]]]
    assert start_all([section(num_replicas=2)], 9) == [[[1, 2, 3, 4]], [[5, 6, 7, 8]]]


def test_replicas_of_several_models_share_as_well() -> None:
    split = section(name="a", tensor_parallel_size=2)
    assert start_all([split, section(name="b")], 8) == [[[1, 2], [3, 4]], [[5, 6]]]


def test_the_next_replica_takes_the_core_of_the_one_that_ended() -> None:
    node = NodeCores([0, 1], num_ranks=2, num_bound={0: 1})
    assert plan_cores(section(), node) == [[1]]
    node = NodeCores([0, 1], num_ranks=2, num_bound={1: 1})
    assert plan_cores(section(), node) == [[0]]


def test_more_ranks_than_cores_share_them_evenly() -> None:
    assert start_all([section(num_replicas=4)], 2) == [[[0]], [[1]], [[0]], [[1]]]


def test_as_many_cores_as_ray_sets_aside_are_taken() -> None:
    asked = section(num_replicas=2, num_cpus_per_rank=3)
    assert start_all([asked], 8) == [[[1, 2, 3]], [[4, 5, 6]]]
    assert start_all([asked], 6) == [[[0, 1, 2]], [[3, 4, 5]]]
    half = section(num_cpus_per_rank=0.5, tensor_parallel_size=2)
    assert start_all([half], 5) == [[[1], [2]]]


def test_a_rank_gets_no_more_cores_than_there_are() -> None:
    assert start_all([section(num_cpus_per_rank=8)], 2) == [[[0, 1]]]


def test_given_cores_are_taken_as_they_are() -> None:
    asked = section(tensor_parallel_size=2, cpu_cores_per_rank=[[0, 2], [1, 3]])
    assert plan_cores(asked, NodeCores([0])) == [[0, 2], [1, 3]]


def test_models_that_name_their_cores_leave_the_others_whole_shares() -> None:
    assert num_ranks_to_share([section(cpu_cores_per_rank=[[0]]), section(num_replicas=3)]) == 3


def test_more_ranks_than_cores_is_the_operators_mistake() -> None:
    with pytest.raises(ConfigError, match="lower tensor_parallel_size"):
        plan_cores(section(tensor_parallel_size=3), NodeCores([0, 1]))


@given(
    num_cores=st.integers(1, 20),
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3),
)
def test_no_core_is_shared_while_there_are_as_many_as_ranks(
    num_cores: int, shapes: list[tuple[int, int]]
) -> None:
    sections = [section(num_replicas=n, tensor_parallel_size=tp) for n, tp in shapes]
    if max(tp for _, tp in shapes) > num_cores:
        return
    uses = Counter(c for runs in start_all(sections, num_cores) for run in runs for c in run)
    assert set(uses) <= set(range(num_cores))
    if num_ranks_to_share(sections) <= num_cores:
        assert max(uses.values()) == 1
