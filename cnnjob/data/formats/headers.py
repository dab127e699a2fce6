"""What an image file says of itself, read without a decoder: its format, its size, whether its end is missing.

Positions and names are those of the specifications: PNG (W3C), JPEG (ITU-T T.81), GIF89a, WebP (RFC 9649), BMP
(BITMAPFILEHEADER), TIFF 6.0 and BigTIFF.
"""

import re
import struct
from contextlib import suppress

from PIL import Image

from cnnjob.data.formats.tiff import read_directory

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")
_FOREIGN = (
    (b"%PDF-", "pdf"),
    (b"<svg", "svg"),
    (b"\0\0\0\x0cJXL ", "jpeg xl"),
    (b"\xff\x0a", "jpeg xl"),
    (b"v/1\x01", "openexr"),
    (b"gimp xcf", "xcf"),
)
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""A JPEG marker, without those that restart the decoder inside of a scan. Any number of bytes ff may fill up before it,
and only the last is looked for: with all, a run that leads to no marker would be searched from each of its bytes."""


def kind_of(content: bytes) -> str | None:
    """Which of the formats of ``LimitsConfig`` the first bytes are; None for any other."""
    if content.startswith(_PNG):
        return "png"
    if content.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    # Text may begin with BM; the upper bytes of the length of the second header are zero in every version.
    if content.startswith(b"BM") and not content[15:18].strip(b"\0"):
        return "bmp"
    return "tiff" if content.startswith(_TIFF) else None


def foreign(content: bytes) -> str | None:
    """The name of an image format that is never decoded here; None for what is no image."""
    text = content[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, name in _FOREIGN:
        if content.startswith(magic) or text.startswith(magic):
            return name
    if text.startswith(b"<?xml") and b"<svg" in text:
        return "svg"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF:
        return "heif"
    # Only Pillow's tests of the first bytes, never its readers: opening an EPS file would run Ghostscript.
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        # Where it takes more bytes than there are; and Pillow is content with two letters for a BMP, `kind_of` is not.
        with suppress(struct.error, IndexError):
            if accept and accept(content[:16]) and name != "BMP":
                return name.lower()
    return None


def webp_size(content: bytes) -> tuple[int, int]:
    """Width and height of the canvas (RFC 9649, sections 2.5 to 2.7); the decoder allocates it as it opens a file."""
    if content[12:16] == b"VP8X":
        return _little(content[24:27]) + 1, _little(content[27:30]) + 1
    if content[12:16] == b"VP8L":
        bits = _little(content[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(content[26:28]) & 0x3FFF, _little(content[28:30]) & 0x3FFF


def jpeg_scans(content: bytes, start: int, bound: int) -> int:
    """Count the scans of a JPEG file.

    Args:
        content: The file.
        start: Where the data of the first scan begin.
        bound: Counting stops above it.
    """
    # Previews and films behind the end of the picture have markers too, so the quick count is only an upper bound.
    if content.count(b"\xff\xda", start) < bound:
        return 1
    scans = 1
    while scans <= bound and (found := _MARKER.search(content, start)) and found[1] != b"\xd9":
        scans += found[1] == b"\xda"
        start = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
    return scans


def is_cut(kind: str, content: bytes) -> bool:
    """Tell whether a file ends before its own structure does; what is damaged in another way is not cut."""
    match kind:
        case "png":
            return _png_is_cut(content)
        case "jpeg":
            return _jpeg_is_cut(content)
        case "gif":
            return _gif_is_cut(content)
        case "webp":
            return _little(content[4:8]) + 8 > len(content)
        case "bmp":
            return len(content) < 26 or _little(content[2:6]) > len(content)  # noqa: PLR2004 - both headers
        case _:
            return read_directory(content).reach() > len(content)


def _png_is_cut(content: bytes) -> bool:
    """Chunks: length, name, data, checksum; the last one is IEND."""
    at = len(_PNG)
    while at + 8 <= len(content):
        name = content[at + 4 : at + 8]
        if not name.isalpha() or (at == len(_PNG) and name != b"IHDR"):
            return False
        at += 12 + int.from_bytes(content[at : at + 4], "big")
        if name == b"IEND":
            return at > len(content)
    return True


def _jpeg_is_cut(content: bytes) -> bool:
    """Segments up to the first scan, then the marker of the end; a preview before the scan may have one of its own."""
    at = 2
    while found := _MARKER.search(content, at):
        if found[1] < b"\xc0":
            return False
        at = found.end() + int.from_bytes(content[found.end() : found.end() + 2], "big")
        if found[1] == b"\xda":
            return content.find(b"\xff\xd9", at) < 0
    return True


def _gif_is_cut(content: bytes) -> bool:
    """Extensions up to the first frame, and its data, are runs of blocks that each begin with their length."""
    at = 13 + _palette(content[10:11])
    while at < len(content):
        mark = content[at : at + 1]
        if mark == b",":
            return _after_blocks(content, at + 11 + _palette(content[at + 9 : at + 10])) > len(content)
        if mark != b"!":
            return False
        at = _after_blocks(content, at + 2)
    return True


def _palette(flags: bytes) -> int:
    """Bytes of the palette that the flags announce."""
    packed = _little(flags)
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while at < len(content) and content[at]:
        at += 1 + content[at]
    return at + 1


def _little(piece: bytes) -> int:
    return int.from_bytes(piece, "little")
