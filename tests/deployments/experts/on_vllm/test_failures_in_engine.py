"""An engine under load while its expert hosts come, go, hang and die: the same tokens."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experts.settings import RebalanceSection
from tests.builders.expert_load import Load, LoadedEngine
from tests.builders.expert_tier import local_tier
from tests.builders.moe_checkpoints import TINY_MODELS

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

LOAD = Load(num_prompts=24, num_tokens=40, max_token=256)


def test_no_token_is_another_whatever_becomes_of_hosts(tmp_path: Path) -> None:
    [model] = [model for model in TINY_MODELS if model.name == "Qwen3Moe"]
    model.write(tmp_path)
    whole = {"model": str(tmp_path), "dtype": "float32"}
    expected = dict(LoadedEngine(whole, {}, replace(LOAD, once=True)).wait().answers)
    rebalance = RebalanceSection(min_copies=2, min_interval_s=1.0)
    with local_tier(tmp_path, num_hosts=3, num_slots=3, rebalance=rebalance) as tier:
        engine = LoadedEngine(tier.engine_arguments(), tier.environment, LOAD)
        try:
            tier.start()
            tier.until_settled()
            victim = tier.hosts.pop(0)
            victim.kill()
            time.sleep(0.5)
            tier.tell()
            tier.until_settled()
            tier.hosts[0].process.send_signal(signal.SIGSTOP)
            time.sleep(2.0)
            tier.hosts[0].process.send_signal(signal.SIGCONT)
            tier.until_settled()
            # The last ones, at once: the engine computes what no host has.
            while tier.hosts:
                tier.hosts.pop().kill()
            tier.tell()
            time.sleep(1.0)
            tier.start(2)
            tier.until_settled()
            time.sleep(1.0)
            said = engine.end()
        finally:
            engine.close()
    assert len(said.answers) > len(expected)
    assert {number: expected[number] for number, _ in said.answers} == dict(said.answers)
    for number, ids in said.answers:
        assert ids == expected[number]
