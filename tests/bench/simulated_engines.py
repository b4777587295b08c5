"""Engines that batch continuously, in simulated time.

A step decodes a token of each running sequence, and fills up with prompts, in the order in
which they came, chunked: vLLM's default. It takes

    step_s + sequence_s * running + prompt tokens / prefill_tokens_per_s

A sequence gets in where its prompt and its whole output fit into the KV cache, so nothing is
preempted; no prefix is cached.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from router.scaling.engine_demand import EngineSignals
from router.scaling.prompt_flow import PromptFlow


@dataclass(eq=False)
class Request:
    """Of so many tokens, one or more each."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float = math.inf
    finished_s: float = math.inf

    @property
    def ttft_s(self) -> float:
        """Endless until it has a token."""
        return self.first_token_s - self.arrived_s


class Pace(NamedTuple):
    """Of one engine."""

    prefill_tokens_per_s: float
    step_s: float = 0.015
    sequence_s: float = 0.0003
    max_num_seqs: int = 64
    max_batched_tokens: int = 8192
    kv_tokens: int = 400_000

    def alone_s(self, request: Request) -> float:
        """What its first token takes in an engine that has nothing else to do."""
        num_steps = math.ceil(request.prompt_tokens / self.max_batched_tokens)
        return num_steps * self.step_s + request.prompt_tokens / self.prefill_tokens_per_s


class SimulatedEngine:
    """Given requests and, in the order of time, told how late it is."""

    def __init__(self, pace: Pace, ready_s: float) -> None:
        self.pace = pace
        self.ready_s = ready_s
        self.drains = False
        self._waiting: deque[Request] = deque()
        self._left = 0
        """Prompt tokens that the first of the waiting has yet to compute."""
        self._running: list[tuple[int, int, Request]] = []
        """By the step after which it is finished."""
        self._step = 0
        self._step_ends_s: float | None = None
        self._chunks: list[tuple[Request, int]] = []
        self._reserved_tokens = 0
        self._held_tokens = 0
        self.queued_tokens = 0
        self._prompts = PromptFlow()

    @property
    def num_sequences(self) -> int:
        """Waiting and running."""
        return len(self._waiting) + len(self._running)

    def signals(self, now_s: float) -> EngineSignals:
        """What a replica would tell."""
        return EngineSignals(
            num_sequences=self.num_sequences,
            asked_tokens_per_s=self._prompts.asked_per_s(now_s),
            waiting_tokens=self.queued_tokens - self._left,
            kv_usage=self._held_tokens / self.pace.kv_tokens,
            prefill_tokens_per_s=self._prompts.tokens_per_s,
            tpot_s=self.pace.step_s + self.pace.sequence_s * len(self._running),
        )

    def add(self, now_s: float, request: Request) -> None:
        """`advance` must have been told of this time."""
        if not self._waiting:
            self._left = request.prompt_tokens
        self._waiting.append(request)
        self.queued_tokens += request.prompt_tokens
        self._prompts.ask(now_s, request.prompt_tokens)
        self._prompts.note(now_s, self.queued_tokens)
        if self._step_ends_s is None:
            self._begin(now_s)

    def advance(self, now_s: float) -> None:
        """All steps that have ended by now."""
        while self._step_ends_s is not None and self._step_ends_s <= now_s:
            ended_s = self._step_ends_s
            self._end(ended_s)
            self._step_ends_s = None
            if self.num_sequences:
                self._begin(ended_s)

    def _begin(self, now_s: float) -> None:
        pace = self.pace
        budget = pace.max_batched_tokens - len(self._running)
        places = pace.max_num_seqs - len(self._running)
        self._chunks = []
        for number, request in enumerate(self._waiting):
            if budget <= 0 or places <= 0:
                break
            whole = request.prompt_tokens + request.output_tokens
            left = self._left if number == 0 else request.prompt_tokens
            if left == request.prompt_tokens:
                if self._reserved_tokens and self._reserved_tokens + whole > pace.kv_tokens:
                    break
                self._reserved_tokens += whole
            chunk = min(left, budget)
            self._chunks.append((request, chunk))
            budget -= chunk
            places -= 1
        computed = sum(chunk for _, chunk in self._chunks)
        self._step_ends_s = (
            now_s
            + pace.step_s
            + pace.sequence_s * len(self._running)
            + computed / pace.prefill_tokens_per_s
        )

    def _end(self, now_s: float) -> None:
        self._step += 1
        self._held_tokens += len(self._running)
        while self._running and self._running[0][0] <= self._step:
            _, _, request = heapq.heappop(self._running)
            self._free(now_s, request)
        for request, chunk in self._chunks:
            self.queued_tokens -= chunk
            self._held_tokens += chunk
            self._left -= chunk
            if self._left > 0:
                break
            self._waiting.popleft()
            self._left = self._waiting[0].prompt_tokens if self._waiting else 0
            request.first_token_s = now_s
            self._held_tokens += 1
            if request.output_tokens <= 1:
                self._free(now_s, request)
            else:
                last = self._step + request.output_tokens - 1
                heapq.heappush(self._running, (last, id(request), request))
        self._prompts.note(now_s, self.queued_tokens)

    def _free(self, now_s: float, request: Request) -> None:
        whole = request.prompt_tokens + request.output_tokens
        self._held_tokens -= whole
        self._reserved_tokens -= whole
        request.finished_s = now_s

    def check_invariants(self) -> None:
        """Nothing is held by nobody."""
        assert 0 <= self.queued_tokens and 0 <= self._held_tokens
        assert len(self._running) <= self.pace.max_num_seqs
        if not self.num_sequences:
            assert self._held_tokens == self._reserved_tokens == self.queued_tokens == 0
