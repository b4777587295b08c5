"""What it costs that whole answers leave the engine in pieces too.

    python -m tests.bench.whole_answers --rounds 9

The same bare engine gives each answer at its end (vLLM's `FINAL_ONLY`, here "direct")
or in pieces of 32 tokens, as the engine's end of a link sends them ("together").
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.deltas import Coalescer
from deployments.settings import ModelSection
from deployments.types import Call, Sampling
from tests.bench.paths import bare_engine
from tests.bench.rounds import BASE, Load, Row, Stream, compare

if TYPE_CHECKING:
    from deployments.engine.engine import Engine

NUM_TOKENS_TOGETHER = 32


def at_the_end(engine: "Engine") -> Stream:
    """Answers as vLLM gives them whole."""
    from vllm import SamplingParams  # noqa: PLC0415  (needs the environment)
    from vllm.inputs.engine import tokens_input  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=num_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async for output in engine._llm.generate(tokens_input(prompt), sampling, name):
            yield len(output.outputs[0].token_ids)

    return stream


def together(engine: "Engine") -> Stream:
    """Answers in a few pieces."""

    async def stream(name: str, prompt: list[int], num_tokens: int) -> AsyncIterator[int]:
        sampling = Sampling(temperature=0.0, max_tokens=num_tokens, ignore_eos=True)
        coalescer = Coalescer(NUM_TOKENS_TOGETHER)
        async for delta, is_last in engine.run(Call(name, prompt, sampling)):
            due = coalescer.add(delta, is_last=is_last)
            if due is not None:
                yield len(due.token_ids)

    return stream


async def run(section: ModelSection, load: Load) -> list[Row]:
    """A row for each level."""
    async with bare_engine(section) as engine:
        paths = {BASE: at_the_end(engine), "together": together(engine)}
        return [row async for row in compare(paths, load)]


def main() -> None:
    """Measure and print a row of JSON for each level."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9, help="rounds a level (default 9)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[4, 32], help="levels")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    given = parser.parse_args()
    section = ModelSection(
        name="bench", model="smollm2-135m-instruct", max_model_len=2048, enforce_eager=True
    )
    rows = asyncio.run(run(section, Load(given.concurrency, given.rounds, 64, 64)))
    text = json.dumps([asdict(row) for row in rows], indent=1) + "\n"
    print(text)
    if given.json:
        given.json.write_text(text)


if __name__ == "__main__":
    main()
