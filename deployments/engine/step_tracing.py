"""How the ranks of an engine come to trace their steps.

They are told where spans go by the environment, as vLLM keeps compiled models under a hash of
its arguments; and by each traced request's parameters which span is its own.
"""

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.telemetry.settings import TelemetrySection
from infra.telemetry.step_spans import StepSpans
from infra.telemetry.trace_context import Carrier, is_sampled
from infra.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from vllm import SamplingParams  # takes seconds

_VARIABLE = "COTERIE_STEP_TRACING"
_KEY = "coterie_trace"


def step_environment(tracing: Mapping[str, Any]) -> Mapping[str, str]:
    """Variables that the engine's processes must start with, of its `tracing_arguments`."""
    return {_VARIABLE: json.dumps(tracing)}


def step_spans(rank: int) -> StepSpans | None:
    """Of this process, as the environment says; None where nothing is traced."""
    arguments = json.loads(os.environ.get(_VARIABLE, "{}"))
    # The gateway has decided what is sampled.
    section = TelemetrySection(**arguments, trace_sampling_ratio=1.0)
    tracing = Tracing.start(section, "engine")
    return None if tracing is None else StepSpans(tracing, rank)


def note_trace(params: "SamplingParams", carrier: Carrier | None) -> None:
    """Tell the ranks which span the request's is, if it is traced."""
    if carrier is not None and is_sampled(carrier):
        params.extra_args = (params.extra_args or {}) | {_KEY: carrier}


def noted_trace(params: "SamplingParams | None") -> Carrier | None:
    """What `note_trace` has noted."""
    found: Carrier | None = None
    if params is not None and params.extra_args is not None:
        found = params.extra_args.get(_KEY)
    return found
