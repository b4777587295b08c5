"""What vLLM 0.32 gets wrong on CPUs where drafts are verified at a temperature.

Its rejection sampler spreads each request's temperature, top-k and top-p over the tokens of the
request's draft. On CPUs the kernel for that writes whole numbers into a copy of a result
that is of another type, and the copy is dropped: temperatures are what the memory held
before. With a model of random weights, answers at temperature 1 were nearly those at 0.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mend() -> None:
    """In this process, if it computes on a CPU; may be called twice."""
    from vllm.platforms import current_platform  # noqa: PLC0415 - takes seconds
    from vllm.v1.sample import rejection_sampler  # noqa: PLC0415

    if current_platform.is_cpu():
        rejection_sampler.expand_batch_to_tokens = expanded


def expanded(
    x: "torch.Tensor",
    cu_num_tokens: "torch.Tensor",
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> "torch.Tensor":
    """Each value as often as there are tokens; one of them replaced.

    Shapes: [batch_size] of both -> [num_tokens]. `cu_num_tokens` are the ends of the parts.
    """
    import torch  # noqa: PLC0415 - takes seconds

    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    replaced = torch.where(x == replace_from, torch.full_like(x, replace_to), x)
    found = replaced.repeat_interleave(counts.long())
    assert len(found) == num_tokens
    return found
