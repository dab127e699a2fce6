"""The first directory of a TIFF file (TIFF 6.0, section 2; BigTIFF), read without decoding anything.

Pillow makes an object for every strip and libtiff a buffer of a whole one, whatever the picture's own size is: what the
directory asks for is known here before either sees the file.
"""

import struct
from dataclasses import dataclass

WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, ROWS_PER_STRIP = 256, 257, 258, 262, 274, 277, 278
STRIPS, STRIP_BYTES, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES = 273, 279, 322, 323, 324, 325
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "Q", 6: "B", 7: "B", 8: "H", 9: "I", 10: "Q", 11: "I", 12: "Q", 13: "I"}
_BIG_CODES = {16: "Q", 17: "Q", 18: "Q"}


@dataclass(frozen=True)
class Directory:
    """The tags of one picture."""

    content: bytes
    order: str
    tags: dict[int, tuple[str, int, int]]
    """Tag -> code of its type, number of values, place of the first one."""
    end: int
    """Where the directory ends."""

    def count(self, tag: int) -> int:
        """The number of values."""
        return self.tags[tag][1] if tag in self.tags else 0

    def values(self, tag: int) -> tuple[int, ...]:
        """All values; none where the tag is missing or the file ends before the last of them."""
        code, count, at = self.tags.get(tag, ("B", 0, 0))
        if at + struct.calcsize("=" + code) * count > len(self.content):
            return ()
        return struct.unpack_from(f"{self.order}{count}{code}", self.content, at)

    def first(self, tag: int, default: int) -> int:
        """The first value."""
        code, count, at = self.tags.get(tag, ("B", 0, 0))
        return _number(self.content, self.order + code, at) if count else default

    @property
    def blocks(self) -> int:
        """The number of strips or tiles."""
        return max(self.count(STRIPS), self.count(TILES))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.first(WIDTH, 0), self.first(HEIGHT, 0)

    @property
    def block(self) -> tuple[int, int]:
        """Width and height of a strip or tile: what is decoded at once. A tile may be larger than the picture."""
        width, height = self.size
        if TILE_WIDTH in self.tags or TILE_HEIGHT in self.tags:
            return self.first(TILE_WIDTH, width), self.first(TILE_HEIGHT, height)
        return width, min(height, self.first(ROWS_PER_STRIP, height))

    @property
    def block_bytes(self) -> int:
        """Bytes of a decoded strip or tile."""
        width, height = self.block
        return width * height * self.first(SAMPLES, 1) * self.first(BITS, 1) // 8

    def reach(self) -> int:
        """The furthest byte that the directory speaks of; a file that ends before it is cut."""
        ends = [at + struct.calcsize("=" + code) * count for code, count, at in self.tags.values()]
        for places, sizes in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES)):
            ends += [at + size for at, size in zip(self.values(places), self.values(sizes), strict=False)]
        return max([self.end, *ends])


def read_directory(content: bytes) -> Directory:
    """Read the first directory; where the file ends within it, the tags that are there."""
    order = "<" if content.startswith(b"II") else ">"
    big = b"+" in content[2:4]
    word, head, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    codes = _CODES | _BIG_CODES if big else _CODES
    start = _number(content, order + word, 8 if big else 4)
    if start == 0:
        return Directory(content, order, {}, 16 if big else 8)
    first = start + struct.calcsize("=" + head)
    declared = _number(content, order + head, start)
    stride, inside = (20, 8) if big else (12, 4)
    tags: dict[int, tuple[str, int, int]] = {}
    # The classic form has room for 65,535 entries; nobody writes more in the other one.
    for index in range(min(declared, 65535, max(0, len(content) - first) // stride)):
        at = first + index * stride
        tag, kind, count = struct.unpack_from(order + entry, content, at)
        code, place = codes.get(kind, "B"), at + stride - inside
        if struct.calcsize("=" + code) * count > inside:
            place = _number(content, order + word, place)
        tags.setdefault(tag, (code, count, place))
    return Directory(content, order, tags, first + declared * stride)


def _number(content: bytes, code: str, at: int) -> int:
    """One number; 0 where the file ends before it."""
    size = struct.calcsize(code)
    piece = content[at : at + size]
    return int(struct.unpack(code, piece)[0]) if len(piece) == size else 0
