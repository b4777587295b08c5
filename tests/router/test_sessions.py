"""Sessions are remembered within a bound, and each tenant's apart."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from router.sessions import Sessions, session_key
from router.types import ReplicaId, SessionKey, TenantId

short_texts = st.text("ab", max_size=3)


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from("xy")), max_size=30))
def test_the_latest_sessions_are_remembered_with_their_last_replica(
    notes: list[tuple[int, str]],
) -> None:
    sessions, slow = Sessions(3), OrderedDict[int, str]()
    for key, replica in notes:
        sessions.note(SessionKey(key), ReplicaId(replica))
        slow.pop(key, None)
        slow[key] = replica
        sessions.check_invariants()
    kept = dict(list(slow.items())[-3:])
    found = {k: sessions.last_replica(SessionKey(k)) for k in range(5)}
    assert found == {k: kept.get(k) for k in range(5)}


def test_a_request_without_a_session_has_no_last_replica() -> None:
    sessions = Sessions(1)
    sessions.note(None, ReplicaId("x"))
    assert sessions.last_replica(None) is None


def test_with_room_for_none_nothing_is_remembered() -> None:
    sessions = Sessions(0)
    sessions.note(SessionKey(1), ReplicaId("x"))
    sessions.check_invariants()
    assert sessions.last_replica(SessionKey(1)) is None


@given(short_texts, short_texts, short_texts, short_texts)
def test_sessions_of_two_tenants_are_never_the_same(
    tenant: str, session: str, other_tenant: str, other_session: str
) -> None:
    first = session_key(TenantId(tenant), session)
    second = session_key(TenantId(other_tenant), other_session)
    assert (first == second) == ((tenant, session) == (other_tenant, other_session))
    assert 0 <= first < 2**64
