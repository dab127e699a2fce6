"""The layers of one picture as one picture: each layer a row, each map a tile, from its own darkest to brightest."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnnjob.models.layers import Layer

TILE = 72
GAP = 6
LINE = 18
MAX_TILES = 16
_INK, _PAPER, _BAR = (30, 30, 30), (255, 255, 255), (60, 110, 180)


def draw_feature_maps(layers: Sequence[Layer], class_names: Sequence[str]) -> bytes:
    """Draw them.

    Args:
        layers: As ``models.layers`` gives them; the last one is the probabilities.
        class_names: In the order of the probabilities.

    Returns:
        A PNG.
    """
    maps = [layer for layer in layers if layer.values.ndim == 3]  # noqa: PLR2004 - C x H x W
    ranked = np.argsort(-layers[-1].values, kind="stable")[:MAX_TILES]
    width = GAP + MAX_TILES * (TILE + GAP)
    height = len(maps) * (LINE + TILE + GAP) + LINE * (len(ranked) + 2)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = 0
    for layer in maps:
        shape = "x".join(map(str, layer.values.shape))
        hidden = len(layer.values) - MAX_TILES
        more = f", the first {MAX_TILES} maps" if hidden > 0 and layer is not maps[0] else ""
        pen.text((GAP, top), f"{layer.name}: {shape}{more}", _INK, font)
        for at, tile in enumerate(_tiles(layer, is_input=layer is maps[0])):
            sheet.paste(tile, (GAP + at * (TILE + GAP), top + LINE))
        top += LINE + TILE + GAP
    pen.text((GAP, top), layers[-1].name, _INK, font)
    for at, label in enumerate(ranked.tolist(), start=1):
        share = float(layers[-1].values[label])
        pen.text((GAP, top + LINE * at), f"{class_names[label][:20]}", _INK, font)
        left, upper = 180, top + LINE * at + 3
        pen.rectangle((left, upper, left + round(share * 500), upper + LINE - 8), _BAR)
        pen.text((left + 510, top + LINE * at), f"{share:.4f}", _INK, font)
    sink = io.BytesIO()
    sheet.save(sink, "png")
    return sink.getvalue()


def _tiles(layer: Layer, *, is_input: bool) -> list[Image.Image]:
    if is_input:
        planes = layer.values
        pixels = planes.transpose(1, 2, 0) if len(planes) == 3 else planes[0]  # noqa: PLR2004 - RGB
        return [_tile(np.ascontiguousarray(pixels))]
    return [_tile(_stretched(values)) for values in layer.values[:MAX_TILES]]


def _stretched(values: np.ndarray) -> np.ndarray:
    """One map as uint8, its smallest value black and its largest white; a flat map is black."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)


def _tile(pixels: np.ndarray) -> Image.Image:
    picture = Image.fromarray(pixels).convert("RGB")
    ratio = TILE / max(picture.size)
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    return picture.resize(size, Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.BILINEAR)
