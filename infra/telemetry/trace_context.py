"""W3C trace context: what travels beside a request so that spans join.

A *carrier* is the set of these headers, by lower-case name. See
https://www.w3.org/TR/trace-context/ and https://www.w3.org/TR/baggage/.

Worked example: `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01` is version
00, the trace's id, the id of the span that asks, and the flags, 01 for sampled.
"""

import re
from collections.abc import Iterable, Mapping

TRACEPARENT = "traceparent"
TRACE_HEADERS = frozenset({TRACEPARENT, "tracestate", "baggage"})
TRACE_RESPONSE = "traceresponse"
"""The header by which a client learns the id of its request's trace."""

# The largest that the standards ask anyone to carry on.
_MAX_CHARS = {"tracestate": 512, "baggage": 8192}
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

Carrier = dict[str, str]


def carrier_in(headers: Iterable[tuple[str, str | bytes]]) -> Carrier | None:
    """The carrier among a request's headers, None where it has none.

    What does not follow the standards is left out: it must not fail a request.
    """
    found: Carrier | None = None
    for name, value in headers:
        if name in TRACE_HEADERS and isinstance(value, str) and _is_valid(name, value):
            found = found or {}
            found[name] = value
    return found


def trace_id_of(carrier: Mapping[str, str]) -> str | None:
    """Id of the trace, 32 hexadecimal digits."""
    parent = carrier.get(TRACEPARENT)
    return None if parent is None else parent[3:35]


def is_sampled(carrier: Mapping[str, str]) -> bool:
    """Whoever sent it records this trace."""
    return bool(int(carrier.get(TRACEPARENT, "0")[-2:], 16) & 1)


def _is_valid(name: str, value: str) -> bool:
    if name == TRACEPARENT:
        return _TRACEPARENT.fullmatch(value) is not None
    return len(value) <= _MAX_CHARS[name] and value.isprintable()
