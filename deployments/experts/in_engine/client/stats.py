"""What a tier's client has done, counted since it began."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class TierStats:
    """Times in seconds. Written by the model's thread, read by any."""

    num_layers: int = 0
    """Layers of steps: calls of `begin` and `finish`."""
    num_tokens: int = 0
    """Of each layer anew."""
    num_pairs: int = 0
    num_local_pairs: int = 0
    """Computed in the engine, as no host could."""
    num_moved_pairs: int = 0
    """Asked of another host, since the first was lost, late, or held something else."""
    num_other_map: int = 0
    """Answers that a slot holds something else."""
    num_failed: int = 0
    """Answers that say that the host could not."""
    num_late: int = 0
    """Times that a host was waited for no longer."""
    num_lost: int = 0
    """Lines lost."""
    plan_s: float = 0.0
    send_s: float = 0.0
    local_s: float = 0.0
    wait_s: float = 0.0
    """Until the last answer; reading them is in it."""
    combine_s: float = 0.0
    compute_s: float = 0.0
    """Of all hosts together, by their own word."""
    queue_s: float = 0.0
    """Likewise, of requests that waited for others."""
    num_bytes_sent: int = 0
    num_bytes_received: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON types alone."""
        return asdict(self)
