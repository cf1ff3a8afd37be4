"""A gzip file read by zlib alone, in time and memory that what is asked for bounds."""

import zlib
from typing import IO, Any

GZIP = 16 + zlib.MAX_WBITS
PIECE = 2**16
# Files put together have some members; of a million empty ones each would cost a copy.
MOST_MEMBERS = 10_000


class Gunzip:
    """What a gzip file holds, read forward; every member's check sum is held to.

    Python's own `gzip` takes a header apart byte by byte in Python, and a name of 100 MB in it
    takes a minute.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._packed = file.read(PIECE)
        if self._packed[:2] != b"\x1f\x8b":
            raise ValueError("Not a gzipped file")
        self._inflate: Any = None
        self._members = 0

    def read(self, size: int) -> bytearray:
        """The next `size` bytes, fewer at the end.

        Raises:
            ValueError, zlib.error: a file that is damaged or cut off.
        """
        content = bytearray()
        while len(content) < size:
            ended = not self._packed and not self._fill()
            if self._inflate is None:
                if ended:
                    break
                self._start()
                continue
            piece = self._inflate.decompress(self._packed, size - len(content))
            content += piece
            self._packed = self._inflate.unconsumed_tail
            if self._inflate.eof:
                self._packed, self._inflate = self._inflate.unused_data, None
            elif ended and not piece:
                raise ValueError("it ends before its gzip stream does")
        return content

    def _fill(self) -> bool:
        self._packed = self._file.read(PIECE)
        return bool(self._packed)

    def _start(self) -> None:
        """Begin the next member, after what zeros there are between two."""
        self._packed = self._packed.lstrip(b"\0")
        if not self._packed:
            return
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise ValueError(f"it is put together of more than {MOST_MEMBERS:,} gzip files")
        self._inflate = zlib.decompressobj(GZIP)
