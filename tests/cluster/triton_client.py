"""What the unmodified `tritonclient.grpc` gets, in a process of its own.

It registers the protocol's messages under the names that our stubs have too, and
one process cannot hold both. `python -m ... ADDRESS MODEL PROMPT` prints the whole
and the streamed text as JSON.
"""

import json
import queue
import sys
from typing import Any

import tritonclient.grpc

from tests.deployments.gateway.kserve.triton_calls import inputs, seen

_TIMEOUT_S = 60


def given(prompt: str, *, stream: bool) -> list[Any]:
    sampling = json.dumps({"temperature": 0, "max_tokens": 12, "ignore_eos": True})
    return inputs(
        text_input=prompt,
        stream=stream,
        sampling_parameters=sampling,
        exclude_input_in_output=True,
    )


def whole(client: Any, model: str, prompt: str) -> str:
    text: str = seen(client.infer(model, given(prompt, stream=False)))["text_output"][0]
    return text


def streamed(client: Any, model: str, prompt: str) -> str:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(model, given(prompt, stream=True), request_id="streamed")
    text, is_last = "", False
    while not is_last:
        result, error = answers.get(timeout=_TIMEOUT_S)
        assert error is None, error
        piece = seen(result)
        text += piece["text_output"][0]
        is_last = piece["final"]
    client.stop_stream()
    return text


def main() -> None:
    address, model, prompt = sys.argv[1:]
    with tritonclient.grpc.InferenceServerClient(address) as client:
        assert client.is_model_ready(model)
        found = {"whole": whole(client, model, prompt)}
        found["streamed"] = streamed(client, model, prompt)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
