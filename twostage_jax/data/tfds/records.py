"""The records of the two kinds of file that TFDS prepares without or with TensorFlow.

`array_record` files are read by a C++ library. It checks hashes but takes room for whatever sizes
the file announces, so the headers are walked here first.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import google_crc32c
from array_record.python import array_record_data_source

from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded, open_regular

# Of Riegeli, which array_record writes: a file is a chain of chunks, cut by a block header at every
# multiple of 64 KiB.
BLOCK, BLOCK_HEADER = 2**16, 24
CHUNK_HEADER = struct.Struct("<5Q")  # hash, size, hash of data, kind and records, size expanded
SIGNATURE, METADATA, PADDING, SIMPLE = b"smpr"
AGAIN = "prepare it again"


def read_array_records(path: Path, count: int) -> Sequence[bytes]:
    """The `count` records of an `array_record` file.

    Raises:
        UserError: a file that is damaged, cut off, holds another number of records, or announces
            more bytes than a file of its size can honestly expand to.
    """
    chunks = list(_chunks(path))
    size = path.stat().st_size
    # Each record takes a length of 8 bytes beside its own.
    expanded = sum(chunk.expanded + 8 * chunk.records for chunk in chunks)
    check_expanded(path, expanded, size, "prepare it as tfrecord, which is not compressed")
    # Behind the examples, one chunk points to all of theirs and one to it.
    simple = [chunk for chunk in chunks if chunk.kind == SIMPLE]
    examples, index = simple[:-2], simple[-2:]
    found = sum(chunk.records for chunk in examples)
    if found != count or len(index) < 2 or index[0].records != len(examples) + 1:
        raise UserError(
            f"{path} has {found:,} records and {count:,} are announced, or no index: {AGAIN}"
        )
    if not count:
        return []
    try:
        source = array_record_data_source.ArrayRecordDataSource([str(path)])
        with source:
            if len(source) != count:
                raise ValueError(f"its index has {len(source)} records")
            return source.__getitems__(range(count))
    except Exception as error:  # whatever the C++ library says
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged: {reason}; {AGAIN}") from error


class Chunk(NamedTuple):
    """A chunk's header: its kind, how many records it has, their bytes when expanded."""

    kind: int
    records: int
    expanded: int


def _chunks(path: Path) -> Iterator[Chunk]:
    """The headers of all chunks of a Riegeli file, which must end where the last one does."""
    size = path.stat().st_size
    with open_regular(path) as file:
        start = 0
        while start < size:
            header, end = _read_across(file, start)
            if len(header) < CHUNK_HEADER.size:
                raise UserError(f"{path} is cut off at byte {start}: {AGAIN}")
            _, packed, _, kind, expanded = CHUNK_HEADER.unpack(header)
            end = max(_skip(end, packed), _boundary(start + (kind >> 8)))
            known = (kind & 0xFF) in (SIGNATURE, METADATA, PADDING, SIMPLE)
            if not known or end > size or (start == 0 and kind != SIGNATURE):
                raise UserError(f"{path} is truncated or damaged at byte {start}: {AGAIN}")
            yield Chunk(kind & 0xFF, kind >> 8, expanded)
            start = end


def _read_across(file: IO[bytes], start: int) -> tuple[bytes, int]:
    """A chunk's header, which a block's header may cut in two, and where it ends."""
    content, position = b"", start
    while len(content) < CHUNK_HEADER.size:
        if position % BLOCK == 0:
            position += BLOCK_HEADER
        file.seek(position)
        piece = file.read(min(CHUNK_HEADER.size - len(content), BLOCK - position % BLOCK))
        if not piece:
            break
        content, position = content + piece, position + len(piece)
    return content, position


def _skip(position: int, size: int) -> int:
    """Where `size` bytes from `position` end, block headers not counted among them."""
    if not size:
        return position
    if position % BLOCK == 0:
        position += BLOCK_HEADER
    left = size - (BLOCK - position % BLOCK)
    if left <= 0:
        return position + size
    body = BLOCK - BLOCK_HEADER
    blocks = -(-left // body)
    return (position // BLOCK + 1) * BLOCK + left + blocks * BLOCK_HEADER


def _boundary(position: int) -> int:
    """The first place from `position` where a chunk may begin; each record moves it by a byte."""
    return position + max(0, BLOCK_HEADER - (position - 1) % BLOCK)


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file, each checked against its CRC-32C.

    Raises:
        UserError: a truncated or damaged file.
    """
    with open_regular(path) as file:
        content = memoryview(file.read())
    start = 0
    while start < len(content):
        header, check = content[start : start + 8], content[start + 8 : start + 12]
        size = struct.unpack("<Q", header)[0] if _intact(header, check) else len(content)
        record = content[start + 12 : start + 12 + size]
        check = content[start + 12 + size : start + 16 + size]
        if len(record) != size or not _intact(record, check):
            raise UserError(f"{path} is truncated or damaged at byte {start}: {AGAIN}")
        yield bytes(record)
        start += 16 + size


def _intact(content: memoryview, check: memoryview) -> bool:
    if len(check) != 4:
        return False
    crc = google_crc32c.value(bytes(content))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.unpack("<I", check)[0] == masked
