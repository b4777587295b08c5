"""A request's JSON to its struct, or a message that names the field at fault."""

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

from deployments.gateway.openai.fields import Refusal, drop_inactive
from deployments.gateway.openai.nulls import without_unknown_nulls
from deployments.gateway.openai.request import BodyRequest
from infra.errors import InvalidArgumentError

RequestT = TypeVar("RequestT", bound=BodyRequest)

_MAX_WORDS_CHARS = 300
_PLACE = re.compile(r"(?P<words>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_PART_TYPE = re.compile(r"(?:messages|input)\[\d+\]\.(?:content|output)\[\d+\]\.type")
_TOO_MANY = re.compile(r"Expected `array` of length <= (?P<limit>[1-9]\d*)")
_UNSUPPORTED = ("Expected `null`, got", "Expected `array` of length <= 0")


class RequestDecoder(Generic[RequestT]):
    """Decodes one kind of request, strictly: a "1" is no number, 1.5 no count."""

    def __init__(self, request_type: type[RequestT], refused: Mapping[str, Refusal]) -> None:
        self.param_names = request_type.param_names
        self._decoder = msgspec.json.Decoder(request_type)
        self._kinds = {
            f.encode_name: msgspec.inspect.type_info(f.type)
            for f in msgspec.structs.fields(request_type)
        }
        self._refused = refused

    def decode(self, body: bytes) -> RequestT:
        """The request. Raises InvalidArgumentError for anything wrong in its form."""
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise _explained(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidArgumentError(f"the body is not valid JSON: {error}") from error
        except RecursionError as error:
            raise InvalidArgumentError("the body's JSON is nested too deeply") from error

    def _decode(self, body: bytes) -> RequestT:
        """Most requests at once; others without what asks for nothing, step by step."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            _check_unknown(error)
        given = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        kept = drop_inactive(given, frozenset(self._kinds), self._refused)
        try:
            return self._decoder.decode(msgspec.json.encode(kept))
        except msgspec.ValidationError as error:
            _check_unknown(error)
        cleaned = {
            name: without_unknown_nulls(msgspec.json.decode(value), self._kinds[name])
            for name, value in kept.items()
        }
        return self._decoder.decode(msgspec.json.encode(cleaned))


def _check_unknown(error: msgspec.ValidationError) -> None:
    """Raises it again where anything but an unknown field is wrong."""
    found = _PLACE.fullmatch(str(error))
    if found is None or _UNKNOWN.fullmatch(found["words"]) is None:
        raise error


def _explained(text: str) -> InvalidArgumentError:
    """The error for msgspec's words, such as: Expected `int`, got `str` - at `$.n`."""
    found = _PLACE.fullmatch(text)
    words, path = (found["words"], found["path"] or "") if found else (text, "")
    if missing := _MISSING.fullmatch(words):
        field = _joined(path, missing["name"])
        return InvalidArgumentError(f"{field} is missing", param=field)
    if unknown := _UNKNOWN.fullmatch(words):
        field = _joined(path, unknown["name"][:_MAX_WORDS_CHARS])
        return InvalidArgumentError(f"{field} is not supported; leave it out", param=field)
    if too_many := _TOO_MANY.fullmatch(words):
        return InvalidArgumentError(f"{path} has over {too_many['limit']} entries", param=path)
    if words.startswith(_UNSUPPORTED):
        return InvalidArgumentError(f"{path} is not supported; leave it out", param=path)
    if _PART_TYPE.fullmatch(path):
        return InvalidArgumentError(
            f"{path}: only parts of text are supported, no images, audio or files",
            param=path,
        )
    plain = words.replace(" | null", "").replace("`", "")[:_MAX_WORDS_CHARS]
    plain = plain[:1].lower() + plain[1:]
    return InvalidArgumentError(f"{path or 'the body'}: {plain}", param=path or None)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
