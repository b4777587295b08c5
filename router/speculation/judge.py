"""Which of several ways to draft brings the most tokens a second: told by trying.

What a way costs beside its steps (a draft model that computes on the same cores while the
engine does, say) is in no model of steps. So it is measured: an engine goes on in one way for
a *spell* of steps, and the tokens and seconds of the spell count, without those of its first
steps, in which the way is settling. The best way so far has most spells; between them
the others are tried, ever more rarely as long as the best stays the best, and the more rarely
the more they lose; a trial that is hopeless ends at once.

What a trial brought counts as a share of what the best way brought just before, so that a
machine that has become slower changes nothing.

Batches of 1, 2 to 3, 4 to 7, 8 to 15 sequences and so on are judged each by themselves. One of
a size that is new begins with what is known of the size next to it, taken by half.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

SPELL_STEPS, TRIAL_STEPS = 24, 8
"""Of the best way, and of another one; those in which a way is settling come on top."""

HOPELESS_STEPS, HOPELESS_TOKENS = 3, 24
"""A trial ends after so many steps, in which drafts might have brought so many tokens more,
where they have brought less than `_HOPELESS` of what the best way has. Of few sequences so
little says nothing."""
_HOPELESS = 0.75

FIRST_INTERVAL, MAX_INTERVAL = 2, 32
"""Spells of the best way between two trials: at first, and twice as many each time. A way that
has brought half as much is tried after four times as many."""

_BETTER = 1.02
"""What counts as better must not be noise."""

_NEW_WEIGHT = 0.5
"""Of the latest spell, in what is known of its way."""

_BROKEN = 0.7
"""Of what the best way has brought: with less, it is another way than it was."""

_INHERITED_INTERVAL = 4


@dataclass(slots=True)
class _Bucket:
    """Batches of about the same number of sequences."""

    shares: list[float | None]
    """Tokens a second of each way, over those of the best one; None: not tried."""
    way: int
    """The one that is in use."""
    best: int
    rate: float | None = None
    """Tokens a second of the best way; None: not measured."""
    num_steps: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    interval: int = FIRST_INTERVAL
    debts: list[float] = field(default_factory=list)
    """Of each way: trials that are due; below 1, none is."""


@dataclass
class Judge:
    """Of one engine; ways are numbered, and the first that is tried is the last of them: of
    ways that are alike it is kept."""

    settling_steps: Sequence[int]
    """Of each way."""
    _buckets: dict[int, _Bucket] = field(default_factory=dict)

    def way(self, num_sequences: int) -> int:
        """How to draft in the next step."""
        bucket = self._bucket(num_sequences)
        is_at_best = bucket.way == bucket.best and bucket.rate is not None
        length = SPELL_STEPS if is_at_best else TRIAL_STEPS
        num_counted = bucket.num_steps - self.settling_steps[bucket.way]
        if num_counted >= length or _is_hopeless(bucket, num_counted, num_sequences):
            self._end_spell(bucket)
        return bucket.way

    def observe(self, num_sequences: int, way: int, num_tokens: int, seconds: float) -> None:
        """A step of so many sequences, drafted for in this way, brought so many tokens."""
        assert seconds > 0
        bucket = self._bucket(num_sequences)
        if way != bucket.way:
            return
        bucket.num_steps += 1
        if bucket.num_steps > self.settling_steps[way]:
            bucket.num_tokens += num_tokens
            bucket.seconds += seconds

    def rates(self, num_sequences: int) -> list[float | None]:
        """Tokens a second of each way; None where it was not tried."""
        bucket = self._bucket(num_sequences)
        rate = bucket.rate
        return [None if s is None or rate is None else s * rate for s in bucket.shares]

    def check_invariants(self) -> None:
        """The best is the best of those that were tried."""
        for bucket in self._buckets.values():
            known = [share for share in bucket.shares if share is not None]
            assert max(known, default=0.0) <= _BETTER
            assert bucket.shares[bucket.best] in (None, 1.0)
            assert FIRST_INTERVAL <= bucket.interval <= MAX_INTERVAL
            assert bucket.num_tokens >= 0
            assert len(bucket.debts) == len(bucket.shares) == len(self.settling_steps)

    def _bucket(self, num_sequences: int) -> _Bucket:
        size = num_sequences.bit_length()
        if size not in self._buckets:
            self._buckets[size] = self._new_bucket(size)
        return self._buckets[size]

    def _new_bucket(self, size: int) -> _Bucket:
        num_ways = len(self.settling_steps)
        debts = [0.0] * num_ways
        whole = [s for s, bucket in self._buckets.items() if None not in bucket.shares]
        if not whole:
            shares: list[float | None] = [None] * num_ways
            return _Bucket(shares, num_ways - 1, num_ways - 1, debts=debts)
        near = self._buckets[min(whole, key=lambda other: (abs(other - size), -other))]
        halved = [None if share is None else (1 + share) / 2 for share in near.shares]
        interval = min(near.interval, _INHERITED_INTERVAL)
        return _Bucket(halved, near.best, near.best, interval=interval, debts=debts)

    def _end_spell(self, bucket: _Bucket) -> None:
        rate = bucket.num_tokens / bucket.seconds
        bucket.num_steps = bucket.num_tokens = 0
        bucket.seconds = 0.0
        if bucket.way == bucket.best:
            self._note_best(bucket, rate)
        else:
            self._note_trial(bucket, rate)
        bucket.way = self._next_way(bucket)

    def _note_best(self, bucket: _Bucket, rate: float) -> None:
        for way, share in enumerate(bucket.shares):
            if way != bucket.best and share is not None:
                bucket.debts[way] += min(share, 1.0) ** 2 / bucket.interval
        bucket.shares[bucket.best] = 1.0
        if bucket.rate is None:
            bucket.rate = rate
        elif rate < _BROKEN * bucket.rate:
            bucket.rate = rate
            # Or all have become so much slower; trials tell.
            bucket.debts = [1.0] * len(bucket.debts)
        else:
            bucket.rate += _NEW_WEIGHT * (rate - bucket.rate)

    def _note_trial(self, bucket: _Bucket, rate: float) -> None:
        assert bucket.rate is not None
        way, old = bucket.way, bucket.shares[bucket.way]
        new = rate / bucket.rate
        share = new if old is None else old + _NEW_WEIGHT * (new - old)
        bucket.shares[way] = share
        if share <= _BETTER:
            return
        bucket.shares = [None if s is None else min(s / share, 1.0) for s in bucket.shares]
        bucket.shares[way] = 1.0
        bucket.best, bucket.rate = way, rate
        bucket.interval = FIRST_INTERVAL
        bucket.debts = [0.0] * len(bucket.debts)

    def _next_way(self, bucket: _Bucket) -> int:
        untried = [way for way, share in enumerate(bucket.shares) if share is None]
        if untried:
            return untried[-1]
        debts = [0.0 if way == bucket.best else d for way, d in enumerate(bucket.debts)]
        way = max(range(len(debts)), key=debts.__getitem__)
        if debts[way] < 1:
            return bucket.best
        bucket.debts[way] = 0.0
        bucket.interval = min(2 * bucket.interval, MAX_INTERVAL)
        return way


def _is_hopeless(bucket: _Bucket, num_counted: int, num_sequences: int) -> bool:
    """Another way than the best is in use, and has brought so much less in these steps."""
    if bucket.way == bucket.best or bucket.rate is None:
        return False
    if num_counted < max(HOPELESS_STEPS, HOPELESS_TOKENS / num_sequences):
        return False
    return bucket.num_tokens < _HOPELESS * bucket.rate * bucket.seconds
