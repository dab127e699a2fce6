"""Any image -> the canonical form: uint8, channels x height x width. The one place that does it (law 4).

Resampling is Pillow's. What cannot be brought to the canonical form is a ``Refusal`` with one of the reasons in
``schema.REASONS``, never an exception and never a guess. Encoded files become pixels in ``encoded``.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image

from cnnjob.config.prepare import ImageConfig

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_LONG = 1 << 16
"""Pixels of a side. A filter's table takes 16 bytes x its support for each: 0.8 GB for a strip of 16 million."""

_ROOM = 1 << 22
"""Pixels between the two passes of a resize, 4 bytes each, where a larger source does not ask for more."""


@dataclass(frozen=True)
class Refusal:
    """Why a row is refused: one of ``schema.REASONS``, and the detail for people."""

    reason: str
    detail: str


def canonical(pixels: np.ndarray | Image.Image, image: ImageConfig) -> np.ndarray | Refusal:
    """Bring pixels to the canonical form.

    Args:
        pixels: uint8 H x W (gray) or H x W x 3 (RGB), or a picture of mode L or RGB.
        image: The form asked for.

    Returns:
        uint8 C x H x W in one block of memory, or the refusal.
    """
    height, width = pixels.shape[:2] if isinstance(pixels, np.ndarray) else (pixels.height, pixels.width)
    if (height, width) == (image.height, image.width):
        return np.ascontiguousarray(_planes(pixels, image.color))
    fitted = _fit(pixels, height, width, image)
    return fitted if isinstance(fitted, Refusal) else np.ascontiguousarray(fitted)


def _fit(pixels: np.ndarray | Image.Image, height: int, width: int, image: ImageConfig) -> np.ndarray | Refusal:
    match image.resize:
        case "exact":
            return Refusal("wrong_size", f"{height}x{width}, not {image.height}x{image.width}, and resize is exact")
        case "stretch":
            return _planes(_scale(pixels, image.height, image.width, image.filter), image.color)
        case "pad":
            if height > image.height or width > image.width:
                detail = f"{height}x{width} is larger than {image.height}x{image.width}, and resize is pad"
                return Refusal("wrong_size", detail)
            return _pad(_planes(pixels, image.color), image.height, image.width)
        case "fit_pad":
            ratio = min(image.height / height, image.width / width)
            inner = _scale(pixels, _side(height, ratio, image.height), _side(width, ratio, image.width), image.filter)
            return _pad(_planes(inner, image.color), image.height, image.width)
        case "center_crop":
            box = _seen(height, width, image)
            return _planes(_scale(pixels, image.height, image.width, image.filter, box), image.color)


def _seen(height: int, width: int, image: ImageConfig) -> tuple[float, float, float, float]:
    """The part of a picture that a centre crop shows: left, top, right, bottom. Scaling all of a strip takes gigabytes.

    Bounded by the picture: by rounding alone it would reach beyond it, and Pillow refuses that.
    """
    ratio = max(image.height / height, image.width / width)
    seen_h, seen_w = image.height / ratio, image.width / ratio
    left, top = max(0.0, (width - seen_w) / 2), max(0.0, (height - seen_h) / 2)
    return left, top, min(width, left + seen_w), min(height, top + seen_h)


def _side(length: int, ratio: float, bound: int) -> int:
    return min(bound, max(1, round(length * ratio)))


def _scale(
    pixels: np.ndarray | Image.Image,
    height: int,
    width: int,
    name: str,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Scale a box of the picture; what is done follows from the sizes alone."""
    picture = _picture(pixels)
    left, top, right, bottom = box or (0, 0, *picture.size)
    across, down = ceil((right - left) / _LONG), ceil((bottom - top) / _LONG)
    if name != "nearest" and (across > 1 or down > 1):
        # Means over whole pixels first: beyond this length no filter sees single pixels anyway.
        picture = picture.reduce((across, down))
        left, top, right, bottom = left / across, top / down, right / across, bottom / down
    if width > picture.width and width * (bottom - top) > _ROOM:
        # Pillow goes across first: 1 x 16 million to 32 x 32 would be 32 x 16 million in between.
        picture = picture.resize((picture.width, height), _FILTERS[name], (0, top, picture.width, bottom))
        top, bottom = 0, height
    return picture.resize((width, height), _FILTERS[name], (left, top, right, bottom))


def _picture(pixels: np.ndarray | Image.Image) -> Image.Image:
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)


def _pad(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Black on all sides; an odd remainder goes to the right and to the bottom."""
    channels, inner_h, inner_w = planes.shape
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    padded = np.zeros((channels, height, width), dtype=np.uint8)
    padded[:, top : top + inner_h, left : left + inner_w] = planes
    return padded


def _planes(pixels: np.ndarray | Image.Image, color: str) -> np.ndarray:
    """Channels first, as a view: the copy is made once, at the end."""
    if color == "gray" and (pixels.mode == "RGB" if isinstance(pixels, Image.Image) else pixels.ndim == 3):  # noqa: PLR2004 - H x W x 3
        pixels = _picture(pixels).convert("L")
    values = np.asarray(pixels)
    if values.ndim == 3:  # noqa: PLR2004 - H x W x 3
        return values.transpose(2, 0, 1)
    return np.broadcast_to(values, (1 if color == "gray" else 3, *values.shape))
