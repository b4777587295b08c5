"""What decides which slots of a model's expert hosts hold which experts, and when they
change. Pure: reports, ends of orders and the time come in, orders go out.

It keeps no map of its own. What is in force is what the hosts say that they hold, so a
director that takes another's place needs nothing but their reports.

| when                                        | it does                                 |
|---------------------------------------------|-----------------------------------------|
| hosts are still to come, at the beginning   | waits, for a bounded time               |
| orders are under way                        | waits for all of them                   |
| a host's table may be older than its order  | waits for its next report               |
| a move has failed                           | decides anew, after a while             |
| a host has died or wants to leave           | leaves the waves to come, decides anew  |
| otherwise                                   | what `placement.rebalance` decides      |

Worked example: hosts a and b of 2 slots, 3 experts. Both have reported: the first decision
("uncovered") has one wave, an order for each. When both have ended and both have reported
again, nothing is left to do, until the load changes, or b dies: then expert 2, which was
b's alone, is ordered into a slot of a whose expert has another copy, or there is too
little room, and the view says so.
"""

import itertools
from collections.abc import Iterable, Sequence

from experts.director.types import DirectorSettings, DirectorView, HostOrder, Rebalance, State
from experts.director.waves import WaveRun
from experts.host_report import HostReport
from experts.placement.hosts import HostSpec
from experts.placement.load import HostCounters, Load, LoadWindow
from experts.placement.rebalance import Decision, decide
from experts.tier_view import TierView
from experts.transport.control import Ordered
from experts.types import HostId
from infra.errors import ConfigError


