"""What vLLM raises while it works on a call, as errors of ours.

| vLLM 0.32 raises | when | becomes |
|---|---|---|
| `VLLMClientError` and its like | the request is checked | `InvalidArgumentError` |
| `VLLMNotFoundError` | an adapter's files are gone | `CoterieError`, ours to mend |
| `GracefulHTTPError` | its own queue is full | `CapacityError` |
| `EngineDeadError` | the engine core has ended | `ReplicaLostError` |
| `EngineGenerateError` | anything else; it carries the cause | as its cause |
| `ValueError` itself | before any output: the request is checked | `InvalidArgumentError` |
| whatever else | memory, time-outs, sockets, mistakes in vLLM | `EngineError` |
"""

from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMNotFoundError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from deployments.replica_lost import ReplicaLostError
from infra.errors import CapacityError, CoterieError, EngineError, InvalidArgumentError

_MAX_MESSAGE_CHARS = 500
# vLLM's names of fields that are called otherwise here.
_PARAM_NAMES = {
    "include_stop_str_in_output": "include_stop",
    "input_text": "prompt",
    "input_tokens": "prompt",
    "structured_outputs": "structured_output",
}


def translated(error: BaseException, *, has_output: bool = False) -> CoterieError:
    """The error that stands for this one; see the table.

    With `has_output` the call has been under way: what fails then is not its form.
    """
    match error:
        case CoterieError():
            return error
        case EngineGenerateError(__cause__=BaseException() as cause):
            return translated(cause, has_output=has_output)
        case EngineDeadError():
            return ReplicaLostError(
                "the engine core died; its replica is being replaced; try again"
            )
        case GracefulHTTPError():
            return CapacityError("the engine's queue is full; try again later")
        case VLLMNotFoundError():
            return CoterieError("the adapter's files cannot be read where the engine runs")
        case VLLMClientError():
            return _refusal(error)
    # Subclasses, such as those of decoding, tell of mistakes in vLLM.
    if type(error) is ValueError and not has_output:
        return _refusal(error)
    return EngineError(f"the engine failed: {type(error).__name__}: {_first_line(error)}")


def _refusal(error: Exception) -> InvalidArgumentError:
    param: str | None = getattr(error, "parameter", None)
    # `str()` would repeat the value, which may be long.
    return InvalidArgumentError(_first_line(error), param=_PARAM_NAMES.get(param or "", param))


def _first_line(error: BaseException) -> str:
    words = str(error.args[0]) if error.args else str(error)
    return words.split("\n", 1)[0][:_MAX_MESSAGE_CHARS]
