"""Image files byte by byte: what no encoder would write."""

import io
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
KINDS = ("png", "jpeg", "gif", "webp", "bmp", "tiff")


def picture(height: int = 40, width: int = 48, channels: int = 3) -> Image.Image:
    """A gradient with noise, so that every format has data up to its end."""
    y, x = np.mgrid[:height, :width]
    planes = [x * 255 // width, y * 255 // height, (x + y) % 256, 255 - x * 255 // width][:channels]
    noise = np.random.default_rng(0).integers(0, 32, (height, width, channels))
    pixels = np.clip(np.stack(planes, axis=-1) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    width: int, height: int, depth: int, color: int, *before: bytes, rows: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of the given header; `rows` with their filter bytes, uncompressed."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows, 1))
    return PNG_MAGIC + header + b"".join(before) + data + after + chunk(b"IEND", b"")


def png_rows(pixels: np.ndarray) -> bytes:
    """Rows of bytes (H x bytes) without a filter."""
    return np.pad(pixels, ((0, 0), (1, 0))).tobytes()


def tiff(tags: dict[int, int | tuple[int, ...]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF of the given tags, with all data in one strip, or in one tile where there are tags of tiles."""
    places = {324: 0, 325: len(data)} if 322 in tags else {273: 0, 279: len(data)}
    entries = sorted(({**places, **tags}).items())
    end = 8 + 2 + 12 * len(entries) + 4
    body = b""
    directory = struct.pack(order + "H", len(entries))
    for tag, given in entries:
        values = given if isinstance(given, tuple) else (given,)
        code, kind = ("H", 3) if max(values) < 1 << 16 and tag not in (273, 324) else ("I", 4)
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            packed, body = struct.pack(order + "I", end + len(body)), body + packed
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    strip = struct.pack(order + "I", end + len(body))
    for tag in (273, 324):
        directory = directory.replace(
            struct.pack(order + "HHII", tag, 4, 1, 0), struct.pack(order + "HHI", tag, 4, 1) + strip
        )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + directory + b"\0\0\0\0" + body + data


def gif(screen: tuple[int, int], frame: tuple[int, int], before: bytes = b"") -> bytes:
    """A GIF with one frame that has hardly any data."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + before + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\2\2\x4c\1\0;"


def bmp(width: int, height: int, data: bytes = b"") -> bytes:
    """A BMP of 24 bits."""
    size = 54 + len(data)
    return (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", size, 0, 54, 40, width, height, 1, 24, 0, len(data), 0, 0, 0, 0) + data
    )


def webp(name: bytes, data: bytes) -> bytes:
    """A WebP of one chunk."""
    body = b"WEBP" + name + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment, a scan with its data."""
    at = 2
    while (found := MARKER.search(content, at)) and found[1] != b"\xd9":
        after = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
        at = MARKER.search(content, after).start() if found[1] == b"\xda" else after
        yield found[1][0], content[found.start() : at]


def jpeg_of_scans(content: bytes, count: int) -> bytes:
    """A progressive JPEG with its last scan repeated until there are so many."""
    segments = list(jpeg_segments(content))
    scans = [index for index, (marker, _) in enumerate(segments) if marker == 0xDA]
    last = b"".join(data for _, data in segments[scans[-2] + 1 :])
    return b"\xff\xd8" + b"".join(data for _, data in segments) + last * (count - len(scans)) + b"\xff\xd9"
