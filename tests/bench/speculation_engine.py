"""An engine for `tests.bench.speculation`: a process that does what its standard input says.

The first line is JSON: vLLM's `arguments`. For each further line, `prompts` (token ids) and
`num_tokens`, it writes one of JSON: `answers` (token ids), `seconds` from the first step after
the prompts to the last, `num_steps` among them, and what has become of drafts meanwhile:
`num_drafts`, `num_draft_tokens`, `num_accepted` and `accepted_at`, by position.

Where `turn_s` is asked for, it decodes for so many seconds at a time: a turn that is over
before all is said is answered by `{"paused": true}`, and the next one begins with a line of
`{}`.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

from tests.bench.line_engine import serve

_ENGINE = {
    "skip_tokenizer_init": False,
    "max_model_len": 1536,
    "max_num_seqs": 32,
    "kv_cache_memory_bytes": 768 * 1024**2,
    "enable_prefix_caching": False,
    "disable_log_stats": False,
    "distributed_executor_backend": "deployments.engine.core_executor.CoreExecutor",
}
_COUNTS = {
    "vllm:spec_decode_num_drafts": "num_drafts",
    "vllm:spec_decode_num_draft_tokens": "num_draft_tokens",
    "vllm:spec_decode_num_accepted_tokens": "num_accepted",
}
_POSITIONS = "vllm:spec_decode_num_accepted_tokens_per_pos"


class RunningClock:
    """In place of `time` where the proposer times steps: stands still while the engine is
    paused, or it would learn of steps that take seconds."""

    def __init__(self) -> None:
        self.paused_s = 0.0

    def perf_counter(self) -> float:
        """Seconds that the engine has run."""
        return time.perf_counter() - self.paused_s


_clock = RunningClock()


def counts(llm: Any) -> dict[str, Any]:
    """What vLLM has counted of drafts, from its start on."""
    found: dict[str, Any] = dict.fromkeys(_COUNTS.values(), 0)
    found["accepted_at"] = []
    for metric in llm.get_metrics():
        if metric.name in _COUNTS:
            found[_COUNTS[metric.name]] += metric.value
        elif metric.name == _POSITIONS:
            found["accepted_at"] = list(metric.values)
    return found


def answer(llm: Any, ask: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What one line asks for."""
    from vllm import SamplingParams  # noqa: PLC0415 - takes seconds

    from deployments.drafts.in_engine import proposer  # noqa: PLC0415 - imports vLLM

    module: Any = proposer
    module.time = _clock
    engine = llm.llm_engine
    sampling = SamplingParams(
        temperature=ask.get("temperature", 0.0),
        seed=ask.get("seed"),
        max_tokens=ask["num_tokens"],
        allowed_token_ids=ask.get("allowed_token_ids"),
        detokenize=False,
    )
    before = counts(llm)
    for number, token_ids in enumerate(ask["prompts"]):
        engine.add_request(str(number), {"prompt_token_ids": token_ids}, sampling)
    said: dict[int, list[int]] = {}
    while len(said) < len(ask["prompts"]):
        step(engine, said)
    num_first = sum(map(len, said.values()))
    seconds, num_steps = 0.0, 0
    while True:
        begun_s = time.perf_counter()
        end_s = begun_s + ask.get("turn_s", math.inf)
        while engine.has_unfinished_requests() and time.perf_counter() < end_s:
            step(engine, said)
            num_steps += 1
        seconds += time.perf_counter() - begun_s
        if not engine.has_unfinished_requests():
            break
        paused_s = time.perf_counter()
        yield {"paused": True}
        _clock.paused_s += time.perf_counter() - paused_s
    after = counts(llm)
    positions = zip(
        after["accepted_at"],
        before["accepted_at"] or [0] * len(after["accepted_at"]),
        strict=True,
    )
    yield {
        "answers": [said[number] for number in sorted(said)],
        "num_tokens": sum(map(len, said.values())) - num_first,
        "seconds": seconds,
        "num_steps": num_steps,
        "accepted_at": [new - old for new, old in positions],
        **{name: after[name] - before[name] for name in _COUNTS.values()},
    }


def step(engine: Any, said: dict[int, list[int]]) -> None:
    """One of the engine's; notes what each answer says since."""
    for output in engine.step():
        number = int(output.request_id.partition("-")[0])
        said[number] = list(output.outputs[0].token_ids)


if __name__ == "__main__":
    serve(_ENGINE, answer)
