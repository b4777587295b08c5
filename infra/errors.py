"""The exception tree: whose mistake it is decides what happens next.

    CoterieError
    ├── ConfigError            the operator's: fix the configuration
    ├── RequestError           the client's: fix the request
    │   ├── InvalidArgumentError
    │   │   └── PromptTooLongError
    │   ├── RequestTooLargeError
    │   ├── UnknownModelError
    │   ├── UnknownMethodError
    │   ├── UnauthenticatedError
    │   └── ForbiddenError
    ├── CapacityError          lack of room: try again later
    │   └── NoReplicaError
    ├── DeadlineError          the client's time ran out
    └── EngineError            the engine failed this request

A message says what to change. A violated assumption of our own is an
`assert`, not an exception of this tree.
"""


class CoterieError(Exception):
    """Base of the tree.

    `kind` is the stable word by which clients tell failures apart; it is sent
    as `coterie-error` (gRPC) and `error.code` (HTTP). `param` names the field
    that is wrong; `retry_after_s` says after how many seconds the same request
    may pass, None that it will not.
    """

    kind = "internal"
    retry_after_s: float | None = None

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class ConfigError(CoterieError):
    """The operator's mistake: a bad key, a missing file, a taken port."""

    kind = "config"


class RequestError(CoterieError):
    """The client's mistake; repeating the request unchanged fails again."""

    kind = "bad_request"


class InvalidArgumentError(RequestError):
    """A field is missing or outside its range; `param` names it."""

    kind = "invalid_argument"


class PromptTooLongError(InvalidArgumentError):
    """Prompt and output tokens do not fit the model's context."""

    kind = "prompt_too_long"


class RequestTooLargeError(RequestError):
    """The request has more bytes than the gateway takes."""

    kind = "request_too_large"


class UnknownModelError(RequestError):
    """No model or adapter of that name is served here."""

    kind = "unknown_model"


class UnknownMethodError(RequestError):
    """The model has no such ability: a base model without a chat template, say."""

    kind = "unknown_method"


class UnauthenticatedError(RequestError):
    """No API key that is valid here came with the request."""

    kind = "unauthenticated"


class ForbiddenError(RequestError):
    """The API key is valid, but not for this."""

    kind = "forbidden"


class CapacityError(CoterieError):
    """There is no room at the moment; the same request may pass later."""

    kind = "overloaded"
    retry_after_s = 1.0


class NoReplicaError(CapacityError):
    """No engine replica of the model takes requests at the moment."""

    kind = "no_replica"


class DeadlineError(CoterieError):
    """The request's deadline passed before it was finished."""

    kind = "deadline_exceeded"


class EngineError(CoterieError):
    """The engine failed while it worked on the request; it may be tried again."""

    kind = "engine_failed"
    retry_after_s = 1.0
