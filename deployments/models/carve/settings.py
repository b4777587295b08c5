"""What to carve, and whether a feed-forward network can be cut that way.

    neuron    one of the feed-forward network's hidden units, silu(gate . x) * (up . x)
    shared    the neurons that compute for every token
    expert    equally many of the other neurons, which compute for some tokens
    active    the experts that compute for one token

Of 1,536 neurons, 512 shared and 16 experts leave 1,024 / 16 = 64 to each; with 12 active a
token uses 512 + 12 * 64 = 1,280 neurons.
"""

from dataclasses import dataclass
from typing import Literal

from infra.errors import ConfigError

DtypeName = Literal["bfloat16", "float16", "float32"]

_SHARED_PART = 1 / 3


@dataclass(frozen=True)
class CarveSettings:
    """What the operator chooses.

    `shared_size` counts neurons; None is the nearest possible number to a
    third. `dtype` is that of the written weights; None keeps the source's.
    """

    num_experts: int = 16
    num_active: int = 12
    shared_size: int | None = None
    seed: int = 0
    dtype: DtypeName | None = None
    num_calibration_tokens: int = 8_192
    num_held_out_tokens: int = 4_096
    sequence_tokens: int = 512


@dataclass(frozen=True)
class Cut:
    """How many neurons of a feed-forward network go where."""

    shared_size: int
    num_experts: int
    expert_size: int
    num_active: int

    @property
    def num_neurons(self) -> int:
        """Neurons of the dense network, all of which have a place."""
        return self.shared_size + self.num_experts * self.expert_size

    @property
    def num_active_neurons(self) -> int:
        """Neurons that compute for one token."""
        return self.shared_size + self.num_active * self.expert_size


def cut_of(settings: CarveSettings, num_neurons: int) -> Cut:
    """The cut that `settings` ask for in a network of `num_neurons`.

    Raises `ConfigError` if the numbers do not fit together, and says which would.
    """
    experts, active = settings.num_experts, settings.num_active
    if experts < 2:
        raise ConfigError(f"{experts} experts leave nothing to choose from; take 2 or more")
    if not 1 <= active <= experts:
        raise ConfigError(
            f"{active} of {experts} experts cannot be active; take 1 to {experts}"
        )
    shared = settings.shared_size
    if shared is None:
        shared = _nearest_shared(num_neurons * _SHARED_PART, num_neurons, experts)
    routed = num_neurons - shared
    if shared < 1 or routed < experts:
        raise ConfigError(
            f"a shared expert of {shared} of the {num_neurons} neurons leaves no neuron for "
            f"each of {experts} experts; take 1 to {num_neurons - experts}, or fewer experts"
        )
    if routed % experts:
        nearest = _nearest_shared(shared, num_neurons, experts)
        raise ConfigError(
            f"the {routed} neurons beside a shared expert of {shared} do not divide into "
            f"{experts} experts; a shared expert of {nearest} would do"
        )
    return Cut(shared, experts, routed // experts, active)


def _nearest_shared(wanted: float, num_neurons: int, num_experts: int) -> int:
    """Number of shared neurons nearest to `wanted` that leaves equal experts."""
    most = (num_neurons - 1) // num_experts
    size = min(max(round((num_neurons - wanted) / num_experts), 1), max(most, 1))
    return num_neurons - size * num_experts
