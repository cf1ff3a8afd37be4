"""Read the records in the two kinds of files that TFDS prepares.

A C++ library reads `array_record` files. It verifies hashes, but it allocates whatever sizes the
file announces, so this module checks the headers of all chunks first.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import google_crc32c
from array_record.python import array_record_data_source

from twostage_jax.errors import UserError
from twostage_jax.files import check_expanded, open_regular

# array_record writes Riegeli files: a file is a chain of chunks, and a block header interrupts it
# at every multiple of 64 KiB.
BLOCK = 2**16
BLOCK_HEADER = 24
CHUNK_HEADER = struct.Struct("<5Q")  # hash, size, hash of data, kind and records, size expanded
SIGNATURE, METADATA, PADDING, SIMPLE = b"smpr"
AGAIN = "prepare it again"


class Chunk(NamedTuple):
    """Header of a chunk: kind, number of records, and their size in bytes when expanded."""

    kind: int
    records: int
    expanded: int


def read_array_records(path: Path, count: int) -> Sequence[bytes]:
    """Read the `count` records of an `array_record` file.

    Raises:
        UserError: a file that is corrupted or truncated, has another number of records, or
            announces more bytes than `check_expanded` allows.
    """
    chunks = list(_read_chunks(path))
    # Each record takes 8 bytes for its length beside its content.
    expanded = sum(chunk.expanded + 8 * chunk.records for chunk in chunks)
    size = path.stat().st_size
    check_expanded(path, expanded, size, "prepare it as tfrecord, which is not compressed")
    # Two chunks follow the examples: an index of their chunks, and a pointer to this index.
    simple = [chunk for chunk in chunks if chunk.kind == SIMPLE]
    examples = simple[:-2]
    index = simple[-2:]
    actual = sum(chunk.records for chunk in examples)
    if actual != count or len(index) < 2 or index[0].records != len(examples) + 1:
        raise UserError(
            f"{path} has {actual:,} records and {count:,} are announced, or no index: {AGAIN}"
        )
    if not count:
        return []
    try:
        with array_record_data_source.ArrayRecordDataSource([str(path)]) as source:
            if len(source) != count:
                raise ValueError(f"its index has {len(source)} records")
            return source.__getitems__(range(count))
    except Exception as error:  # the C++ library may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is corrupted: {reason}; {AGAIN}") from error


def _read_chunks(path: Path) -> Iterator[Chunk]:
    """Yield the headers of all chunks of a Riegeli file, which must end with its last chunk."""
    size = path.stat().st_size
    with open_regular(path) as file:
        start = 0
        while start < size:
            header, end = _read_header(file, start)
            if len(header) < CHUNK_HEADER.size:
                raise UserError(f"{path} is truncated at byte {start}: {AGAIN}")
            _, compressed, _, kind_and_records, expanded = CHUNK_HEADER.unpack(header)
            kind = kind_and_records & 0xFF
            records = kind_and_records >> 8
            # The format reserves at least a byte of the file for each record of a chunk.
            end = max(_skip(end, compressed), _next_chunk(start + records))
            is_valid = kind in (SIGNATURE, METADATA, PADDING, SIMPLE)
            if not is_valid or end > size or (start == 0 and kind != SIGNATURE):
                raise UserError(f"{path} is truncated or corrupted at byte {start}: {AGAIN}")
            yield Chunk(kind, records, expanded)
            start = end


def _read_header(file: BinaryIO, start: int) -> tuple[bytes, int]:
    """Read a chunk header, which a block header may interrupt; return it and its end."""
    content = b""
    position = start
    while len(content) < CHUNK_HEADER.size:
        if position % BLOCK == 0:
            position += BLOCK_HEADER
        file.seek(position)
        piece = file.read(min(CHUNK_HEADER.size - len(content), BLOCK - position % BLOCK))
        if not piece:
            break
        content += piece
        position += len(piece)
    return content, position


def _skip(position: int, size: int) -> int:
    """Return the end of `size` bytes from `position`, where block headers do not count."""
    if not size:
        return position
    if position % BLOCK == 0:
        position += BLOCK_HEADER
    left = size - (BLOCK - position % BLOCK)
    if left <= 0:
        return position + size
    blocks = -(-left // (BLOCK - BLOCK_HEADER))
    return (position // BLOCK + 1) * BLOCK + left + blocks * BLOCK_HEADER


def _next_chunk(position: int) -> int:
    """Return the first position from `position` at which a chunk may begin."""
    return position + max(0, BLOCK_HEADER - (position - 1) % BLOCK)


def read_tfrecord(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file, each verified by its CRC-32C.

    Raises:
        UserError: a truncated or corrupted file.
    """
    with open_regular(path) as file:
        content = memoryview(file.read())
    start = 0
    while start < len(content):
        header = content[start : start + 8]
        size = len(content)  # more than there can be, if the header is corrupted
        if _is_intact(header, content[start + 8 : start + 12]):
            (size,) = struct.unpack("<Q", header)
        end = start + 12 + size
        record = content[start + 12 : end]
        if len(record) != size or not _is_intact(record, content[end : end + 4]):
            raise UserError(f"{path} is truncated or corrupted at byte {start}: {AGAIN}")
        yield bytes(record)
        start = end + 4


def _is_intact(content: memoryview, check: memoryview) -> bool:
    if len(check) != 4:
        return False
    crc = google_crc32c.value(bytes(content))
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.unpack("<I", check)[0] == masked
