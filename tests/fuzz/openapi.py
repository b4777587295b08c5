"""The HTTP door held to its own OpenAPI document, by schemathesis.

It makes up requests that fit the document, and as many that do not, and looks whether each
answer is one that the document names: its status, its type, its form.
"""

import asyncio
import math
import random
import time
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz.doors import TEXT, VECTORS, Doors
from tests.fuzz.readers import Findings

_CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
_LIMIT_S = 20.0
_LEFT_AS_IT_IS = 0.2


async def run_openapi(at: Doors, num_inputs: int, dice: random.Random) -> Findings:
    """So many requests over all operations of the document, one at a time."""
    return await asyncio.to_thread(_run, f"http://{at.http_address}", num_inputs, dice)


def _run(url: str, num_inputs: int, dice: random.Random) -> Findings:
    found, began_s = Findings("openapi"), time.perf_counter()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
    left = [operation.as_strategy(mode) for operation in operations for mode in GenerationMode]
    while left and found.num_inputs < num_inputs:
        each = math.ceil((num_inputs - found.num_inputs) / len(left))
        left = [cases for cases in left if _try(cases, each, found, dice)]
    found.seconds = time.perf_counter() - began_s
    return found


def _try(cases: Any, num_inputs: int, found: Findings, dice: random.Random) -> bool:
    """Cases of one operation; whether there were as many. What a check says is noted, and not
    made any smaller."""
    before = found.num_inputs

    @hypothesis.seed(dice.getrandbits(64))
    @settings(
        max_examples=num_inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def one(case: Case[Any]) -> None:
        found.num_inputs += 1
        _make_likelier(case, dice)
        started_s = time.perf_counter()
        try:
            response = case.call(timeout=_LIMIT_S)
            found.slowest_s = max(found.slowest_s, time.perf_counter() - started_s)
            case.validate_response(response, checks=_CHECKS)
        except (Failure, FailureGroup, OSError) as error:
            found.note_failure(f"failure {case.method} {case.path} {error!r}", _data(case))
        else:
            found.outcomes[str(response.status_code)] += 1

    try:
        one()
    except hypothesis.errors.Unsatisfiable:
        return False  # an operation without a body has nothing that does not fit
    return found.num_inputs >= before + num_inputs


def _make_likelier(case: Case[Any], dice: random.Random) -> None:
    """Mostly a model that there is, and 1 for 1.0: without, little gets any further."""
    if dice.random() < _LEFT_AS_IT_IS:
        return
    name = VECTORS if case.path.endswith("embeddings") else TEXT
    case.body = _with_ints(case.body)
    if isinstance(case.body, dict):
        case.body["model"] = name
    if case.path_parameters and "name" in case.path_parameters:
        case.path_parameters["name"] = name


def _with_ints(value: Any) -> Any:
    """As JSON, where both are the same number."""
    if isinstance(value, dict):
        return {key: _with_ints(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_ints(item) for item in value]
    is_whole = isinstance(value, float) and value.is_integer()
    return int(value) if is_whole else value


def _data(case: Case[Any]) -> bytes:
    return repr((case.path_parameters, case.query, case.body)).encode()[:2000]
