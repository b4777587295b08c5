"""How many requests are under way at a time: found by trying, without a setting.

Additive increase, multiplicative decrease, as TCP finds the width of a way it cannot
see. Time is cut into *rounds* of finished requests; after each change of the limit the
first requests of a round belong to the limit before and do not count.

| seen                                            | the limit            |
|-------------------------------------------------|----------------------|
| at first, as long as each doubling pays         | is doubled           |
| later, every few rounds                         | is a quarter more    |
| a larger limit brought no larger throughput     | is what it was       |
| the server had no room (429, 503)               | is halved            |

Worked example: 4, 8 and 16 bring 40, 80 and 150 tokens a second, 32 brings 155. The limit
goes back to 16, and eight rounds later 20 is tried.
"""

_START = 4
_MIN_ROUND = 32
_ROUNDS_BETWEEN_TRIES = 8
_GAIN_EXPECTED = 0.5  # of the share by which the limit grew


class Concurrency:
    """The limit; tell it of each request that ends. Times are seconds of one clock."""

    def __init__(self, max_limit: int) -> None:
        assert max_limit >= 1
        self.limit = min(_START, max_limit)
        self._max_limit = max_limit
        self._base_limit = self.limit
        """The largest limit that has paid."""
        self._base_rate: float | None = None
        self._is_doubling = True
        self._num_rounds_to_wait = 0
        self._cut_at_s: float | None = None
        self._num_unsettled = self.limit
        self._num_finished = 0
        self._work = 0
        self._round_began_s = 0.0

    def on_finished(self, now_s: float, work: int) -> None:
        """A request was answered; `work` is what counts for throughput, its tokens."""
        if self._num_unsettled:
            self._num_unsettled -= 1
            self._round_began_s = now_s
            return
        self._num_finished += 1
        self._work += work
        duration_s = now_s - self._round_began_s
        if self._num_finished >= max(2 * self.limit, _MIN_ROUND) and duration_s > 0:
            self._end_round(self._work / duration_s, now_s)

    def on_refused(self, sent_s: float, now_s: float) -> None:
        """The server had no room for a request sent at `sent_s`.

        One cut answers all refusals of requests that were sent before it.
        """
        if self._cut_at_s is not None and sent_s <= self._cut_at_s:
            return
        self._cut_at_s = now_s
        self._is_doubling = False
        self._settle_on(max(1, self.limit // 2), None, now_s)

    def check_invariants(self) -> None:
        """The limit is within its bounds, and never below the largest that has paid."""
        assert 1 <= self._base_limit <= self.limit <= self._max_limit
        assert 0 <= self._num_rounds_to_wait <= _ROUNDS_BETWEEN_TRIES
        assert 0 <= self._num_finished

    def _end_round(self, rate: float, now_s: float) -> None:
        if self.limit > self._base_limit and not self._has_paid(rate):
            self._is_doubling = False
            self._settle_on(self._base_limit, self._base_rate, now_s)
            return
        self._base_limit, self._base_rate = self.limit, rate
        if self._num_rounds_to_wait:
            self._num_rounds_to_wait -= 1
        else:
            step = self.limit if self._is_doubling else max(1, self.limit // 4)
            self.limit = min(self.limit + step, self._max_limit)
        self._begin_round(self.limit != self._base_limit, now_s)

    def _has_paid(self, rate: float) -> bool:
        if self._base_rate is None:
            return True
        growth = self.limit / self._base_limit - 1
        return rate > self._base_rate * (1 + _GAIN_EXPECTED * growth)

    def _settle_on(self, limit: int, rate: float | None, now_s: float) -> None:
        self.limit = self._base_limit = limit
        self._base_rate = rate
        self._num_rounds_to_wait = _ROUNDS_BETWEEN_TRIES
        self._begin_round(True, now_s)

    def _begin_round(self, is_new_limit: bool, now_s: float) -> None:
        self._num_unsettled = self.limit if is_new_limit else 0
        self._num_finished = self._work = 0
        self._round_began_s = now_s
