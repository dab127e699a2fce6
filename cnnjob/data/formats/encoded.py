"""Encoded image files -> canonical pixels, or the reason why not. No other module hands foreign bytes to Pillow.

What a file may cost is bounded before a decoder runs: its bytes, its pixels, the scans of a JPEG, the strips and tiles
of a TIFF. While it is decoded it takes up to 12 bytes a pixel. Of an animation only the first frame is decoded.
"""

import re
import warnings

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal, canonical
from cnnjob.data.formats import tiff
from cnnjob.data.formats.headers import foreign, is_cut, jpeg_scans, kind_of, webp_size
from cnnjob.data.formats.plain import decode_plain
from cnnjob.data.formats.readers import SAYS_ORIENTATION, CrowdedError, flat, open_file, upright

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L"}
_BOMBS = (MemoryError, Image.DecompressionBombError)

_MAX_SCANS = 256
"""A scan of a JPEG goes over the whole picture again. libjpeg writes 10, and one for each coefficient of three
components would be 192; 256 take 2 s at 16 million pixels, and a file of 20 MB has room for 350,000 empty ones."""

_MAX_BLOCKS = 1 << 16
"""Strips or tiles of a TIFF file: Pillow keeps some 300 bytes for each."""

_BLOCK_BYTES = 8
"""Bytes for each allowed pixel in a single strip or tile, which libtiff decodes as a whole: 4 channels of 16 bits."""


def decode(content: bytes, image: ImageConfig, limits: LimitsConfig) -> np.ndarray | Refusal:
    """Decode an image file and bring it to the canonical form.

    The format is what the first bytes say. EXIF's orientation is applied, the background shows where the picture is
    transparent, 16-bit gray loses its lower 8 bits.

    Args:
        content: The file.
        image: The form asked for, and the background.
        limits: What is decoded at all.

    Returns:
        uint8 C x H x W in one block of memory, or the refusal: no file makes this function raise or warn.
    """
    kind = kind_of(content)
    if kind not in limits.formats or len(content) > limits.max_bytes:
        return _turn_away(content, kind, limits)
    try:
        picture: np.ndarray | Image.Image | Refusal | None = decode_plain(kind, content, limits.max_pixels)
        if picture is None:
            picture = _read_quietly(kind, content, image, limits)
        return picture if isinstance(picture, Refusal) else canonical(picture, image)
    except _BOMBS as error:
        return Refusal("too_many_pixels", _line(kind, error))


def _turn_away(content: bytes, kind: str | None, limits: LimitsConfig) -> Refusal:
    if not content:
        return Refusal("empty", "0 bytes")
    if len(content) > limits.max_bytes:
        return Refusal("too_many_bytes", f"{len(content)} bytes, above the limit of {limits.max_bytes}")
    name = kind or foreign(content)
    if name is None:
        return Refusal("not_an_image", f"begins with {content[:8]!r}, like no known image format")
    return Refusal("format_not_allowed", f"{name}, and the formats are {', '.join(limits.formats)}")


def _read_quietly(
    kind: str, content: bytes, image: ImageConfig, limits: LimitsConfig
) -> Image.Image | np.ndarray | Refusal:
    # Threads that overlap may leave the filter behind; it is about Pillow alone.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        # Pillow warns above this and raises at twice as much; what it only warns of is refused by its size here.
        Image.MAX_IMAGE_PIXELS = limits.max_pixels
        return _read(kind, content, image, limits)


def _read(kind: str, content: bytes, image: ImageConfig, limits: LimitsConfig) -> Image.Image | np.ndarray | Refusal:
    try:
        refusal = _refuse_unopened(kind, content, limits)
        if refusal is not None:
            return refusal
        picture = open_file(kind, content)
        refusal = _refuse_unloaded(picture, kind, content, limits)
        if refusal is not None:
            return refusal
        picture.load()
        return flat(upright(picture, kind, content), image.background)
    except _BOMBS:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise nearly anything
        cut = not isinstance(error, CrowdedError) and is_cut(kind, content)
        return Refusal("truncated" if cut else "unreadable", _line(kind, error))


def _refuse_unopened(kind: str, content: bytes, limits: LimitsConfig) -> Refusal | None:
    """What must be known before Pillow opens a file: a WebP's canvas, and what a TIFF's directory asks for."""
    if kind == "webp":
        return _refuse_size(webp_size(content), limits)
    if kind != "tiff":
        return None
    directory = tiff.read_directory(content)
    if directory.blocks > _MAX_BLOCKS:
        return Refusal("unreadable", f"tiff: {directory.blocks} strips or tiles, above the limit of {_MAX_BLOCKS}")
    if directory.block_bytes > _BLOCK_BYTES * limits.max_pixels:
        width, height = directory.block
        detail = f"a strip or tile of {height}x{width}: {directory.block_bytes} bytes, above the limit of "
        return Refusal("too_many_pixels", f"{detail}{_BLOCK_BYTES} for each of {limits.max_pixels} pixels")
    return _refuse_size(directory.size, limits)


def _refuse_unloaded(picture: ImageFile, kind: str, content: bytes, limits: LimitsConfig) -> Refusal | None:
    """What the opened file says before its pixels are decoded."""
    if kind == "tiff" and picture.mode.startswith("I;16"):
        directory = tiff.read_directory(content)
        if directory.first(tiff.BITS, 16) != 16 or directory.first(tiff.PHOTOMETRIC, 1) == 0:  # noqa: PLR2004 - bits
            # Pillow hands out 12 bits as they are, and white as 0.
            return Refusal("mode_not_supported", f"{picture.mode} with other bits than 16, or with white as 0")
    if picture.mode not in _MODES:
        return Refusal("mode_not_supported", f"{picture.mode}, which has no exact form in 8 bits")
    if kind == "jpeg" and jpeg_scans(content, picture.fp.tell() if picture.fp else 0, _MAX_SCANS) > _MAX_SCANS:
        return Refusal("unreadable", f"jpeg: more than {_MAX_SCANS} scans")
    return _refuse_size(picture.size, limits, _size_held(picture, kind))


def _size_held(picture: ImageFile, kind: str) -> tuple[int, int]:
    """Width and height as memory counts them: the picture's own, but for strips of a pixel or two."""
    width, height = picture.size
    plain = picture.mode in ("L", "RGB") and "transparency" not in picture.info
    if not plain or kind == "tiff" or not SAYS_ORIENTATION.isdisjoint(picture.info):
        # Pillow keeps 8 bytes for each row, and what is converted or turned exists twice.
        width = max(width, 4)
    if kind == "png" and any("16" in str(tile.args) for tile in picture.tile):
        # The decoder holds two rows, here of up to 8 bytes a pixel.
        height = max(height, 2)
    return width, height


def _refuse_size(size: tuple[int, int], limits: LimitsConfig, held: tuple[int, int] | None = None) -> Refusal | None:
    width, height = held or size
    if width * height <= limits.max_pixels:
        return None
    said = f"{size[1]}x{size[0]}" if held in (None, size) else f"{size[1]}x{size[0]}, held as {height}x{width}"
    return Refusal("too_many_pixels", f"{said}: {width * height} pixels, above the limit of {limits.max_pixels}")


def _line(kind: str, error: BaseException) -> str:
    """One line for people, the same each time: no control characters and no addresses of objects."""
    text = re.sub(r" at 0x[0-9a-f]+", "", str(error) or type(error).__name__)
    return f"{kind}: {re.sub(r'[^ -~]+', ' ', text)}"[:200]
