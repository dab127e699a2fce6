"""The plain majority of image files, decoded by libjpeg-turbo and libpng without a detour over Pillow's objects.

Plain is a baseline JPEG of one scan, gray or YCbCr, and a PNG of 8 bits a channel, gray or RGB: no EXIF, no
transparency, no palette, no interlacing, nothing behind the end. Their pixels are bit for bit those that Pillow would
give; whatever is not plain to the last byte, or does not decode, is left to Pillow (``encoded``), as is every refusal.
"""

import logging
import re
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np

# Warnings are Pillow's to give, or nobody's.
logging.getLogger("imagecodecs").setLevel(logging.CRITICAL)

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""What ends the data of a JPEG's scan: any marker but those that restart the decoder."""

_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_SIZES = {b"gAMA": 4, b"pHYs": 9, b"sRGB": 1, b"cHRM": 32}
"""Chunks beside the pixels that say nothing about them here, and their sizes."""


def decode_plain(kind: str, content: bytes, max_pixels: int) -> np.ndarray | None:
    """Decode a plain file.

    Args:
        kind: Its format, as in ``LimitsConfig``.
        content: The file.
        max_pixels: A larger picture is not decoded.

    Returns:
        uint8 H x W (gray) or H x W x 3 (RGB); None for a file that is not plain.
    """
    match kind:
        case "jpeg" if 0 < _jpeg_pixels(content) <= max_pixels:
            return _decoded(imagecodecs.jpeg8_decode, content)
        case "png" if 0 < _png_pixels(content) <= max_pixels:
            return _decoded(imagecodecs.png_decode, content)
    return None


def _decoded(decoder: Callable[[bytes], np.ndarray], content: bytes) -> np.ndarray | None:
    try:
        return decoder(content)
    except Exception:  # noqa: BLE001 - whatever it is, Pillow has the word on damaged files
        return None


def _jpeg_pixels(content: bytes) -> int:
    """Pixels of a plain JPEG (ITU-T T.81, annex B); 0 for any other."""
    at, pixels, components = 2, 0, 0
    while at + 4 <= len(content) and content[at] == 0xFF:  # noqa: PLR2004 - where a marker begins
        name, size = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        segment = content[at + 4 : at + 2 + size]
        at += 2 + size
        match name:
            case 0xC0 if not pixels and len(segment) in (9, 15):
                components = segment[5]
                if segment[0] != 8 or len(segment) != 6 + 3 * components or segment[6::3] != b"\1\2\3"[:components]:  # noqa: PLR2004 - bits
                    return 0
                pixels = int.from_bytes(segment[1:3], "big") * int.from_bytes(segment[3:5], "big")
            case 0xE0 if segment.startswith(b"JFIF\0") and len(segment) >= 14:  # noqa: PLR2004 - T.871
                pass
            case 0xC4 | 0xDB | 0xDD:
                pass
            case 0xDA if pixels and len(segment) == 4 + 2 * components:
                end = _MARKER.search(content, at)
                whole = end is not None and end[0] == b"\xff\xd9" and end.end() == len(content)
                return pixels if whole else 0
            case _:
                return 0
    return 0


def _png_pixels(content: bytes) -> int:
    """Pixels of a plain PNG (W3C PNG, section 11); 0 for any other."""
    at = len(_PNG_START)
    if not content.startswith(_PNG_START) or not content.endswith(_PNG_END):
        return 0
    # 8 bits; gray or RGB; the only compression and filter method; not interlaced.
    if content[at + 8 : at + 13] not in (b"\x08\x00\0\0\0", b"\x08\x02\0\0\0"):
        return 0
    width, height = (int.from_bytes(content[here : here + 4], "big") for here in (at, at + 4))
    at, end = 8, len(content) - len(_PNG_END)
    while at < end:
        size, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        after = at + 12 + size
        if name not in (b"IHDR", b"IDAT") and _PNG_SIZES.get(name) != size:
            return 0
        # Of a sum that is wrong in any chunk Pillow has its own opinion.
        if zlib.crc32(content[at + 4 : after - 4]) != int.from_bytes(content[after - 4 : after], "big"):
            return 0
        at = after
    return width * height if at == end else 0
