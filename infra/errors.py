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
    ├── EngineError            the engine failed this request
    └── StaleSlotError         an expert host's slot holds something else; the engine asks
                               another one (`deployments.experts.weights`)

A message says what to change. A violated assumption of our own is an
`assert`, not an exception of this tree.

The fields that a message names have other names at other doors: `field` marks them,
and `CoterieError.renamed` gives the error as a door's clients know them.
"""

import copy
import re
from collections.abc import Mapping
from typing import Self

_FIELD = re.compile("\u27e6([^\u27e6\u27e7]*)\u27e7")


def field(name: str) -> str:
    """The field, as a message writes it; `message` has the bare name."""
    return f"\u27e6{name}\u27e7"


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
        self._marked = message
        self.message = _FIELD.sub(r"\1", message)
        super().__init__(self.message)
        self.param = param
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The same error with other names for its fields, in message and `param`."""
        twin = copy.copy(self)
        twin.message = _FIELD.sub(lambda found: names.get(found[1], found[1]), self._marked)
        twin._marked = twin.message
        twin.args = (twin.message,)
        twin.param = None if self.param is None else names.get(self.param, self.param)
        return twin


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


def classes_by_kind() -> dict[str, type[CoterieError]]:
    """Every class of the tree, also of those that other modules add, by its `kind`."""
    found: dict[str, type[CoterieError]] = {}
    pending = [CoterieError]
    while pending:
        cls = pending.pop()
        found[cls.kind] = cls
        pending += cls.__subclasses__()
    return found
