"""Requests as messages, for all that `tritonclient` does not send."""

from typing import Any

from deployments.gateway.kserve.tensors import INPUT_TYPES
from deployments.kserve import grpc_service_pb2 as pb


def infer_request(**values: str | bool) -> pb.ModelInferRequest:
    """Inputs by name, in `contents`; without any, the text "abc"."""
    request = pb.ModelInferRequest(model_name="tiny", id="r")
    for name, value in (values or {"text_input": "abc"}).items():
        tensor = request.inputs.add(name=name, datatype=INPUT_TYPES.get(name, "BYTES"))
        tensor.shape.append(1)
        if isinstance(value, bool):
            tensor.contents.bool_contents.append(value)
        else:
            tensor.contents.bytes_contents.append(value.encode())
    return request


def with_params(**params: Any) -> pb.ModelInferRequest:
    """The text "abc" with parameters of the request."""
    request = infer_request()
    for name, value in params.items():
        kind = {bool: "bool", int: "int64", str: "string", float: "double"}[type(value)]
        setattr(request.parameters[name], f"{kind}_param", value)
    return request
