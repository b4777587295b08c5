"""Coterie's client library: gRPC and protobuf alone, no Ray and no torch.

from coterie import Client

with Client("localhost:9000") as client:
    for piece in client.generate("Once upon a time", max_tokens=40):
        print(piece.text, end="", flush=True)
"""

from coterie.client import Client
from coterie.client_async import AsyncClient
from coterie.collector import Collector
from coterie.errors import (
    CapacityError,
    ConfigError,
    CoterieError,
    DeadlineError,
    EngineError,
    ForbiddenError,
    InvalidArgumentError,
    NoReplicaError,
    PromptTooLongError,
    RequestError,
    RequestTooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnknownMethodError,
    UnknownModelError,
)
from coterie.sampling import Sampling, SamplingKeywords
from coterie.stream import Stream
from coterie.stream_async import AsyncStream
from coterie.types import (
    Chunk,
    Embeddings,
    FinishReason,
    Message,
    Model,
    Output,
    Response,
    Tokenization,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "CapacityError",
    "Chunk",
    "Client",
    "Collector",
    "ConfigError",
    "CoterieError",
    "DeadlineError",
    "Embeddings",
    "EngineError",
    "FinishReason",
    "ForbiddenError",
    "InvalidArgumentError",
    "Message",
    "Model",
    "NoReplicaError",
    "Output",
    "PromptTooLongError",
    "RequestError",
    "RequestTooLargeError",
    "Response",
    "Sampling",
    "SamplingKeywords",
    "Stream",
    "TokenLogprob",
    "TokenLogprobs",
    "Tokenization",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownMethodError",
    "UnknownModelError",
    "Usage",
]
