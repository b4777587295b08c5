"""Calls of the unmodified `tritonclient.grpc`, in a process of their own.

It registers the protocol's messages under the names that our stubs have too, and
one process cannot hold both. `python -m ... NAME ADDRESS` prints what the call gave,
as JSON.
"""

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

FINAL = "triton_final_response"


def tensor(name: str, value: str | bool) -> Any:
    datatype = "BOOL" if isinstance(value, bool) else "BYTES"
    found = tritonclient.grpc.InferInput(name, [1], datatype)
    dtype = np.bool_ if isinstance(value, bool) else np.object_
    found.set_data_from_numpy(np.array([value], dtype=dtype))
    return found


def inputs(**values: str | bool) -> list[Any]:
    return [tensor(name, value) for name, value in values.items()]


def seen(result: Any) -> dict[str, Any]:
    """All tensors of a response, and what marks it."""
    response = result.get_response()
    found: dict[str, Any] = {"id": response.id, "model": response.model_name}
    if FINAL in response.parameters:
        found["final"] = response.parameters[FINAL].bool_param
    for output in response.outputs:
        values = result.as_numpy(output.name).tolist()
        found[output.name] = [v.decode() if isinstance(v, bytes) else v for v in values]
    return found


def infer(address: str) -> Any:
    with tritonclient.grpc.InferenceServerClient(address) as client:
        given = inputs(
            text_input="abc",
            stream=False,
            sampling_parameters=json.dumps({"temperature": "0", "max_tokens": 5}),
            exclude_input_in_output=True,
            return_finish_reason=True,
            return_cumulative_logprob=True,
            return_logprobs=True,
            return_num_input_tokens=True,
            return_num_output_tokens=True,
        )
        return seen(client.infer("tiny", given, request_id="r"))


def ask_about(address: str) -> Any:
    with tritonclient.grpc.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata("tiny", as_json=True)
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model": client.is_model_ready("tiny"),
            "other": client.is_model_ready("none"),
            "server": client.get_server_metadata().name,
            "versions": metadata["versions"],
            "inputs": [t["name"] for t in metadata["inputs"]],
            "outputs": [t["name"] for t in metadata["outputs"]],
        }


def refused(address: str) -> Any:
    """Status and message of a request that asks `infer` for a stream."""
    with tritonclient.grpc.InferenceServerClient(address) as client:
        try:
            client.infer("tiny", inputs(text_input="abc", stream=True))
        except InferenceServerException as error:
            return [error.status(), error.message()]
    return None


def stream(address: str) -> Any:
    """Two good requests and a bad one at once on one stream."""
    answers: queue.Queue[Any] = queue.Queue()

    def note(result: Any, error: Any) -> None:
        answers.put({"error": error.message()} if error else seen(result))

    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=note)
        ask = partial(client.async_stream_infer, enable_empty_final_response=True)
        good = inputs(text_input="abc", stream=True)
        bad = inputs(text_input="abc", sampling_parameters='{"temprature": 1}')
        ask("tiny", good, request_id="a")
        ask("tiny", bad, request_id="b")
        ask("tiny", good, request_id="c")
        found = [answers.get(timeout=10) for _ in range(5)]
        client.stop_stream()
    return found


def leave(address: str) -> Any:
    """Cancel a stream with an open request, after its first response."""
    answers: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put(result))
        client.async_stream_infer("tiny", inputs(text_input="abc", stream=True))
        first = seen(answers.get(timeout=10))
        client.stop_stream(cancel_requests=True)
    return first


async def _aio(address: str) -> Any:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        given = inputs(text_input="abc", stream=True, return_num_output_tokens=True)
        yield {"model_name": "tiny", "inputs": given, "request_id": "s"}

    async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
        whole = seen(await client.infer("tiny", inputs(text_input="abc")))
        pieces = [
            error or seen(result) async for result, error in client.stream_infer(requests())
        ]
        return {"whole": whole, "pieces": pieces}


def aio(address: str) -> Any:
    return asyncio.run(_aio(address))


CALLS = {call.__name__: call for call in (infer, ask_about, refused, stream, leave, aio)}

if __name__ == "__main__":
    print(json.dumps(CALLS[sys.argv[1]](sys.argv[2])))
