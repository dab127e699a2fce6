"""One picture of a data set: some training rows of each class, and what was refused."""

import io
from collections.abc import Sequence
from math import prod

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from cnnjob.data.manifest import Manifest
from cnnjob.data.rows import read_rows
from cnnjob.schema import REASON, URI
from cnnjob.store_errors import shown

TILE = 64
GAP = 6
NAME_WIDTH = 180
TILES = 10
MAX_CLASSES = 40
MAX_REFUSED = 10
_SEARCHED_ROWS = 20_000
"""Training rows that are looked through for tiles, at most: rows lie shuffled, so only rare classes need more."""
_BYTES_AT_ONCE, _SEARCHED_BYTES = 8_000_000, 500_000_000
_INK, _PALE, _RED, _PAPER = (30, 30, 30), (110, 110, 110), (170, 40, 40), (255, 255, 255)
_LINE = 18


def draw_contact_sheet(folder: str, manifest: Manifest, refused: Sequence[dict[str, str]]) -> bytes:
    """Draw it.

    Args:
        folder: Where the data set's shards lie.
        manifest: Of the data set.
        refused: Its refused rows, as in ``schema.REFUSED``.

    Returns:
        A PNG; the same for the same data set.
    """
    tiles = _tiles(folder, manifest)
    width = NAME_WIDTH + TILES * (TILE + GAP) + GAP
    height = _LINE * 2 + len(tiles) * (TILE + GAP) + (_LINE * (2 + min(len(refused), MAX_REFUSED)) if refused else 0)
    sheet = PillowImage.new("RGB", (width, height + GAP), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    hidden = len(manifest.class_names) - len(tiles)
    more = f", {hidden} more not shown" if hidden else ""
    rows = ", ".join(f"{split.rows:,} {name}" for name, split in manifest.splits.items())
    pen.text((GAP, GAP), f"{rows} rows of {len(manifest.class_names)} classes{more}", _INK, font)
    top = _LINE * 2
    for label, images in tiles.items():
        count = manifest.splits["train"].class_counts[label]
        pen.text((GAP, top + TILE // 3), _fitting(manifest.class_names[label], 22), _INK, font)
        pen.text((GAP, top + TILE // 3 + _LINE), f"{count:,} in train", _PALE, font)
        for at, image in enumerate(images):
            sheet.paste(image, (NAME_WIDTH + at * (TILE + GAP), top))
        top += TILE + GAP
    if refused:
        pen.text((GAP, top + GAP), f"{len(refused):,} refused", _RED, font)
        for at, row in enumerate(refused[:MAX_REFUSED]):
            pen.text(
                (GAP, top + GAP + _LINE * (at + 1)), _fitting(f"{row[REASON]}: {shown(row[URI])}", 110), _PALE, font
            )
    sink = io.BytesIO()
    sheet.save(sink, "png")
    return sink.getvalue()


def _tiles(folder: str, manifest: Manifest) -> dict[int, list[PillowImage.Image]]:
    """The first training images of each class that is shown, by label."""
    train = manifest.splits["train"]
    shown = range(min(len(manifest.class_names), MAX_CLASSES))
    wanted = {label: min(TILES, train.class_counts[label]) for label in shown}
    found: dict[int, list[PillowImage.Image]] = {label: [] for label in shown}
    row_bytes = prod(manifest.image.shape)
    step = max(1, _BYTES_AT_ONCE // row_bytes)
    searched = min(train.rows, _SEARCHED_ROWS, max(step, _SEARCHED_BYTES // row_bytes))
    for start in range(0, searched, step):
        if all(len(found[label]) >= count for label, count in wanted.items()):
            break
        rows = read_rows(folder, train, start, min(train.rows, start + step), manifest.image.shape)
        for image, label in zip(rows.images, rows.labels.tolist(), strict=True):
            if label in found and len(found[label]) < wanted[label]:
                found[label].append(_tile(image))
    return found


def _tile(image: np.ndarray) -> PillowImage.Image:
    """uint8 C x H x W as a square tile, its aspect kept; small pictures grow by whole pixels."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = PillowImage.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    ratio = TILE / max(picture.size)
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    picture = picture.resize(size, PillowImage.Resampling.NEAREST if ratio > 1 else PillowImage.Resampling.BILINEAR)
    tile = PillowImage.new("RGB", (TILE, TILE), _PAPER)
    tile.paste(picture, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _fitting(text: str, length: int) -> str:
    """A text on one line, in characters that the font has."""
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= length else plain[: length - 1] + "…"