class Director:
    """See the module's docstring. Times never go back; not for several threads at once."""

    def __init__(
        self, num_layers: int, num_experts: int, settings: DirectorSettings, now_s: float
    ) -> None:
        self._settings = settings
        self._shape = num_layers, num_experts
        self._tables = TierView(num_layers, num_experts)
        window_s = settings.rebalance.window_s
        self._window = LoadWindow(num_layers, num_experts, window_s, now_s)
        self._reports: dict[HostId, HostReport] = {}
        self._expected: frozenset[HostId] = frozenset()
        # Hosts whose tables may be older than the orders they have carried out.
        self._outdated: set[HostId] = set()
        self._numbers = itertools.count(1)
        self._run: WaveRun | None = None
        self._last: Rebalance | None = None
        self._shortage = ""
        self._has_begun = False
        self._first_s: float | None = None
        self._num_failures = 0
        self._not_before_s = now_s
        self._next_look_s = now_s

    def expect(self, hosts: Iterable[HostId]) -> None:
        """These hosts are said to live; the first plan waits for their reports as well."""
        self._expected = frozenset(hosts)

    def reported(self, report: HostReport, now_s: float) -> None:
        """Take a host's report. Raises ConfigError for a host of another model."""
        counts = HostCounters(report.host, report.tokens, report.activations)
        if report.tokens.shape != self._shape:
            raise ConfigError(f"the expert host {report.host} counts experts of another model")
        self._tables.announced(report.host, report.table)
        self._window.report(counts, now_s)
        before = self._reports.get(report.host)
        self._reports[report.host] = report
        self._outdated.discard(report.host)
        if before is None:
            self._first_s = now_s if self._first_s is None else self._first_s
            self._hurry(now_s)
        elif report.is_leaving and not before.is_leaving:
            self._leave_waves(f"{report.host} is leaving", now_s)
            self._hurry(now_s)

    def ended(self, host: HostId, ordered: Ordered, now_s: float) -> None:
        """All moves of a host's order have ended. Answers to others' orders do nothing."""
        if self._run is not None and self._run.ended(host, ordered, now_s):
            self._outdated.add(host)
            self._note_end(now_s)

    def lost(self, host: HostId, now_s: float) -> None:
        """The host is gone, with what it held."""
        if not self._tables.lost(host):
            return
        del self._reports[host]
        self._outdated.discard(host)
        self._window.forget(host)
        if self._run is not None:
            self._run.lost(host, now_s)
            self._note_end(now_s)
        self._hurry(now_s)

    def orders(self, now_s: float) -> Sequence[HostOrder]:
        """What is to be ordered now; each is under way until it has ended or its host is
        lost. May be called at any time; takes as long as a plan where one is due."""
        if self._run is not None:
            late = self._run.give_up_late(self._settings.order_timeout_s, now_s)
            self._outdated |= late
            self._note_end(now_s)
        if self._run is None and self._may_decide(now_s):
            decision = self._decision(now_s)
            if decision is not None and decision.waves:
                self._run = WaveRun(decision, self._numbers, now_s)
        return [] if self._run is None else self._run.next_orders(now_s)

    def view(self, now_s: float) -> DirectorView:
        """What is known, and what is done."""
        state, message = self._state(now_s)
        return DirectorView(
            state=state,
            message=message,
            map=self._tables.map,
            reports=[self._reports[host] for host in self._tables.map.hosts],
            load=self._window.load(now_s),
            last=self._last if self._run is None else self._run.rebalance,
        )

    def check_invariants(self) -> None:
        """Raises AssertionError where the parts contradict each other."""
        self._tables.check_invariants()
        self._window.check_invariants()
        assert self._reports.keys() == self._tables.tables.keys()
        assert self._reports.keys() >= self._outdated
        if self._run is not None:
            self._run.check_invariants()
            assert self._reports.keys() >= self._run.hosts
            assert not self._run.is_over

    def _may_decide(self, now_s: float) -> bool:
        is_known = bool(self._reports) and not self._outdated
        return is_known and now_s >= self._not_before_s and not self._is_waiting(now_s)

    def _is_waiting(self, now_s: float) -> bool:
        """Whether more hosts are to come before the first plan."""
        if not self._has_begun and self._first_s is not None:
            are_there = len(self._reports) >= self._settings.num_hosts and (
                self._reports.keys() >= self._expected
            )
            is_late = now_s - self._first_s >= self._settings.first_wait_s
            self._has_begun = are_there or is_late
        return not self._has_begun

    def _decision(self, now_s: float) -> Decision | None:
        rebalance = self._settings.rebalance
        is_due = now_s >= self._next_look_s
        if is_due:
            interval_s = min(rebalance.min_interval_s, self._settings.look_interval_s)
            self._next_look_s = now_s + interval_s
        try:
            # The interval between looks is kept here.
            last_s = None if is_due else now_s
            current = self._tables.map
            load, hosts = self._load(now_s), self._specs()
            decision = decide(now_s, last_s, load, hosts, current, rebalance)
        except ConfigError as error:
            self._shortage = error.message
            return None
        self._shortage = ""
        if decision is None:
            self._num_failures = 0
        return decision

    def _load(self, now_s: float) -> Load:
        load = self._window.load(now_s)
        return Load.even(*self._shape) if load.is_idle else load

    def _specs(self) -> list[HostSpec]:
        return [
            HostSpec(
                host=report.host,
                num_slots=report.table.held.shape[1],
                activation_s=report.activation_s,
                token_s=report.token_s,
                is_leaving=report.is_leaving,
            )
            for report in self._reports.values()
        ]

    def _hurry(self, now_s: float) -> None:
        """Other hosts than before: ask at once whether another map is better."""
        self._not_before_s = self._next_look_s = now_s

    def _leave_waves(self, trouble: str, now_s: float) -> None:
        if self._run is not None:
            self._run.leave(trouble, now_s)
            self._note_end(now_s)

    def _note_end(self, now_s: float) -> None:
        """Take down what became of the waves, if they are over."""
        if self._run is None or not self._run.is_over:
            return
        self._next_look_s = now_s + self._settings.rebalance.min_interval_s
        self._num_failures = self._num_failures + 1 if self._run.has_failed else 0
        if self._num_failures:
            wait_s = min(2.0 ** min(self._num_failures - 1, 30), self._settings.max_retry_s)
            self._not_before_s = now_s + wait_s
        self._last, self._run = self._run.rebalance, None

    def _state(self, now_s: float) -> tuple[State, str]:
        if self._run is not None:
            last = self._run.rebalance
            number = min(last.num_waves_done + 1, last.num_waves)
            return "moving", f"wave {number} of {last.num_waves} ({last.reason})"
        if self._is_waiting(now_s):
            wanted = max(self._settings.num_hosts, len(self._expected))
            return "waiting", f"{len(self._reports)} of {wanted} expert hosts are there"
        if self._shortage:
            return "short", self._shortage
        if not self._reports:
            return "short", "there is no expert host"
        if self._num_failures and self._last is not None:
            return "failing", self._last.trouble
        if self._outdated or not self._tables.map.is_covering:
            return "moving", "the next decision is about to be made"
        return "settled", ""
