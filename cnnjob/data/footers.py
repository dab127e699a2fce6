"""The footer of a Parquet file, which says where everything lies in it and has no checksum of its own.

A bit of it that flipped can show one row's label as another's, without an error: 8 of 8,715 flips over a small shard
did, all of them in the footer. Pages have checksums; so a shard's manifest has the footer's.
"""

import pyarrow as pa

_TAIL_BYTES = 1 << 16
"""Read from the end at once, as Arrow does; most footers are smaller."""
_LENGTH_BYTES = 4
_MAGIC_BYTES = 4


def footer_of(file: pa.NativeFile) -> bytes:
    """The bytes of an open file's footer, with their length and the magic number behind them: its end.

    https://parquet.apache.org/docs/file-format/

    Raises:
        ArrowInvalid: The file is shorter than it says that its footer is.
    """
    size = file.size()
    tail = file.read_at(min(size, _TAIL_BYTES), max(0, size - _TAIL_BYTES))
    behind = _LENGTH_BYTES + _MAGIC_BYTES
    length = int.from_bytes(tail[-behind:-_MAGIC_BYTES], "little") + behind
    if length > size:
        raise pa.ArrowInvalid(f"its footer would have {length} bytes, and the file has {size}")
    return bytes(tail[-length:] if length <= len(tail) else file.read_at(length, size - length))
