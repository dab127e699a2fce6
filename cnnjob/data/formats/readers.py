"""Pillow's readers of the six formats, each with what it does too much of taken away; then upright, flat pictures.

The readers are called by name: ``Image.open`` would also try a JPEG as a stereo picture, and of what it cannot read it
says no more than that. An opened file is not yet decoded; only the canvas of a WebP is allocated already.
"""

import io
from contextlib import suppress

import numpy as np
from PIL import Image, PngImagePlugin
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cnnjob.data.formats import tiff

SAYS_ORIENTATION = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""What Pillow knows of a picture whose orientation it may know."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what turns the picture upright."""

_MAX_READS = 1 << 18
"""Pillow keeps an object of some 100 bytes for a segment or chunk that takes 4 to 12 in the file."""

_MAX_TEXT = 1 << 24
"""Characters of unpacked text in a PNG, up to 4 bytes each; Pillow would allow four times as many."""

_STEPS = {"L;2": 85, "L;4": 17}
"""Gray of 2 and 4 bits -> what a step is in 8 bits."""


class CrowdedError(Exception):
    """A file consists of more pieces than any camera or program writes."""


def open_file(kind: str, content: bytes) -> ImageFile:
    """Read the header of a file of a format of ``LimitsConfig``.

    Raises:
        CrowdedError: There is no end to its pieces.
        Exception: Whatever Pillow's plugin raises on bytes that it cannot read.
    """
    # The run lengths of a BMP are read one by one, and nothing is kept of them.
    return _READERS[kind](io.BytesIO(content) if kind == "bmp" else _Reader(content))


class _Reader(io.BytesIO):
    """Bounds how often a plugin reads, and with that what it keeps."""

    reads_left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise CrowdedError(f"the file consists of more than {_MAX_READS} pieces")
        return super().read(size)


class _Png(PngImagePlugin.PngImageFile):
    def _open(self) -> None:
        PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT
        super()._open()
        key = self.info.get("transparency")
        if key is None or not self.tile:
            return
        # The transparent value is in the file's own depth, and Pillow compares it with 8 bits.
        raw = self.tile[0].args
        if raw in _STEPS:
            self.info["transparency"] = key * _STEPS[raw]
        elif raw == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in key)

    def load_end(self) -> None:
        # What follows the pixels, such as a broken comment, does not spoil them.
        with suppress(Exception):
            super().load_end()


class _Jpeg(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Not wanted, and malformed EXIF would make it raise."""


class _WebP(WebPImageFile):
    def _get_next(self) -> tuple[bytes, int, int]:
        # The decoder holds two canvases, and no second frame will be asked for.
        frame = super()._get_next()
        self._decoder = None
        return frame


class _Tiff(TiffImageFile):
    def load_end(self) -> None:
        # Pillow's own reads EXIF and turns the picture while libtiff's buffer is still there. Its size is already that
        # of the turned picture.
        self._size = self.im.size


_READERS: dict[str, type[ImageFile]] = {
    "png": _Png,
    "jpeg": _Jpeg,
    "gif": GifImageFile,
    "webp": _WebP,
    "bmp": BmpImageFile,
    "tiff": _Tiff,
}


def upright(picture: Image.Image, kind: str, content: bytes) -> Image.Image:
    """Turn a decoded picture as EXIF says."""
    turn = _UPRIGHT.get(_orientation(picture, kind, content))
    return picture if turn is None else picture.transpose(turn)


def _orientation(picture: Image.Image, kind: str, content: bytes) -> int:
    """EXIF's orientation, 1 to 8; what is malformed says nothing."""
    if kind == "tiff":
        return tiff.read_directory(content).first(tiff.ORIENTATION, 1)
    if SAYS_ORIENTATION.isdisjoint(picture.info):
        return 1
    try:
        return int(picture.getexif().get(tiff.ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - there is no end to what Pillow raises on malformed EXIF
        return 1


def flat(picture: Image.Image, background: tuple[int, int, int]) -> Image.Image | np.ndarray:
    """Gray or RGB of 8 bits; a picture with transparency is laid over the background."""
    if picture.mode.startswith("I;16"):
        return _flat_16(np.asarray(picture), picture.info.get("transparency"), background)
    if picture.has_transparency_data:
        layer = picture if picture.mode in ("LA", "RGBA") else picture.convert("RGBA")
        below = Image.new("RGB", picture.size, background)
        below.paste(layer, mask=layer)
        return below
    if picture.mode in ("L", "RGB"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _flat_16(values: np.ndarray, key: int | None, background: tuple[int, int, int]) -> np.ndarray:
    """16-bit gray, of which one value may be transparent."""
    gray = (values >> 8).astype(np.uint8)
    if key is None:
        return gray
    return np.where((values == key)[..., None], np.array(background, dtype=np.uint8), gray[..., None])
