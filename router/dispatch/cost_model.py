"""What the expert hosts cost, learnt from the calls they answer: see `cost_fit`."""

from collections.abc import Sequence

import numpy as np

from experts.types import HostId
from router.dispatch.cost_fit import NUM_FIRST, NUM_FOR_CHANGE, Fit, observe
from router.dispatch.settings import DispatchSection
from router.dispatch.types import Seconds


class CostModel:
    """Seconds that each host needs: for a parcel, for each expert in it, for each pair.

    Hosts are named by their indices in the latest `set_hosts`, as in the expert map.
    Not for several threads at once.
    """

    def __init__(self, section: DispatchSection) -> None:
        """Without hosts."""
        self._prior = np.array([section.fixed_s, section.per_expert_s, section.per_pair_s])
        self._memory = 1 - 1 / section.memory_calls
        self._hosts: tuple[HostId, ...] = ()
        self._fit = Fit.of(0, self._prior)
        self._arrays = tuple(self._fit)

    def set_hosts(self, hosts: Sequence[HostId]) -> None:
        """These are there from here on. What is known of those that were there already
        is kept; a new one is taken to be as the median of those that are known."""
        fit = Fit.of(len(hosts), self._prior)
        known = self._fit.scales[self._fit.num_seen >= NUM_FIRST]
        if len(known):
            fit.scales[:] = np.median(known, axis=0)
            fit.costs[:] = fit.scales * self._prior
        host_to_row = {host: row for row, host in enumerate(self._hosts)}
        for row, host in enumerate(hosts):
            if host in host_to_row:
                for new, old in zip(fit, self._fit, strict=True):
                    new[row] = old[host_to_row[host]]
        self._hosts, self._fit, self._arrays = tuple(hosts), fit, tuple(fit)

    def observe(self, host: int, num_experts: int, num_pairs: int, seconds: float) -> None:
        """The host answered a parcel after so many seconds, not counting what it had to
        do for others before."""
        assert num_experts > 0
        assert num_pairs > 0
        assert seconds > 0
        what = (host, num_experts, num_pairs)
        observe(self._arrays, self._prior, what, seconds, self._memory)

    def costs(self) -> Seconds:
        """In the columns `FIXED`, `PER_EXPERT` and `PER_PAIR`; none below 0.

        Shape: [num_hosts, 3]. Of a host with fewer than `NUM_FIRST` observations it is
        what the section says, or what was known before. The array changes with what is
        observed until the hosts are set anew.
        """
        return self._fit.costs

    def check_invariants(self) -> None:
        """Costs are numbers not below 0, and not all 0; what was summed up is finite."""
        fit, num_hosts = self._fit, len(self._hosts)
        assert len(set(self._hosts)) == num_hosts
        assert all(len(array) == num_hosts for array in fit)
        assert np.isfinite(fit.scales).all()
        assert (fit.scales >= 0).all()
        assert (fit.scales.sum(axis=1) > 0).all()
        assert np.array_equal(fit.costs, fit.scales * self._prior)
        is_fitted = fit.num_seen >= NUM_FIRST
        for information, moment in zip(
            fit.information[is_fitted], fit.moment[is_fitted], strict=True
        ):
            assert np.isfinite(moment).all()
            assert np.allclose(information, information.T)
            assert np.linalg.eigvalsh(information).min() >= -1e-9 * np.trace(information)
        assert (np.abs(fit.streak) < NUM_FOR_CHANGE).all()
        assert (fit.num_seen >= 0).all()
