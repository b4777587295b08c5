"""What `coterie top` shows of two looks at a cluster."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from coterie.cli import top
from coterie.cli.main import cli
from coterie.cli.overview import Look, Overview, overview
from deployments import local_cluster, operate
from deployments.operate import DeploymentState


def engine(replica_id: str = "ab12", **changes: Any) -> dict[str, Any]:
    """What an engine replica says of itself."""
    said = {
        "model": "chat",
        "replica_id": replica_id,
        "pid": 7,
        "num_open_calls": 3,
        "num_kv_blocks": 200,
        "num_used_kv_blocks": 50,
        "num_tokens": {"prompt": 1000, "cached": 400, "output": 500},
        "tpot_s": 0.025,
        "drafts": None,
    }
    return said | changes


def drafts(num_tokens: int, num_accepted: int) -> dict[str, int]:
    return {"num_drafts": 10, "num_tokens": num_tokens, "num_accepted": num_accepted}


def look(at_s: float, *engines: dict[str, Any], num_held: int = 0, **others: Any) -> Look:
    """At two gateways, of which one is being started, and some engines."""
    gateway = {"pid": 3, "num_running": {"chat": 3}, "num_held": {"chat": num_held}}
    states = {"gateway": ([gateway], 2), "engine-chat": (list(engines), 2)} | others
    return Look(
        at_s,
        [
            DeploymentState(name, "HEALTHY", "", len(details), num_wanted, details)
            for name, (details, num_wanted) in states.items()
        ],
    )


def test_rates_are_of_the_time_between_the_looks() -> None:
    before = look(10.0, engine(drafts=drafts(100, 40)))
    later = {"prompt": 1600, "cached": 850, "output": 620}
    now = look(12.0, engine(num_tokens=later, drafts=drafts(140, 70)))
    (model,) = overview(before, now).models
    (line,) = model.engines
    assert (line.prompt_tokens_per_s, line.output_tokens_per_s) == (300.0, 60.0)
    assert line.hit_rate == pytest.approx(0.75)
    assert line.acceptance == pytest.approx(0.75)
    assert (line.num_open, line.kv_usage, line.tpot_s) == (3, 0.25, 0.025)


def test_a_first_look_and_a_new_replica_have_no_rates() -> None:
    for before in (None, look(10.0, engine("other"))):
        (model,) = overview(before, look(12.0, engine())).models
        (line,) = model.engines
        assert line.prompt_tokens_per_s is line.output_tokens_per_s is None
        assert line.hit_rate is line.acceptance is None


def test_where_nothing_was_asked_no_share_is_told() -> None:
    (model,) = overview(look(10.0, engine()), look(12.0, engine())).models
    assert (model.engines[0].output_tokens_per_s, model.engines[0].hit_rate) == (0.0, None)


def test_a_model_without_engines_is_known_to_gateways() -> None:
    found = overview(None, look(1.0, num_held=5))
    assert (found.num_gateways, found.num_gateways_wanted) == (1, 2)
    (model,) = found.models
    assert (model.name, model.num_running, model.num_wanted) == ("chat", 0, 2)
    assert (model.num_held, model.engines) == (5, [])


def test_who_works_for_a_model_is_told_beside_it() -> None:
    tier = {"model": "chat", "experts": {"hosts": [{"busy_share": 0.5}, {"busy_share": 0.2}]}}

    def helpers(busy_s: float) -> dict[str, Any]:
        replica = {"model": "chat", "replica_id": "d", "num_answers": 4, "busy_s": busy_s}
        return {"director-chat": ([tier], 1), "drafts-chat": ([replica], 1)}

    found = overview(look(1, engine(), **helpers(1.0)), look(5, engine(), **helpers(2.0)))
    (model,) = found.models
    assert list(model.hosts_busy) == [0.5, 0.2]
    assert list(model.drafts_busy) == [0.25]
    assert "expert hosts busy 50%, 20%, draft replicas busy 25%" in shown(found)


def shown(found: Overview) -> str:
    """Each space once."""
    text = io.StringIO()
    Console(file=text, width=120).print(top.picture(found))
    return " ".join(text.getvalue().split())


def test_the_picture_has_a_row_for_each_engine() -> None:
    text = shown(overview(look(10.0, engine()), look(12.0, engine())))
    assert "1/2 gateways" in text
    assert "chat 1/2 engines, 0 waiting" in text
    assert "ab12 3 ██░░░░░░░░ 25% 0 0 - 25 ms -" in text


def test_nothing_served_is_said() -> None:
    assert "no model is served" in shown(overview(None, Look(1.0, [])))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def connected(section: object) -> Iterator[None]:
        yield

    states = look(0.0, engine()).states
    monkeypatch.setattr(local_cluster, "use_auth_token", lambda section: None)
    monkeypatch.setattr(operate, "connected", connected)
    monkeypatch.setattr(operate, "deployment_states", lambda name, with_details: states)


@pytest.mark.usefixtures("cluster")
def test_once_shows_one_picture_with_rates(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["top", "--once", "--every", "0.2"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("gateways") == 1
    told = CliRunner().invoke(cli, ["top", "--once", "--every", "0.2", "--json"])
    (line,) = told.output.splitlines()
    (model,) = json.loads(line)["models"]
    assert model["engines"][0]["output_tokens_per_s"] == 0.0
