"""Some inputs for each door and reader; `make fuzz` sends many more."""

import random

import pytest

from deployments.gateway.tokenizer import Tokenizer
from deployments.models.resolve import resolve_model
from tests.builders.cluster import STATE_DIR
from tests.fuzz.__main__ import at_door
from tests.fuzz.readers import Reader, readers, run

NUM_INPUTS = 2000


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_readers_take_or_refuse_whatever_comes(reader: Reader) -> None:
    found = run(reader, NUM_INPUTS, random.Random(1))
    assert found.failures == []
    assert found.num_inputs == NUM_INPUTS


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_changes_leave_some_of_the_samples_readable(reader: Reader) -> None:
    """Else what is behind the first check is never tried."""
    taken = 0
    for sample in reader.samples:
        try:
            reader.read(sample)
        except reader.refusals:
            continue
        taken += 1
    assert taken


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "good", "num_inputs"),
    [
        ("grpc", "ok", NUM_INPUTS),
        ("kserve", "ok", NUM_INPUTS),
        ("http", "200", NUM_INPUTS),
        # Its inputs are slow to make.
        ("openapi", "200", 200),
    ],
)
async def test_doors_answer_whatever_comes(name: str, good: str, num_inputs: int) -> None:
    path = resolve_model("smollm2-135m-instruct", STATE_DIR).path
    found = await at_door(name, Tokenizer.load(path, None), num_inputs, seed=1)
    assert found.failures == []
    assert found.num_inputs > num_inputs / 2
    assert found.outcomes[good] > num_inputs / 100
