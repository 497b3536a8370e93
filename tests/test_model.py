"""Checkpoints on the wire, and where a key's records go."""

from __future__ import annotations

import orjson
import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from producer.errors import Misconfigured
from producer.kafka.batches import BATCH_BYTES, into_batches, partition_of
from producer.model import Checkpoint, Cursor, Position, Record, Seen
from producer.zendesk.boundary import REMEMBERED
from tests.test_boundary import checkpoint

seen = st.builds(Seen, st.integers(0, 2**33), st.text(max_size=16), st.text(max_size=16))
seconds, ids = st.integers(0, 2**33), st.integers(1, 2**53)
cursors = st.builds(Cursor, st.none() | st.text(max_size=40), seconds, st.none() | ids, st.booleans())
positions = st.builds(Position, seconds, st.dictionaries(ids, seen, max_size=5), seconds, st.none() | cursors)


@given(positions, st.none() | seconds)
def test_a_checkpoint_comes_back_as_it_was_written(position: Position, first: int | None) -> None:
    written = checkpoint(position).replace(skipped=((1, 2),), caught_up=(5.0, 4), first=first)
    again = Checkpoint.from_bytes(written.to_bytes())
    assert again == written
    assert again.position == position


def test_a_full_map_of_the_longest_ids_fits_into_half_a_megabyte() -> None:
    boundary = {2**63 - n: Seen(2**33, "f" * 16, "f" * 16) for n in range(REMEMBERED)}
    cursor = Cursor("c" * 500, 2**33, 2**63 - 1, pinned=True)
    assert len(checkpoint(Position(2**33, boundary, 0, cursor)).to_bytes()) < 512 * 1024


def test_fields_of_newer_programs_are_kept() -> None:
    raw = orjson.loads(checkpoint(Position(1)).to_bytes())
    again = Checkpoint.from_bytes(orjson.dumps({**raw, "format": 2, "novelty": [1]}))
    assert orjson.loads(again.to_bytes())["novelty"] == [1]


def test_what_was_written_for_another_position_is_void() -> None:
    raw = orjson.loads(checkpoint(Position(9, since=1)).replace(caught_up=(5.0, 1)).to_bytes())
    moved_on = Checkpoint.from_bytes(orjson.dumps({**raw, "seq": 99}))
    assert moved_on.caught_up is None
    assert moved_on.position.since == 9


@pytest.mark.parametrize("value", [b"", b"nonsense", b"[]", b"{}", b'{"min_reader":1}'])
def test_a_corrupt_checkpoint_is_refused_with_the_way_out(value: bytes) -> None:
    with pytest.raises(Misconfigured, match="cannot be read") as caught:
        Checkpoint.from_bytes(value)
    assert "checkpoint set" in caught.value.hint


def test_a_checkpoint_that_only_newer_programs_understand_is_refused() -> None:
    raw = orjson.loads(checkpoint(Position(1)).to_bytes())
    with pytest.raises(Misconfigured, match="reader of format 2"):
        Checkpoint.from_bytes(orjson.dumps({**raw, "min_reader": 2}))


@pytest.mark.parametrize(
    ("key", "hash_"),  # of Kafka's own unit test of murmur2
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_a_key_goes_where_a_java_client_puts_it(key: bytes, hash_: int) -> None:
    assert partition_of(key, 12) == (hash_ & 0x7FFFFFFF) % 12


def test_a_batch_is_never_over_its_limit_unless_one_record_is() -> None:
    values = [b"x" * 400_000] * 5 + [b"x" * (BATCH_BYTES + 1)] + [b"x"]
    batches = into_batches([Record(b"1", value, []) for value in values], 1)
    assert [batch.records for batch in batches] == [2, 2, 1, 1, 1]
    assert [batch.builder.size() > BATCH_BYTES for batch in batches] == [False, False, False, True, False]


records = st.builds(
    Record,
    st.binary(min_size=1, max_size=20),
    st.none() | st.integers(0, 600_000).map(bytes),
    st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=200)), max_size=12),
)


@given(st.lists(records, max_size=40))
def test_every_record_is_in_a_batch_of_its_partition_and_in_order(records: list[Record]) -> None:
    batches = into_batches(records, 3)
    for partition in range(3):
        expected = [record for record in records if partition_of(record.key or b"", 3) == partition]
        built = [bytes(batch.builder._build()) for batch in batches if batch.partition == partition]
        read = [record for each in built for record in DefaultRecordBatch(bytearray(each))]
        assert [(each.key, each.value, each.headers) for each in read] == [
            (each.key, each.value, each.headers) for each in expected
        ]
