"""Any image -> the canonical form: uint8, channels x height x width. The one place that does it (law 4).

Resampling is Pillow's. What cannot be brought to the canonical form is a ``Refusal`` with one of the reasons in
``schema.REASONS``, never an exception and never a guess.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cnnjob.config.prepare import ImageConfig

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Refusal:
    """Why a row is refused: one of ``schema.REASONS``, and the detail for people."""

    reason: str
    detail: str


def canonical(pixels: np.ndarray, image: ImageConfig) -> np.ndarray | Refusal:
    """Bring pixels to the canonical form.

    Args:
        pixels: uint8 H x W (gray) or H x W x 3 (RGB).
        image: The form asked for.

    Returns:
        uint8 C x H x W in one block of memory, or the refusal.
    """
    height, width = pixels.shape[:2]
    sized = pixels
    if (height, width) != (image.height, image.width):
        fitted = _fit(pixels, image)
        if isinstance(fitted, Refusal):
            return fitted
        sized = fitted
    return _channels_first(sized, image.color)


def _fit(pixels: np.ndarray, image: ImageConfig) -> np.ndarray | Refusal:
    height, width = pixels.shape[:2]
    match image.resize:
        case "exact":
            return Refusal("wrong_size", f"{height}x{width}, not {image.height}x{image.width}, and resize is exact")
        case "stretch":
            return _scale(pixels, image.height, image.width, image.filter)
        case "pad":
            if height > image.height or width > image.width:
                detail = f"{height}x{width} is larger than {image.height}x{image.width}, and resize is pad"
                return Refusal("wrong_size", detail)
            return _pad(pixels, image.height, image.width)
        case "fit_pad":
            ratio = min(image.height / height, image.width / width)
            inner = _scale(pixels, _side(height, ratio, image.height), _side(width, ratio, image.width), image.filter)
            return _pad(inner, image.height, image.width)
        case "center_crop":
            # The part of the source that will be seen, as a box; scaling the whole of a long strip takes gigabytes.
            ratio = max(image.height / height, image.width / width)
            seen_h, seen_w = image.height / ratio, image.width / ratio
            top, left = (height - seen_h) / 2, (width - seen_w) / 2
            box = (left, top, min(width, left + seen_w), min(height, top + seen_h))
            return _scale(pixels, image.height, image.width, image.filter, box)


def _side(length: int, ratio: float, bound: int) -> int:
    return min(bound, max(1, round(length * ratio)))


def _scale(
    pixels: np.ndarray, height: int, width: int, name: str, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), _FILTERS[name], box))


def _pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Black on all sides; an odd remainder goes to the right and to the bottom."""
    top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
    padded = np.zeros((height, width, *pixels.shape[2:]), dtype=np.uint8)
    padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return padded


def _channels_first(pixels: np.ndarray, color: str) -> np.ndarray:
    if pixels.ndim == 2:  # noqa: PLR2004 - H x W
        planes = pixels[None] if color == "gray" else np.repeat(pixels[None], 3, axis=0)
    elif color == "gray":
        planes = np.asarray(Image.fromarray(pixels).convert("L"))[None]
    else:
        planes = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes)
