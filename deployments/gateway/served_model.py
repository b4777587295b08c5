"""One model as the gateway sees it: tokenizer, engine replicas, load."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from deployments.gateway.draft_totals import DraftTotals
from deployments.gateway.link import Link, OnBegun
from deployments.gateway.routing import Routing
from deployments.gateway.tokenizer import Tokenizer
from deployments.settings import ModelSection
from deployments.types import Call, Delta, ModelCard
from infra.errors import DeadlineError, NoReplicaError
from router.prefix_lookup import NoPrefixIndex, PrefixLookup
from router.settings import RouterSection
from router.types import LoadReport, ReplicaId, ReplicaState

log = logging.getLogger(__name__)


def replica_wait_s(section: ModelSection, router: RouterSection) -> float:
    """How long a request waits for an engine replica of the model where there is none."""
    if section.scales_to_zero:
        return max(section.startup_timeout_s, router.replica_wait_s)
    return router.replica_wait_s


class ServedModel:
    """The links to a model's engine replicas, and which of them takes a call.

    A replica is ready while its link stands, it has turned no call away over it, and
    does not drain.
    """

    def __init__(
        self,
        section: ModelSection,
        tokenizer: Tokenizer,
        link_token: str,
        router: RouterSection,
        prefixes: PrefixLookup | None = None,
    ) -> None:
        """`prefixes` is the model's prefix index; without it none is asked."""
        self.section = section
        self.tokenizer = tokenizer
        # Otherwise a replica tells.
        self.max_model_len = (section.max_model_len or 0) if section.scales_to_zero else 0
        self.vocab_size = tokenizer.vocab_size
        self._created_s = int(time.time())
        self._link_token = link_token
        self._links: dict[ReplicaId, Link] = {}
        self._set_aside: dict[ReplicaId, ReplicaState] = {}
        self._leaving: dict[asyncio.Future[None], Link] = {}
        self.max_resumes = router.max_resumes
        self._replica_wait_s = replica_wait_s(section, router)
        self.routing = Routing(section.name, router, prefixes or NoPrefixIndex())
        self.drafts = DraftTotals()
        self._on_change: list[Callable[[], None]] = []
        self._on_report: list[Callable[[], None]] = []
        self._has_changed = asyncio.Event()

    @property
    def num_ready_replicas(self) -> int:
        """Engine replicas that take calls."""
        return len(self._ready_replicas())

    @property
    def num_places(self) -> int:
        """Sequences that the ready engine replicas work on in one step."""
        return self.num_ready_replicas * self.section.max_num_seqs

    @property
    def has_replicas(self) -> bool:
        """Some engine replica is listed, ready or not."""
        return bool(self._links)

    def tell_held(self, num_sequences: int) -> None:
        """So many wait here: told to all engine replicas that do not know it yet."""
        for link in self._links.values():
            link.tell_held(num_sequences)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a replica has become ready or is ready no more."""
        self._on_change.append(listener)

    def on_report(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever a replica has told its load: often."""
        self._on_report.append(listener)

    async def wait_ready(self) -> None:
        """Wait until an engine replica is ready."""
        while not self.num_ready_replicas:
            await self._has_changed.wait()

    def set_replicas(self, replicas: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over the running replicas; call it in the event loop.

        A replica that is listed no more takes no new calls; its link stays
        until its open calls are through.
        """
        for replica_id, metadata in replicas.items():
            if ReplicaId(replica_id) not in self._links and "address" in metadata:
                self._links[ReplicaId(replica_id)] = Link(
                    metadata["address"],
                    self._link_token,
                    partial(self._note_link, ReplicaId(replica_id)),
                    partial(self._take_report, ReplicaId(replica_id)),
                )
                self.max_model_len = metadata["max_model_len"]
                self.vocab_size = metadata["vocab_size"]
        for replica_id in [r for r in self._links if r not in replicas]:
            self._set_aside.pop(replica_id, None)
            link = self._links.pop(replica_id)
            self.drafts.forget(replica_id)
            leaving = asyncio.ensure_future(link.close_when_idle())
            self._leaving[leaving] = link
            leaving.add_done_callback(self._leaving.pop)
        self._note_change()

    async def run(
        self, call: Call, timeout_s: float, on_begun: OnBegun = lambda _: None
    ) -> AsyncGenerator[Delta, None]:
        """Choose a replica and give the call's deltas; see `Link.run`.

        A replica that turns the call away before it has begun (it is draining, say) is
        passed over for another, and not asked again over this link. Where there is none,
        one that is about to come is waited for.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            await self._wait_ready_within(min(self._replica_wait_s, end_s - time.monotonic()))
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineError(f"not begun within {timeout_s:g} s")
            with self.routing.reserve(call) as routed:
                try:
                    link = self._links[routed.replica_id]
                    run = link.run(routed.call, left_s, on_begun, routed.num_prefill_tokens)
                    async with aclosing(run) as deltas:
                        async for delta in deltas:
                            routed.saw(delta)
                            yield delta
                    return
                except NoReplicaError:
                    self._put_aside(routed.replica_id, "set_aside")

    async def _wait_ready_within(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wait_ready()

    def _ready_replicas(self) -> list[ReplicaId]:
        return [r for r in self._links if self._state_of(r) == "ready"]

    def _state_of(self, replica_id: ReplicaId) -> ReplicaState:
        if not self._links[replica_id].is_up:
            return "away"
        return self._set_aside.get(replica_id, "ready")

    def _put_aside(self, replica_id: ReplicaId, state: ReplicaState) -> None:
        # It may have been taken off the list while it turned the call away.
        if replica_id in self._links and self._set_aside.get(replica_id) != state:
            self._set_aside[replica_id] = state
            self._note_change()

    def _note_link(self, replica_id: ReplicaId) -> None:
        self._set_aside.pop(replica_id, None)
        self.routing.forget_report(replica_id)
        self._note_change()

    def _take_report(self, replica_id: ReplicaId, report: LoadReport) -> None:
        self.routing.take_report(replica_id, report)
        if replica_id in self._links:
            self.drafts.take(replica_id, report.drafts)
        if report.is_draining:
            self._put_aside(replica_id, "draining")
        for listener in self._on_report:
            listener()

    def _note_change(self) -> None:
        self.routing.set_replicas({r: self._state_of(r) for r in self._links})
        self._has_changed.set()
        # Those who wait now are woken; those who come later wait for the next change.
        self._has_changed = asyncio.Event()
        for listener in self._on_change:
            listener()

    def check_invariants(self) -> None:
        """Only listed replicas are set aside; reservations add up."""
        self.routing.check_invariants()
        assert self._set_aside.keys() <= self._links.keys()

    def cards(self) -> list[ModelCard]:
        """The model's card, then one for each adapter."""
        generates = self.section.task == "generate"
        names: list[tuple[str, str | None]] = [(self.section.name, None)]
        names += [(name, self.section.name) for name in sorted(self.section.adapters)]
        return [
            ModelCard(
                name=name,
                task=self.section.task,
                reference=self.section.model,
                max_model_len=self.max_model_len,
                vocab_size=self.vocab_size,
                base_model=base,
                has_chat_template=generates and self.tokenizer.has_chat_template,
                num_ready_replicas=self.num_ready_replicas,
                scales_to_zero=self.section.scales_to_zero,
                created_s=self._created_s,
                has_tool_template=generates and self.tokenizer.has_tool_template,
                tool_parser=self.section.tool_parser,
            )
            for name, base in names
        ]

    async def close(self) -> None:
        """End all links, those of replicas that were leaving too; open calls fail."""
        links = [*self._links.values(), *self._leaving.values()]
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in links))
