"""What a failed call tells beside its status: the standard details of `google.rpc`.

They travel as a `google.rpc.Status` in the trailing metadata.
"""

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"


class StatusDetails(NamedTuple):
    """`param` is the first field that is wrong; `retry_after_s` as in `CoterieError`."""

    param: str | None = None
    retry_after_s: float | None = None


def read_details(trailing: Iterable[tuple[str, str | bytes]] | None) -> StatusDetails:
    """What the metadata says; nothing where it has no details, or garbled ones."""
    for key, value in trailing or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return _read(status_pb2.Status.FromString(value))
            except DecodeError:
                return StatusDetails()
    return StatusDetails()


def _read(status: status_pb2.Status) -> StatusDetails:
    param: str | None = None
    retry_after_s: float | None = None
    bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(bad) and bad.field_violations:
            param = bad.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return StatusDetails(param, retry_after_s)
