"""The vLLM engine of one replica, behind the few calls that the link needs."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import psutil
from vllm import SamplingParams
from vllm.config.kv_events import KVEventsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from cache.types import BlockGroup
from deployments.engine.dp_ranks import DpRanks
from deployments.engine.embedding import embed
from deployments.engine.failures import translated
from deployments.engine.kv_events.batch_stream import EventSource
from deployments.engine.kv_events.layout import group_layout
from deployments.engine.kv_events.pump import KvEventPump
from deployments.engine.load import EngineLoad, LoadLogger
from deployments.engine.seam import SeamProcessor, params_of
from deployments.engine.step_tracing import note_trace
from deployments.types import Call, Delta, FinishReason, TokenLogprob, TokenLogprobs
from infra.errors import CoterieError, EngineError, NoReplicaError

log = logging.getLogger(__name__)

# "repetition" is the engine's own stop; "error" is none, see `_finish_reason_of`.
_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "repetition": "stop",
}


class EngineInfo(msgspec.Struct, frozen=True):
    """What an engine knows only once its model is loaded."""

    max_model_len: int
    vocab_size: int
    num_kv_blocks: int
    block_size: int
    groups: tuple[BlockGroup, ...] = ()
    """By which prefixes are looked up; empty where nobody is told what is cached."""
    dp_ranks: tuple[int, ...] = ()
    """Those whose caches are told of."""


class Engine:
    """One vLLM engine: its core and ranks are child processes of this one."""

    def __init__(self, llm: AsyncLLM, adapters: dict[str, str], load: EngineLoad) -> None:
        self._llm = llm
        self.load = load
        config = llm.vllm_config
        # vLLM's own spans, where engine_args ask for them.
        self._has_tracing = config.observability_config.otlp_traces_endpoint is not None
        self._defaults: dict[str, Any] = config.model_config.get_diff_sampling_param()
        self._adapters = {
            name: LoRARequest(name, number, path)
            for number, (name, path) in enumerate(sorted(adapters.items()), start=1)
        }
        parallel = config.parallel_config
        self._ranks = DpRanks(
            parallel.data_parallel_size_local
            if parallel.local_engines_only
            else parallel.data_parallel_size
        )
        self.info = EngineInfo(
            max_model_len=config.model_config.max_model_len,
            vocab_size=config.model_config.get_vocab_size(),
            num_kv_blocks=config.cache_config.num_gpu_blocks or 0,
            block_size=config.cache_config.block_size,
        )

    @classmethod
    def start(cls, engine_args: dict[str, Any], adapters: dict[str, str]) -> "Engine":
        """Build the engine; blocks for as long as loading and warm-up take.

        Raises what vLLM raises for arguments it refuses.
        """
        load = EngineLoad()
        if "kv_events_config" in engine_args:
            config = KVEventsConfig(**engine_args["kv_events_config"])
            engine_args = engine_args | {"kv_events_config": config}
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**engine_args),
            stat_loggers=[lambda _, dp_rank: LoadLogger(load.of_rank(dp_rank))],
        )
        SeamProcessor.install(llm)
        return cls(llm, adapters, load)

    async def follow_kv_events(self, model: str) -> KvEventPump | None:
        """A pump that has begun, with `info` saying of what; None where there is none.

        `model` is the model reference that the hashes of its blocks start from.
        """
        sources = {
            dp_rank: EventSource(config.endpoint, config.replay_endpoint)
            for dp_rank, config in sorted(self._llm.get_kv_event_sources().items())
            if config.endpoint.startswith("ipc:") and config.replay_endpoint
        }
        if not sources:
            return None
        core = self._llm.engine_core
        metadata = await core.call_utility_async("get_kv_cache_group_metadata")
        layout = group_layout(metadata)
        if not layout.groups:
            log.warning("prefixes of %s cannot be looked up: its cache is %s", model, metadata)
            return None
        self.info = msgspec.structs.replace(
            self.info, groups=layout.groups, dp_ranks=tuple(sources)
        )
        return await KvEventPump.start(model, layout, sources)

    async def run(self, call: Call) -> AsyncGenerator[tuple[Delta, bool], None]:
        """Deltas of the call, each with whether it is the call's last.

        Closing the generator aborts the call. Raises InvalidArgumentError for
        what the engine refuses, EngineError where it fails, NoReplicaError
        where it has failed before; see `failures` for the rest.
        """
        if self._llm.errored:
            # Until it is replaced it has the least load of all: calls must not be
            # lost to it.
            raise NoReplicaError("this engine replica is being replaced; try again")
        has_output = False
        try:
            if call.pooling is not None:
                yield await embed(self._llm, call, **self._options(call)), True
                return
            with self._ranks.reserve(call) as ranked:
                async for output in self._llm.generate(
                    tokens_input(call.read_token_ids, cache_salt=call.cache_salt),
                    self._params(call),
                    call.request_id,
                    **self._options(call),
                    data_parallel_rank=ranked.dp_rank,
                ):
                    has_output = True
                    for delta, is_last in _to_deltas(output, call.sampling.logprobs or 0):
                        ranked.saw(delta)
                        yield delta, is_last
        except (CoterieError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            raise translated(error, has_output=has_output) from error

    def _params(self, call: Call) -> SamplingParams:
        params = params_of(call, self._defaults)
        note_trace(params, call.trace)
        return params

    def _options(self, call: Call) -> dict[str, Any]:
        return {
            "lora_request": self._adapters[call.adapter] if call.adapter else None,
            "trace_headers": call.trace if self._has_tracing else None,
        }

    async def check_health(self, timeout_s: float) -> None:
        """Ask the engine core itself, through its own loop.

        Raises EngineError where the core is dead, or has not answered within
        `timeout_s` and so counts as stuck.
        """
        if self._llm.errored:
            raise EngineError("the engine core is dead")
        try:
            async with asyncio.timeout(timeout_s):
                await self._llm.is_sleeping()
        except TimeoutError:
            raise EngineError(f"the engine core is stuck: no answer in {timeout_s} s") from None
        except EngineDeadError as error:
            raise EngineError("the engine core is dead") from error

    def kill(self) -> None:
        """End the engine's processes at once; open calls fail with EngineError."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                # Python's own helper stays, to remove their shared memory.
                if not any("resource_tracker" in word for word in process.cmdline()):
                    process.kill()

    def shutdown(self) -> None:
        """End the engine core and its ranks; returns when they are gone."""
        self._llm.shutdown(timeout=5.0)
        # vLLM's finalizer fails when the interpreter, being at its end, calls it.
        del self._llm


