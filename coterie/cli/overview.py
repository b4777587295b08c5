"""What `coterie top` shows: rates of each engine replica, from two looks at the cluster."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployments.deployment_names import GATEWAY, engine_deployment

if TYPE_CHECKING:
    from deployments.operate import DeploymentState

Detail = Mapping[str, Any]


@dataclass(frozen=True)
class Look:
    """What all replicas said of themselves at one moment, by a clock that only counts up."""

    at_s: float
    states: Sequence["DeploymentState"]

    def details(self) -> Iterator[Detail]:
        """Of all replicas of all deployments."""
        for state in self.states:
            yield from state.details


@dataclass(frozen=True)
class EngineLine:
    """One engine replica. Rates are of the time between two looks; None before the second."""

    replica_id: str
    num_open: int
    kv_usage: float
    """Share of its KV blocks that sequences hold, in [0, 1]."""
    tpot_s: float
    """From token to token of a sequence; 0 before the first."""
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None
    hit_rate: float | None
    """Of prompt tokens, those that came from the prefix cache; None where there were none."""
    acceptance: float | None
    """Of drafts' tokens, those accepted; None where none were verified."""


@dataclass(frozen=True)
class ModelView:
    """One model: its engines, and who works for them."""

    name: str
    num_running: int
    num_wanted: int
    num_held: int
    """Requests that wait at gateways."""
    engines: Sequence[EngineLine]
    hosts_busy: Sequence[float]
    """Share of their time that expert hosts compute, in [0, 1]."""
    drafts_busy: Sequence[float]
    """The same of draft replicas, between two looks."""


@dataclass(frozen=True)
class Overview:
    """The whole cluster."""

    num_gateways: int
    num_gateways_wanted: int
    models: Sequence[ModelView]


def overview(before: Look | None, now: Look) -> Overview:
    """Of two looks, or of one without rates."""
    passed_s = 0.0 if before is None else now.at_s - before.at_s
    known = {} if before is None else {_identity(detail): detail for detail in before.details()}
    held = [d["num_held"] for d in now.details() if "num_held" in d]
    states = {state.name: state for state in now.states}
    gateway = states.get(GATEWAY)
    models = []
    for name in sorted(_models(now.details(), held)):
        engines = states.get(engine_deployment(name))
        own = [d for d in now.details() if d.get("model") == name]
        models.append(
            ModelView(
                name=name,
                num_running=engines.num_running if engines else 0,
                num_wanted=engines.num_wanted if engines else 0,
                num_held=sum(each.get(name, 0) for each in held),
                engines=[
                    _engine(detail, known.get(_identity(detail)), passed_s)
                    for detail in own
                    if "num_kv_blocks" in detail
                ],
                hosts_busy=[
                    host["busy_share"]
                    for detail in own
                    if "experts" in detail
                    for host in detail["experts"]["hosts"]
                ],
                drafts_busy=[
                    (detail["busy_s"] - old["busy_s"]) / passed_s
                    for detail in own
                    if "num_answers" in detail and (old := known.get(_identity(detail)))
                ],
            )
        )
    return Overview(
        num_gateways=gateway.num_running if gateway else 0,
        num_gateways_wanted=gateway.num_wanted if gateway else 0,
        models=models,
    )


def _models(details: Iterable[Detail], held: Iterable[Mapping[str, int]]) -> set[str]:
    """Gateways know those of which no engine runs."""
    return {d["model"] for d in details if "num_kv_blocks" in d} | {n for h in held for n in h}


def _identity(detail: Detail) -> tuple[Any, Any]:
    return detail.get("replica_id"), detail.get("pid")


def _engine(detail: Detail, old: Detail | None, passed_s: float) -> EngineLine:
    tokens = _since(detail["num_tokens"], old and old["num_tokens"])
    drafts = _since(detail["drafts"] or {}, old and old["drafts"])
    return EngineLine(
        replica_id=detail["replica_id"],
        num_open=detail["num_open_calls"],
        kv_usage=detail["num_used_kv_blocks"] / max(1, detail["num_kv_blocks"]),
        tpot_s=detail["tpot_s"],
        prompt_tokens_per_s=tokens["prompt"] / passed_s if old else None,
        output_tokens_per_s=tokens["output"] / passed_s if old else None,
        hit_rate=_share(tokens, "cached", "prompt") if old else None,
        acceptance=_share(drafts, "num_accepted", "num_tokens") if old else None,
    )


def _since(now: Mapping[str, int], old: Mapping[str, int] | None) -> Mapping[str, int]:
    return {name: count - (old or {}).get(name, 0) for name, count in now.items()}


def _share(counts: Mapping[str, int], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts.get(whole) else None
