"""Whole outputs of a generation, for the doors that do not stream."""

from contextlib import aclosing

from deployments.deltas import join
from deployments.gateway.service import Generation
from deployments.types import Delta


async def whole_outputs(generation: Generation) -> list[Delta]:
    """Each output as one delta, by index. Raises what the generation raises."""
    index_to_pieces: dict[int, list[Delta]] = {}
    async with aclosing(generation.deltas()) as deltas:
        async for delta in deltas:
            index_to_pieces.setdefault(delta.index, []).append(delta)
    return [join(index_to_pieces[index]) for index in sorted(index_to_pieces)]
