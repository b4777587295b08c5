"""The load of one engine replica: over all gateways, and each one's part of it.

The same sums as a gateway's ledger keeps of its own calls (`router.charge`), so that a
gateway can take its part out of the total. Reports go down the links on change, at most
every `MIN_REPORT_S`, and at least every `MAX_REPORT_S`, by which a gateway tells a
replica that has nothing new from one that is stuck.
"""

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from deployments.types import Call
from deployments.wire import MAX_REPORT_S
from router.charge import Charge, LoadSum
from router.scaling.prompt_flow import PromptFlow
from router.types import DraftCounts, KvRoom, Load, LoadReport

MIN_REPORT_S = 0.03


class EngineStats(msgspec.Struct, frozen=True):
    """What the engine itself counts, as of its last step; `kv` is None where unknown."""

    num_running: int = 0
    num_waiting: int = 0
    kv: KvRoom | None = None
    drafts: DraftCounts = DraftCounts()
    tokens_per_step: float = 1.0


Stats = Callable[[], EngineStats]


def no_stats() -> EngineStats:
    """Of an engine that tells nothing."""
    return EngineStats()


class LoadBook:
    """What has been asked of the engine, and the reports of it."""

    def __init__(self, stats: Stats) -> None:
        self.is_draining = False
        self._stats = stats
        self._total = LoadSum()
        self._parts: dict[Callable[[LoadReport], None], LoadSum] = {}
        self._open: dict[Charge, LoadSum] = {}
        self._adapters: set[str] = set()
        self._prompts = PromptFlow()
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False
        self._reported_s = 0.0

    @property
    def load(self) -> Load:
        """Of all gateways' calls together."""
        return self._total.load

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens that the engine computes while some wait; 0 where not known."""
        return self._prompts.tokens_per_s

    @property
    def asked_tokens_per_s(self) -> float:
        """Prompt tokens that have come of late."""
        return self._prompts.asked_per_s(asyncio.get_running_loop().time())

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens behind the first prompt that has no token yet."""
        queued = (charge.load.queued_prefill_tokens for charge in self._open)
        return self.load.queued_prefill_tokens - next((n for n in queued if n), 0)

    def join(self, send: Callable[[LoadReport], None]) -> LoadSum:
        """A gateway's link stands: `send` gets a report at once, and further ones from
        here on. Returns the sum of its part."""
        part = self._parts[send] = LoadSum()
        send(self._report(part, self._stats()))
        if self._timer is None:
            self._timer = self._call_in(MAX_REPORT_S)
        return part

    def leave(self, send: Callable[[LoadReport], None]) -> None:
        """The link is gone; its open calls are taken out as they end."""
        self._parts.pop(send, None)
        if not self._parts and self._timer is not None:
            self._timer.cancel()
            self._timer, self._is_due = None, False

    def begin(self, part: LoadSum, call: Call, num_prefill_tokens: int) -> Charge:
        """Count a call that comes in, as a part of its gateway's."""
        num_sequences = 0 if call.pooling is not None else call.sampling.n
        load = Load(num_prefill_tokens, num_sequences, len(call.read_token_ids))
        charge = Charge((self._total, part), load)
        self._open[charge] = part
        self._prompts.ask(asyncio.get_running_loop().time(), num_prefill_tokens)
        if call.adapter is not None:
            self._adapters.add(call.adapter)
        self.note_change()
        return charge

    def end(self, charge: Charge) -> None:
        """The call is over, however it ended."""
        num_dropped = charge.load.queued_prefill_tokens
        charge.end()
        self._note_prompts(num_dropped)
        del self._open[charge]
        self.note_change()

    def note_change(self) -> None:
        """Something is worth a report, as soon as the rate allows."""
        self._note_prompts()
        if self._timer is None or self._is_due:
            return
        self._is_due = True
        self._timer.cancel()
        now_s = asyncio.get_running_loop().time()
        self._timer = self._call_in(max(0.0, self._reported_s + MIN_REPORT_S - now_s))

    def check_invariants(self) -> None:
        """Each sum is that of the open calls in it."""
        for part in {*self._parts.values(), *self._open.values()}:
            assert part.load == _sum(c for c, owner in self._open.items() if owner is part)
        assert self._total.load == _sum(self._open)
        assert not self._parts or self._timer is not None

    def _note_prompts(self, num_dropped: int = 0) -> None:
        queued = self._total.queued_prefill_tokens
        if queued != self._prompts.queued:
            self._prompts.note(asyncio.get_running_loop().time(), queued, num_dropped)

    def _call_in(self, delay_s: float) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay_s, self._send_all)

    def _send_all(self) -> None:
        self._reported_s = asyncio.get_running_loop().time()
        self._is_due = False
        self._timer = self._call_in(MAX_REPORT_S)
        stats = self._stats()
        for send, part in list(self._parts.items()):
            send(self._report(part, stats))

    def _report(self, part: LoadSum, stats: EngineStats) -> LoadReport:
        kv = stats.kv
        if kv is not None and not self._open:
            # Calls that were aborted leave the cache without a step that would tell.
            kv = KvRoom(kv.total_tokens, kv.total_tokens)
        return LoadReport(
            total=self._total.load,
            own=part.load,
            kv=kv,
            adapters=tuple(sorted(self._adapters)),
            num_running=stats.num_running,
            num_waiting=stats.num_waiting,
            is_draining=self.is_draining,
            drafts=stats.drafts,
            tokens_per_step=stats.tokens_per_step,
        )


def _sum(charges: Iterable[Charge]) -> Load:
    total = Load()
    for charge in charges:
        total = total.plus(charge.load)
    return total
