"""Ids of calls: the request's, which a client may give twice, and a part of our own."""

import uuid

_NUM_OWN_CHARS = 8


def new_call_id(request_id: str) -> str:
    """An id for one call of the request; no two are alike."""
    return f"{request_id}-{uuid.uuid4().hex[:_NUM_OWN_CHARS]}"


def request_id_of(call_id: str) -> str:
    """The request whose call it is; an id that `new_call_id` has not made stays as it is."""
    request_id, dash, own = call_id.rpartition("-")
    return request_id if dash and len(own) == _NUM_OWN_CHARS else call_id
