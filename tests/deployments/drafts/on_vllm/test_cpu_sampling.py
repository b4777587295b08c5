"""Temperatures of requests, spread over the tokens of their drafts."""

import pytest
import torch
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler

from deployments.drafts.in_engine import cpu_sampling

pytestmark = pytest.mark.model


def test_each_value_stands_as_often_as_there_are_tokens_and_one_is_replaced() -> None:
    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    found = cpu_sampling.expanded(torch.tensor([0.5, 9.0, 0.0]), ends, 5, 0, 1)
    assert found.tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]
    counts = cpu_sampling.expanded(torch.tensor([7, 8, 0], dtype=torch.int32), ends, 5)
    assert (counts.tolist(), counts.dtype) == ([7, 7, 0, 0, 0], torch.int32)


def test_vllm_takes_ours_on_a_cpu() -> None:
    cpu_sampling.mend()
    is_ours = rejection_sampler.expand_batch_to_tokens is cpu_sampling.expanded
    assert is_ours == current_platform.is_cpu()
