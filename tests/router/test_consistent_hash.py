"""Prompts keep their replicas when others come and go; nobody is flooded."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from router.consistent_hash import hash_keys, rendezvous, replicas_of
from router.types import HashKeys, ReplicaId, SessionKey
from tests.router.routing import A, B, C, candidate, picked, request

IDS = [ReplicaId(f"replica-{n}") for n in range(10)]
NUM_KEYS = 4000
KEYS = [
    HashKeys(Random(n).getrandbits(64), Random(-n).getrandbits(64)) for n in range(NUM_KEYS)
]

tokens = st.lists(st.integers(0, 2), max_size=40)


def test_when_a_replica_leaves_only_its_own_keys_move_and_they_are_one_nth() -> None:
    before = [rendezvous(k.near, IDS) for k in KEYS]
    after = [rendezvous(k.near, IDS[1:]) for k in KEYS]
    moved = [b for b, a in zip(before, after, strict=True) if b != a]
    assert set(moved) == {IDS[0]}
    assert abs(len(moved) / NUM_KEYS - 1 / len(IDS)) < 0.02


def test_pairs_too_stay_but_for_those_that_the_replica_was_part_of() -> None:
    before = [replicas_of(k, IDS) for k in KEYS]
    after = [replicas_of(k, IDS[1:]) for k in KEYS]
    stayed = [p for p in before if IDS[0] not in p]
    assert stayed == [a for p, a in zip(before, after, strict=True) if IDS[0] not in p]
    assert abs(1 - len(stayed) / NUM_KEYS - 2 / len(IDS)) < 0.03


def test_keys_are_spread_evenly() -> None:
    counts = Counter(replica for k in KEYS for replica in replicas_of(k, IDS))
    assert all(abs(n / (2 * NUM_KEYS) - 1 / len(IDS)) < 0.02 for n in counts.values())


@given(st.integers(0, 2**64 - 1), st.permutations(IDS))
def test_the_order_of_replicas_does_not_matter(key: int, ids: list[ReplicaId]) -> None:
    assert rendezvous(key, ids) == rendezvous(key, IDS)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(2, 10))
def test_near_and_far_are_never_the_same(near: int, far: int, num: int) -> None:
    first, second = replicas_of(HashKeys(near, far), IDS[:num])
    assert first != second
    assert second is not None


@given(tokens, tokens)
def test_what_follows_the_hashed_beginning_does_not_matter(
    beginning: list[int], rest: list[int]
) -> None:
    prompt = ([0, 1, 2, 1] * 4 + beginning)[:16]
    assert hash_keys(prompt + rest, 16).near == hash_keys(prompt, 16).near


@given(tokens.filter(bool), st.integers(0, 39))
def test_a_prompt_that_differs_in_a_hashed_token_has_another_key(
    prompt: list[int], position: int
) -> None:
    length = 1 << (len(prompt).bit_length() - 1)
    changed = [*prompt]
    changed[position % length] += 3
    assert hash_keys(changed, 64) != hash_keys(prompt, 64)


def test_the_worked_example_of_a_growing_conversation() -> None:
    conversation = [n * 7 % 1000 for n in range(1100)]
    first, second, third = (hash_keys(conversation[:n], 512) for n in (700, 900, 1100))
    assert first == second
    assert first.near == first.far == third.near != third.far


def test_a_session_is_the_near_key_and_the_beginning_the_far_one() -> None:
    prompt = list(range(600))
    keys = hash_keys(prompt, 512, session=SessionKey(7))
    assert keys == HashKeys(7, hash_keys(prompt, 512).near)


def test_tenants_and_adapters_have_keys_of_their_own() -> None:
    prompt = list(range(600))
    assert len({hash_keys(prompt, 512, salt=s) for s in ("", "x", "y")}) == 3


def test_a_prompt_without_tokens_has_keys_too() -> None:
    assert hash_keys([], 512) == hash_keys([], 512)


def test_the_near_replica_keeps_a_prompt_until_it_has_more_to_do_by_the_prompt() -> None:
    asked = request(1000)
    near = picked([candidate(A), candidate(B), candidate(C)], "consistent_hash", asked)
    ids = {A, B, C} - {near.replica_id}

    def chosen(queue: int, **queue_of: int) -> ReplicaId:
        loads = dict.fromkeys(ids, 0) | {near.replica_id: queue} | queue_of
        given_ones = [candidate(r, queue=loads[r]) for r in (A, B, C)]
        return picked(given_ones, "consistent_hash", asked).replica_id

    assert chosen(900) == near.replica_id
    far = chosen(1100)
    assert far != near.replica_id
    assert chosen(2900, **{far: 1900}) not in {near.replica_id, far}


def test_a_system_prompt_that_all_share_does_not_flood_one_replica() -> None:
    """Prompts that agree in the near key, each with a queue behind it: all replicas work."""
    shared = list(range(1000))
    queues = dict.fromkeys(IDS, 0)
    random = Random(1)
    for _ in range(200):
        prompt = shared + [random.randrange(1000) for _ in range(1000)]
        asked = request(len(prompt), hash_keys=hash_keys(prompt, 512))
        given_ones = [candidate(r, queue=q) for r, q in queues.items()]
        queues[picked(given_ones, "consistent_hash", asked).replica_id] += len(prompt)
    mean = sum(queues.values()) / len(queues)
    assert max(queues.values()) <= mean + 2 * 2000
