"""What one request used: the line that billing reads."""

import msgspec


class UsageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request that an engine worked on, finished or not.

    Times are seconds since the epoch. `outcome` is `finished`, `aborted` (the client
    left) or `failed`, then with the error's kind. `record_id` is unique over all
    records: lines that were copied twice count once.
    """

    record_id: str
    request_id: str
    tenant: str
    model: str
    started_s: float
    ended_s: float
    outcome: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    priority: str = "normal"
    adapter: str | None = None
    door: str | None = None
    error: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(UsageRecord)


def encode_record(record: UsageRecord) -> bytes:
    """One line of JSON, with its end."""
    return _encoder.encode(record) + b"\n"


def decode_record(line: bytes) -> UsageRecord:
    """Inverse of `encode_record`. Raises msgspec.DecodeError for a broken line."""
    return _decoder.decode(line)
