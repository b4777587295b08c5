"""A real engine continues outputs from every few places; nobody can tell where.

float32, since in bfloat16 a near tie can fall differently in another batch.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deployments.settings import ModelSection
from deployments.types import Call, Delivered, Delta, Sampling
from tests.bench.paths import bare_engine
from tests.builders.small_llama import write_small_llama

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

EMOJI = "\U0001f642\U0001f389 \u4e2d\u6587 caf\u00e9 "
NUM_TOKENS = 24


async def pieces_of(engine: Any, call: Call) -> list[Delta]:
    return [delta async for delta, _ in engine.run(call)]


def what_clients_see(pieces: list[Delta]) -> dict[str, Any]:
    last = pieces[-1]
    places = [place for piece in pieces for place in piece.logprobs or ()]
    return {
        "text": "".join(piece.text for piece in pieces),
        "token_ids": [token for piece in pieces for token in piece.token_ids],
        "ends": (last.finish_reason, last.stop_reason),
        "tops": [[(p.token_id, p.text, p.rank) for p in place.top] for place in places],
        "chosen": [(place.chosen.token_id, place.chosen.text) for place in places],
    }


def logprobs_of(pieces: list[Delta]) -> list[float]:
    return [place.chosen.logprob for piece in pieces for place in piece.logprobs or ()]


async def check_all_seams(engine: Any, name: str, prompt: list[int], **fields: Any) -> str:
    """Compare the output with itself, continued at each third place; its text."""
    sampling = Sampling(**({"temperature": 0, "max_tokens": NUM_TOKENS} | fields))
    call = Call(name, prompt, sampling)
    whole = await pieces_of(engine, call)

    async def check(place: int) -> None:
        before = whole[:place]
        delivered = Delivered(
            [token for piece in before for token in piece.token_ids],
            sum(len(piece.text) for piece in before),
        )
        rest = Call(f"{name}-{place}", prompt, sampling, delivered=delivered)
        found = [*before, *await pieces_of(engine, rest)]
        assert what_clients_see(found) == what_clients_see(whole), (name, place)
        # In another batch the last digits differ.
        assert logprobs_of(found) == pytest.approx(logprobs_of(whole), abs=1e-3)

    await asyncio.gather(*(check(place) for place in range(1, len(whole), 3)))
    return "".join(piece.text for piece in whole)


async def test_real_outputs_are_the_same_wherever_their_seam_is(tmp_path: Path) -> None:
    section = ModelSection(
        name="m",
        model=str(write_small_llama(tmp_path / "small-llama.gguf")),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=8,
        kv_cache_memory_bytes=128 * 1024**2,
    )
    async with bare_engine(section) as engine:
        encode = engine._llm.get_tokenizer().encode
        story = encode("Once upon a time, there was a little")
        text = await check_all_seams(engine, "plain", story, logprobs=2, ignore_eos=True)
        stop = text[len(text) // 2 : len(text) // 2 + 7]
        stopped = await check_all_seams(engine, "stop", story, stop=(stop,), logprobs=0)
        assert stopped == text[: text.index(stop)]
        kept = await check_all_seams(engine, "kept", story, stop=(stop,), include_stop=True)
        assert kept == stopped + stop
        await check_all_seams(
            engine, "limits", story, min_tokens=12, repetition_penalty=1.3, top_k=5
        )
        # Most of these tokens are parts of characters.
        parts = sorted(set(encode(EMOJI)))
        odd = await check_all_seams(
            engine,
            "odd",
            encode(EMOJI * 3),
            allowed_token_ids=tuple(parts),
            repetition_penalty=1.2,
            logprobs=3,
            ignore_eos=True,
        )
        assert len(odd.encode()) > len(odd) > 0
