"""What each tenant has used, and whether its limits let it begin another request."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from infra.errors import CapacityError
from router.settings import ANONYMOUS_TENANT, TenantSection
from router.token_bucket import TokenBucket
from router.types import ANONYMOUS, PRIORITIES, Priority, TenantId

OUTPUT_TOKEN_PRICE = 2.0
"""Service of one output token in prompt tokens: decoding takes a step for each,
prefill one step for many (the prices of the VTC paper, see `router.admission`)."""

_MINUTE_S = 60.0


@dataclass(eq=False)
class TenantAccount:
    """One tenant's limits and use."""

    name: TenantId
    weight: float
    max_running: int | None
    max_held: int
    tokens: TokenBucket | None
    requests: TokenBucket | None
    max_priority: Priority
    cache_salt: str | None
    """By which its prefixes are kept apart in the engines' caches."""
    num_running: int = 0
    num_running_at_cut: int = 0
    """When the gateway's part of the limits last changed: more than it is now, maybe."""
    num_held: int = 0
    service: float = 0.0
    """Service received, in prompt tokens over the weight: the virtual counter."""

    def take_part(self, section: TenantSection, num_gateways: int, now_s: float) -> None:
        """This gateway grants its part of the section's limits from now on."""
        self.max_running = _part_of_running(section, num_gateways)
        self.num_running_at_cut = self.num_running
        for bucket, per_minute in (
            (self.tokens, section.tokens_per_minute),
            (self.requests, section.requests_per_minute),
        ):
            if bucket is not None and per_minute is not None:
                part = _part_of_rate(per_minute, num_gateways)
                bucket.resize(part / _MINUTE_S, part, now_s)

    def has_room(self, now_s: float) -> bool:
        """It may run one request more."""
        has_place = self.max_running is None or self.num_running < self.max_running
        return has_place and self.debt_s(now_s) == 0

    def debt_s(self, now_s: float) -> float:
        """Seconds until it owes no tokens."""
        return 0.0 if self.tokens is None else self.tokens.wait_s(0, now_s)

    def priority(self, asked: Priority) -> Priority:
        """The priority asked for, or the highest that the tenant may have."""
        return max(asked, self.max_priority, key=PRIORITIES.index)

    def check_rates(self, num_prompt_tokens: int, now_s: float) -> None:
        """Raises CapacityError, with when to come again, where a rate is used up."""
        for bucket, amount, words in (
            (self.requests, 1, "requests"),
            (self.tokens, num_prompt_tokens, "tokens"),
        ):
            wait_s = bucket.wait_s(amount, now_s) if bucket is not None else 0.0
            if wait_s > 0:
                raise CapacityError(
                    f"tenant {self.name} has used up its {words} per minute; "
                    f"try again in {wait_s:.1f} s",
                    retry_after_s=wait_s,
                )

    def begin(self, num_prompt_tokens: int, now_s: float) -> None:
        """A request comes in: take what it surely uses."""
        if self.requests is not None:
            self.requests.take(1, now_s)
        if self.tokens is not None:
            self.tokens.take(num_prompt_tokens, now_s)

    def undo(self, num_prompt_tokens: int) -> None:
        """The request was never begun."""
        if self.requests is not None:
            self.requests.give_back(1)
        if self.tokens is not None:
            self.tokens.give_back(num_prompt_tokens)

    def serve_prompt(self, num_tokens: int) -> None:
        """Count a prompt as served."""
        self.service += num_tokens / self.weight

    def serve_outputs(self, num_tokens: int, now_s: float) -> None:
        """Count output tokens as served, and against the rate."""
        self.service += OUTPUT_TOKEN_PRICE * num_tokens / self.weight
        if self.tokens is not None:
            self.tokens.take(num_tokens, now_s)

    def check_invariants(self) -> None:
        """Counts are not negative and within the limits."""
        assert self.num_running >= 0
        assert 0 <= self.num_held <= self.max_held
        if self.max_running is not None:
            assert self.num_running <= max(self.max_running, self.num_running_at_cut)
        for bucket in (self.tokens, self.requests):
            if bucket is not None:
                bucket.check_invariants()


class Tenants:
    """The accounts of one gateway.

    `num_gateways` share each limit evenly: every one grants its part, at least one
    request at a time.
    """

    def __init__(self, sections: Iterable[TenantSection] = (), num_gateways: int = 1) -> None:
        self._num_gateways = num_gateways
        self._sections: dict[TenantId, TenantSection] = {}
        self._by_name: dict[TenantId, TenantAccount] = {}
        self.total_weight = 0.0
        """Sum over all tenants."""
        for section in sections:
            self._add(section)

    def account(self, name: TenantId) -> TenantAccount:
        """The tenant's account; one that is not listed has the limits of none."""
        if name not in self._by_name:
            section = ANONYMOUS_TENANT if name == ANONYMOUS else TenantSection(name=name)
            self._add(section)
        return self._by_name[name]

    def set_num_gateways(self, num_gateways: int, now_s: float) -> None:
        """So many share the limits from now on."""
        self._num_gateways = num_gateways
        for name, account in self._by_name.items():
            account.take_part(self._sections[name], num_gateways, now_s)

    def check_invariants(self) -> None:
        """Those of each account; the weights add up."""
        for account in self._by_name.values():
            account.check_invariants()
        weight = sum(account.weight for account in self._by_name.values())
        assert math.isclose(self.total_weight, weight)

    def _add(self, section: TenantSection) -> None:
        account = _account(section, self._num_gateways)
        self._by_name[account.name] = account
        self._sections[account.name] = section
        self.total_weight += account.weight


def _account(section: TenantSection, num_gateways: int) -> TenantAccount:
    return TenantAccount(
        name=TenantId(section.name),
        weight=section.weight,
        max_running=_part_of_running(section, num_gateways),
        max_held=section.max_queued_requests,
        tokens=_bucket(section.tokens_per_minute, num_gateways),
        requests=_bucket(section.requests_per_minute, num_gateways),
        max_priority=section.max_priority,
        cache_salt=_cache_salt(section),
    )


def _part_of_running(section: TenantSection, num_gateways: int) -> int | None:
    running = section.max_concurrent_requests
    return None if running is None else max(1, running // num_gateways)


def _part_of_rate(per_minute: int, num_gateways: int) -> float:
    return max(1.0, per_minute / num_gateways)


def _cache_salt(section: TenantSection) -> str | None:
    if section.cache_group is not None:
        return f"group {section.cache_group}"
    return None if section.name == ANONYMOUS else f"tenant {section.name}"


def _bucket(per_minute: int | None, num_gateways: int) -> TokenBucket | None:
    if per_minute is None:
        return None
    part = _part_of_rate(per_minute, num_gateways)
    return TokenBucket(part / _MINUTE_S, part)
