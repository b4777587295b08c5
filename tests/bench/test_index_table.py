"""The part of the index's bench that needs no other project."""

from tests.bench.index_table import measure_memory


def test_a_block_of_64_holders_takes_at_most_32_bytes() -> None:
    (row,) = measure_memory(sizes=(10_000,), bits=(64,))
    assert row.bytes_per_block <= row.most_bytes_per_block <= 32
    assert row.most_bytes_per_block < row.peak_bytes_per_block < 64
