"""Places, priorities and shares; see `router.admission`."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import CapacityError
from router.admission import Admission
from router.model_queue import Demand, Ticket
from router.settings import AdmissionSection, TenantSection
from router.tenants import OUTPUT_TOKEN_PRICE, Tenants
from router.types import PRIORITIES, Priority, TenantId

MODEL = "m"


@dataclass
class Desk:
    """An `Admission` with a clock, and the names of who is admitted in turn."""

    admission: Admission
    now_s: float = 0.0
    admitted: list[str] = field(default_factory=list)
    name_to_ticket: dict[str, Ticket] = field(default_factory=dict)

    def ask(
        self, name: str, tenant: str = "a", priority: Priority = "normal", **changes: Any
    ) -> bool:
        """Whether it begins at once."""
        sizes: dict[str, Any] = {"num_prompt_tokens": 10, "num_outputs": 1} | changes
        demand = Demand(MODEL, TenantId(tenant), priority, **sizes)
        ticket, admitted = self.admission.offer(demand, self.now_s)
        self.name_to_ticket[name] = ticket
        self.note(admitted)
        return ticket.is_admitted

    def end(self, name: str) -> list[str]:
        """Who begins because this one has ended."""
        return self.note(self.admission.end(self.name_to_ticket.pop(name), self.now_s))

    def note(self, tickets: list[Ticket]) -> list[str]:
        self.admission.check_invariants()
        names = [name for name, t in self.name_to_ticket.items() if t in tickets]
        found = sorted(names, key=lambda name: tickets.index(self.name_to_ticket[name]))
        self.admitted += found
        return found


def desk(places: int = 2, *tenants: TenantSection, **section: Any) -> Desk:
    sections = tenants or [TenantSection(name=n, max_priority="high") for n in "ab"]
    settings_ = AdmissionSection(**({"reserved_share": 0.0} | section))
    made = Desk(Admission(settings_, Tenants(sections)))
    made.admission.set_places(MODEL, places, made.now_s)
    return made


def test_a_request_begins_where_there_is_a_place_and_is_held_where_there_is_none() -> None:
    d = desk(2)
    assert [d.ask("1"), d.ask("2"), d.ask("3")] == [True, True, False]
    assert d.end("1") == ["3"]


def test_each_output_takes_a_place() -> None:
    d = desk(4)
    assert [d.ask("1", num_outputs=3), d.ask("2", num_outputs=2)] == [True, False]
    # Small ones do not pass it by, or it might wait for ever.
    assert not d.ask("3")
    assert d.end("1") == ["2", "3"]


def test_a_request_with_more_outputs_than_places_takes_them_all() -> None:
    d = desk(2)
    assert d.ask("1", num_outputs=16)
    assert not d.ask("2")
    assert d.end("1") == ["2"]


def test_without_a_ready_replica_all_are_held_until_one_comes() -> None:
    d = desk(0)
    assert [d.ask("1"), d.ask("2")] == [False, False]
    assert not d.admission.has_places(MODEL)
    assert d.note(d.admission.set_places(MODEL, 1, d.now_s)) == ["1"]


def test_higher_priority_begins_first_and_the_first_come_within_it() -> None:
    d = desk(1)
    d.ask("running")
    for name, priority in (("l", "low"), ("n1", "normal"), ("n2", "normal"), ("h", "high")):
        d.ask(name, priority=priority)  # type: ignore[arg-type]
    for name in ("running", "h", "n1", "n2"):
        d.end(name)
    assert d.admitted == ["running", "h", "n1", "n2", "l"]


def test_a_tenant_gets_no_higher_priority_than_it_may_have() -> None:
    d = desk(1, TenantSection(name="a"), TenantSection(name="b", max_priority="high"))
    d.ask("running")
    d.ask("a", "a", priority="high")
    d.ask("b", "b", priority="high")
    assert d.end("running") == ["b"]


def test_low_priority_leaves_places_free_for_others() -> None:
    d = desk(4, low_priority_share=0.5)
    assert [d.ask(f"l{n}", priority="low") for n in range(3)] == [True, True, False]
    assert [d.ask("1"), d.ask("2"), d.ask("3")] == [True, True, False]
    assert d.end("1") == ["3"]


def test_low_priority_gets_one_place_however_small_its_share() -> None:
    d = desk(2, low_priority_share=0.0)
    assert [d.ask("1", priority="low"), d.ask("2", priority="low")] == [True, False]


def test_the_tenant_with_the_least_service_is_next() -> None:
    d = desk(1)
    d.ask("a1", "a", num_prompt_tokens=1000)
    for name in ("b1", "a2", "b2"):
        d.ask(name, name[0])
    for name in ("a1", "b1", "b2"):
        d.end(name)
    assert d.admitted == ["a1", "b1", "b2", "a2"]


def test_output_tokens_count_as_service() -> None:
    d = desk(1)
    d.ask("a1", "a")
    d.ask("a2", "a")
    d.ask("b1", "b", num_prompt_tokens=15)
    d.admission.count_outputs(d.name_to_ticket["a1"], 100, d.now_s)
    d.ask("b2", "b")
    for name in ("a1", "b1", "b2"):
        d.end(name)
    assert d.admitted == ["a1", "b1", "b2", "a2"]


def test_a_tenant_has_no_credit_for_its_silence() -> None:
    d = desk(1)
    for n in range(20):
        d.ask(f"a{n}", "a", num_prompt_tokens=100)
    for n in range(10):
        d.end(f"a{n}")
    for n in range(4):
        d.ask(f"b{n}", "b", num_prompt_tokens=100)
    order = ["a10"]
    for _ in range(6):
        order += d.end(order[-1])
    # Level with a from here on: they take turns.
    assert [name[0] for name in order[1:]].count("b") in (3, 4)


def test_a_tenant_that_comes_after_a_time_without_any_queue_has_no_credit_either() -> None:
    d = desk(1)
    for n in range(10):
        d.ask(f"a{n}", "a", num_prompt_tokens=100)
        d.end(f"a{n}")
    d.ask("now", "a", num_prompt_tokens=100)
    for n in range(3):
        d.ask(f"b{n}", "b", num_prompt_tokens=100)
        d.ask(f"c{n}", "a", num_prompt_tokens=100)
    order = ["now"]
    for _ in range(4):
        order += d.end(order[-1])
    assert [name[0] for name in order[1:]].count("b") <= 3


def test_weights_share_the_places() -> None:
    d = desk(1, TenantSection(name="a", weight=3), TenantSection(name="b"))
    d.ask("first", "a")
    for n in range(40):
        d.ask(f"a{n}", "a")
        d.ask(f"b{n}", "b")
    running = "first"
    for _ in range(40):
        (running,) = d.end(running)
    assert [name[0] for name in d.admitted[1:]].count("a") in (29, 30, 31)


def test_a_flood_leaves_the_reserved_places_to_the_others() -> None:
    d = desk(32, reserved_share=0.1)
    assert sum(d.ask(f"a{n}", "a") for n in range(64)) == 28
    assert [d.ask(f"b{n}", "b") for n in range(5)] == [True] * 4 + [False]
    # Then the newcomer has had less service: it takes the next place as well.
    assert d.end("a0") == ["b4"]


def test_an_only_tenant_takes_all_places() -> None:
    d = desk(8, TenantSection(name="a"), reserved_share=0.5)
    assert sum(d.ask(f"{n}") for n in range(9)) == 8


def test_a_tenant_at_its_limit_waits_while_others_begin() -> None:
    limited = TenantSection(name="a", max_concurrent_requests=1)
    d = desk(4, limited, TenantSection(name="b"))
    assert [d.ask("a1", "a"), d.ask("a2", "a"), d.ask("b1", "b")] == [True, False, True]
    assert d.end("a1") == ["a2"]


def test_a_full_queue_turns_away_at_once_with_a_hint() -> None:
    d = desk(1, max_queued_requests=2)
    assert [d.ask("1"), d.ask("2"), d.ask("3")] == [True, False, False]
    with pytest.raises(CapacityError, match="too many requests wait") as refused:
        d.ask("4")
    assert refused.value.retry_after_s == 1.0
    d.admission.check_invariants()


def test_where_nothing_may_wait_a_free_place_is_still_taken() -> None:
    d = desk(1, max_queued_requests=0)
    assert d.ask("1")
    with pytest.raises(CapacityError):
        d.ask("2")
    d.end("1")
    assert d.ask("3")


def test_a_tenant_with_too_many_waiting_is_turned_away_alone() -> None:
    d = desk(1, TenantSection(name="a", max_queued_requests=1), TenantSection(name="b"))
    d.ask("a1", "a")
    d.ask("a2", "a")
    with pytest.raises(CapacityError, match="tenant a has 1 requests waiting"):
        d.ask("a3", "a")
    assert not d.ask("b1", "b")


def test_the_hint_of_a_full_queue_follows_the_rate_of_service() -> None:
    d = desk(1, max_queued_requests=3)
    d.ask("0")
    for n in range(1, 6):
        d.ask(f"{n}")
        d.now_s += 4.0
        d.end(f"{n - 1}")
    d.ask("6"), d.ask("7"), d.ask("8")
    with pytest.raises(CapacityError) as refused:
        d.ask("9")
    assert refused.value.retry_after_s == pytest.approx(3 * 16 / 5)


def test_a_used_up_token_rate_turns_away_with_the_time_until_it_suffices() -> None:
    d = desk(8, TenantSection(name="a", tokens_per_minute=60))
    assert d.ask("1", num_prompt_tokens=50)
    d.admission.count_outputs(d.name_to_ticket["1"], 20, d.now_s)
    with pytest.raises(CapacityError, match="tokens per minute") as refused:
        d.ask("2", num_prompt_tokens=5)
    assert refused.value.retry_after_s == pytest.approx(15)
    with pytest.raises(CapacityError):
        d.admission.check(MODEL, TenantId("a"), d.now_s)
    d.now_s += 15
    assert d.ask("3", num_prompt_tokens=5)


def test_a_used_up_request_rate_turns_away() -> None:
    d = desk(8, TenantSection(name="a", requests_per_minute=2))
    assert [d.ask("1"), d.ask("2")] == [True, True]
    with pytest.raises(CapacityError, match="requests per minute") as refused:
        d.ask("3")
    assert refused.value.retry_after_s == pytest.approx(30)


def test_what_was_never_begun_is_not_counted_against_the_rate() -> None:
    d = desk(1, TenantSection(name="a", tokens_per_minute=100))
    d.ask("1", num_prompt_tokens=50)
    d.ask("2", num_prompt_tokens=50)
    d.end("2")
    assert not d.ask("3", num_prompt_tokens=50)


def test_what_waits_begins_when_its_tenant_has_worked_off_its_debt() -> None:
    owing = TenantSection(name="a", tokens_per_minute=60, max_concurrent_requests=1)
    d = desk(2, owing, TenantSection(name="b"))
    assert d.ask("1", num_prompt_tokens=1)
    assert [d.ask("2", num_prompt_tokens=1), d.admission.room_in_s(d.now_s)] == [False, None]
    d.admission.count_outputs(d.name_to_ticket["1"], 88, d.now_s)
    assert d.end("1") == []
    assert d.ask("other", "b")
    assert d.admission.room_in_s(d.now_s) == pytest.approx(30)
    d.now_s += 29
    assert d.note(d.admission.admit(d.now_s)) == []
    d.now_s += 1.01
    assert d.note(d.admission.admit(d.now_s)) == ["2"]


def test_an_offer_may_let_another_begin_whose_turn_it_has_become() -> None:
    d = desk(6)
    d.ask("a1")
    d.ask("b1", "b", num_prompt_tokens=20, num_outputs=4)
    # Its turn is first, and it has no room; so the one behind it waits as well.
    assert not d.ask("a2", num_outputs=2)
    assert not d.ask("b2", "b")
    d.admission.count_outputs(d.name_to_ticket["a1"], 50, d.now_s)
    d.ask("late", "b")
    assert d.admitted == ["a1", "b1", "b2"]


def test_several_outputs_are_not_passed_by_lower_priorities_of_their_tenant() -> None:
    d = desk(4, TenantSection(name="a", max_priority="high"))
    for number in range(4):
        d.ask(f"{number}")
    d.ask("two", priority="high", num_outputs=2)
    d.ask("normal")
    assert [d.end("0"), d.end("1")] == [[], ["two"]]


def places_of(d: Desk, name: str) -> int:
    return d.name_to_ticket[name].num_places


def test_what_is_divisible_takes_what_is_free_and_leaves_what_is_kept() -> None:
    d = desk(10, low_priority_share=0.4, reserved_share=0.2)
    assert d.ask("batch", num_outputs=32, is_divisible=True)
    assert places_of(d, "batch") == 8
    assert d.ask("other", "b", num_outputs=32, is_divisible=True)
    assert places_of(d, "other") == 2
    assert d.end("batch") == []
    assert d.ask("low", priority="low", num_outputs=32, is_divisible=True)
    assert places_of(d, "low") == 4
    assert not d.ask("low too", priority="low", num_outputs=32, is_divisible=True)
    assert d.ask("small", num_outputs=2, is_divisible=True)
    assert places_of(d, "small") == 2


def test_what_is_divisible_does_not_wait_for_many_places() -> None:
    d = desk(4)
    assert [d.ask(f"{n}") for n in range(4)] == [True] * 4
    assert not d.ask("batch", "b", num_outputs=32, is_divisible=True)
    assert d.end("0") == ["batch"]
    assert places_of(d, "batch") == 1


def test_a_full_queue_is_found_before_any_work() -> None:
    d = desk(1, max_queued_requests=1)
    d.ask("1")
    d.admission.check(MODEL, TenantId("a"), d.now_s)
    d.ask("2")
    with pytest.raises(CapacityError, match="too many requests wait"):
        d.admission.check(MODEL, TenantId("a"), d.now_s)


def test_a_tenant_s_full_queue_is_found_before_any_work() -> None:
    d = desk(1, TenantSection(name="a", max_queued_requests=1), TenantSection(name="b"))
    d.ask("1")
    d.ask("2")
    d.admission.check(MODEL, TenantId("b"), d.now_s)
    with pytest.raises(CapacityError, match="tenant a has 1 requests waiting"):
        d.admission.check(MODEL, TenantId("a"), d.now_s)


def test_gateways_grant_their_part_of_the_limits() -> None:
    section = TenantSection(name="a", max_concurrent_requests=4, requests_per_minute=6)
    account = Tenants([section], num_gateways=2).account(TenantId("a"))
    assert account.max_running == 2
    assert account.requests is not None
    assert account.requests.level(0) == 3


def test_gateways_that_become_fewer_grant_larger_parts_and_let_begin_who_waited() -> None:
    section = TenantSection(name="a", max_concurrent_requests=4, requests_per_minute=60)
    tenants = Tenants([section], num_gateways=4)
    d = Desk(Admission(AdmissionSection(), tenants))
    d.admission.set_places(MODEL, 8, 0.0)
    assert [d.ask(f"{n}") for n in range(4)] == [True, False, False, False]
    assert d.note(d.admission.set_num_gateways(2, d.now_s)) == ["1"]
    assert d.note(d.admission.set_num_gateways(4, d.now_s)) == []
    assert [d.end("0"), d.end("1")] == [[], ["2"]]
    requests = tenants.account(TenantId("a")).requests
    assert requests is not None
    assert requests.level(1000.0) == 15


def test_a_place_that_is_lost_is_not_given_twice() -> None:
    d = desk(3)
    assert all(d.ask(f"{n}") for n in range(3))
    d.ask("4")
    assert d.note(d.admission.set_places(MODEL, 1, d.now_s)) == []
    assert [d.end("0"), d.end("1"), d.end("2")] == [[], [], ["4"]]


Steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from("abc"),
            st.sampled_from(PRIORITIES),
            st.integers(1, 3),
        ),
        st.tuples(st.just("end"), st.integers(0, 20)),
        st.tuples(st.just("outputs"), st.integers(0, 20), st.integers(1, 500)),
        st.tuples(st.just("places"), st.integers(0, 5)),
        st.tuples(st.just("gateways"), st.integers(1, 3)),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(Steps, st.sampled_from([0.0, 0.3]))
def test_nobody_waits_without_a_reason_and_all_are_served_in_the_end(
    steps: list[Any], reserved_share: float
) -> None:
    tenants = [TenantSection(name=n, max_concurrent_requests=3) for n in "abc"]
    d = desk(3, *tenants, reserved_share=reserved_share)
    names: list[str] = []
    for number, step in enumerate(steps):
        match step:
            case ("ask", tenant, priority, num_outputs):
                names.append(str(number))
                d.ask(names[-1], tenant, priority, num_outputs=num_outputs)
            case ("end", which) if names:
                d.end(names.pop(which % len(names)))
            case ("outputs", which, num_tokens) if names:
                ticket = d.name_to_ticket[names[which % len(names)]]
                if ticket.is_admitted:
                    d.admission.count_outputs(ticket, num_tokens, d.now_s)
            case ("places", num_places):
                d.note(d.admission.set_places(MODEL, num_places, d.now_s))
            case ("gateways", num_gateways):
                d.note(d.admission.set_num_gateways(num_gateways, d.now_s))
        # Whoever is admitted is told of.
        assert {n for n, t in d.name_to_ticket.items() if t.is_admitted} <= set(d.admitted)
        if d.admission.num_held(MODEL) and d.admission.has_places(MODEL):
            # Something runs, or else the first in line would.
            assert d.admission.num_taken(MODEL)
    d.note(d.admission.set_places(MODEL, 1, d.now_s))
    while names:
        running = [name for name in names if d.name_to_ticket[name].is_admitted]
        assert running
        names.remove(running[0])
        d.end(running[0])
    assert d.admission.num_taken(MODEL) == d.admission.num_held(MODEL) == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=30, max_size=80))
def test_two_tenants_that_always_ask_get_equal_service_but_for_one_request_each(
    sizes: list[tuple[int, int]],
) -> None:
    d = desk(1, max_queued_requests=1000)
    d.ask("start")
    for number, (num_prompt, _) in enumerate(sizes):
        for tenant in "ab":
            d.ask(f"{tenant}{number}", tenant, num_prompt_tokens=num_prompt)
    served = {"a": 0.0, "b": 0.0}
    (running,) = d.end("start")
    largest = 50 + OUTPUT_TOKEN_PRICE * 50
    for _ in range(len(sizes) - 1):
        ticket = d.name_to_ticket[running]
        num_outputs = sizes[int(running[1:])][1]
        d.admission.count_outputs(ticket, num_outputs, d.now_s)
        served[running[0]] += ticket.demand.num_prompt_tokens
        served[running[0]] += OUTPUT_TOKEN_PRICE * num_outputs
        assert abs(served["a"] - served["b"]) <= 2 * largest
        (running,) = d.end(running)