def _to_deltas(output: RequestOutput, num_top: int) -> list[tuple[Delta, bool]]:
    last = len(output.outputs) - 1
    cached = output.num_cached_tokens or 0
    return [
        (_to_delta(piece, cached, num_top), output.finished and i == last)
        for i, piece in enumerate(output.outputs)
    ]


def _to_delta(piece: CompletionOutput, num_cached_tokens: int, num_top: int) -> Delta:
    return Delta(
        index=piece.index,
        text=piece.text,
        token_ids=list(piece.token_ids),
        finish_reason=_finish_reason_of(piece),
        stop_reason=piece.stop_reason,
        logprobs=_to_logprobs(piece, num_top) if piece.logprobs else None,
        num_cached_tokens=num_cached_tokens,
    )


def _finish_reason_of(piece: CompletionOutput) -> FinishReason | None:
    if piece.finish_reason == "error":
        raise EngineError("the engine failed in the middle of the request; try again")
    return _FINISH[piece.finish_reason] if piece.finish_reason else None


def _to_logprobs(piece: CompletionOutput, num_top: int) -> tuple[TokenLogprobs, ...]:
    """vLLM's mapping holds the chosen token and, beside it, the likeliest."""
    assert piece.logprobs is not None
    found = []
    for token_id, by_id in zip(piece.token_ids, piece.logprobs, strict=False):
        ranked = sorted(
            (
                TokenLogprob(i, p.logprob, p.decoded_token or "", p.rank or 0)
                for i, p in by_id.items()
            ),
            key=lambda p: p.rank,
        )
        chosen = next(p for p in ranked if p.token_id == token_id)
        found.append(TokenLogprobs(chosen, tuple(p for p in ranked if p.rank <= num_top)))
    return tuple(found)
