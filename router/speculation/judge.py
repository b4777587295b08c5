"""Which of several ways to draft brings the most tokens a second: told by trying.

What a way costs beside its steps (a draft model that computes on the same cores while the
engine does, say) is in no model of steps. So it is measured: an engine goes on in one way for
a *spell* of steps, and the tokens and seconds of the spell count, without those of its first
steps, in which the way is settling. The best way so far has most spells; between them
the others are tried, ever more rarely as long as the best stays the best, and the more rarely
the more they lose; a trial that is hopeless ends at once.

Batches of 1, 2 to 3, 4 to 7, 8 to 15 sequences and so on are judged each by themselves.
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


@dataclass(slots=True)
class _Bucket:
    """Batches of about the same number of sequences."""

    rates: list[float | None]
    """Tokens a second of each way; None: not tried."""
    way: int
    """The one that is in use."""
    best: int
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
        is_known = bucket.rates[bucket.way] is not None
        length = SPELL_STEPS if is_known and bucket.way == bucket.best else TRIAL_STEPS
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
        return list(self._bucket(num_sequences).rates)

    def check_invariants(self) -> None:
        """The best is the best of those that were tried."""
        for bucket in self._buckets.values():
            known = [rate for rate in bucket.rates if rate is not None]
            best = bucket.rates[bucket.best]
            assert best is None or max(known) <= best * _BETTER
            assert FIRST_INTERVAL <= bucket.interval <= MAX_INTERVAL
            assert bucket.num_tokens >= 0
            assert len(bucket.debts) == len(bucket.rates) == len(self.settling_steps)

    def _bucket(self, num_sequences: int) -> _Bucket:
        size = num_sequences.bit_length()
        if size not in self._buckets:
            num_ways = len(self.settling_steps)
            rates: list[float | None] = [None] * num_ways
            last = num_ways - 1
            self._buckets[size] = _Bucket(rates, last, last, debts=[0.0] * num_ways)
        return self._buckets[size]

    def _end_spell(self, bucket: _Bucket) -> None:
        rate = bucket.num_tokens / bucket.seconds
        old = bucket.rates[bucket.way]
        weight = 1.0 if old is None else _NEW_WEIGHT
        bucket.rates[bucket.way] = weight * rate + (1 - weight) * (old or 0.0)
        if bucket.way == bucket.best:
            self._grow_debts(bucket)
        bucket.num_steps = bucket.num_tokens = 0
        bucket.seconds = 0.0
        if self._has_new_best(bucket):
            bucket.interval = FIRST_INTERVAL
            bucket.debts = [0.0] * len(bucket.debts)
        bucket.way = self._next_way(bucket)

    def _grow_debts(self, bucket: _Bucket) -> None:
        best = bucket.rates[bucket.best]
        assert best is not None
        for way, rate in enumerate(bucket.rates):
            if way != bucket.best and rate is not None:
                bucket.debts[way] += min(rate / best, 1.0) ** 2 / bucket.interval

    def _has_new_best(self, bucket: _Bucket) -> bool:
        """Take the best of what is known for the best."""
        rates = [rate or 0.0 for rate in bucket.rates]
        best = max(range(len(rates)), key=rates.__getitem__)
        if rates[best] <= rates[bucket.best] * _BETTER:
            return False
        bucket.best = best
        return True

    def _next_way(self, bucket: _Bucket) -> int:
        untried = [way for way, rate in enumerate(bucket.rates) if rate is None]
        if untried:
            return untried[-1]
        way = max(range(len(bucket.debts)), key=bucket.debts.__getitem__)
        if bucket.debts[way] < 1:
            return bucket.best
        bucket.debts[way] = 0.0
        bucket.interval = min(2 * bucket.interval, MAX_INTERVAL)
        return way


def _is_hopeless(bucket: _Bucket, num_counted: int, num_sequences: int) -> bool:
    """Another way than the best is in use, and has brought so much less in these steps."""
    best = bucket.rates[bucket.best]
    if bucket.way == bucket.best or best is None:
        return False
    if num_counted < max(HOPELESS_STEPS, HOPELESS_TOKENS / num_sequences):
        return False
    return bucket.num_tokens < _HOPELESS * best * bucket.seconds
