"""The expected arrays are written out by numpy; Pillow only writes the files."""

import numpy as np
import pytest
from PIL import Image

from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.formats.encoded import decode
from tests.corpus.builders import KINDS, chunk, encoded, picture, png, png_rows, tiff
from tests.corpus.files import animated

HEIGHT, WIDTH = 5, 7
BACKGROUND = (200, 100, 30)
GRAY = (np.arange(HEIGHT * WIDTH) * 7 % 256).astype(np.uint8).reshape(HEIGHT, WIDTH)
RGB = np.stack([GRAY, 255 - GRAY, GRAY // 3 + 20], axis=-1)
ALPHA = (np.arange(HEIGHT * WIDTH) * 29 % 256).astype(np.uint8).reshape(HEIGHT, WIDTH)
DEEP = GRAY.astype(np.uint16) * 256 + ALPHA
TURNED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def exact(color: str = "rgb", height: int = HEIGHT, width: int = WIDTH) -> ImageConfig:
    return ImageConfig(color=color, height=height, width=width, background=BACKGROUND)


def decoded(content: bytes, config: ImageConfig | None = None) -> np.ndarray:
    """Height x width x channels, for comparison with what was drawn."""
    found = decode(content, config or exact(), LimitsConfig())
    assert not isinstance(found, Refusal), found
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    return found.transpose(1, 2, 0)


def repeated(gray: np.ndarray) -> np.ndarray:
    return np.stack([gray] * 3, axis=-1)


def over(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return np.floor(color * share + np.array(BACKGROUND) * (1 - share) + 0.5).astype(np.uint8)


def image(pixels: np.ndarray, alpha: np.ndarray | None = None) -> Image.Image:
    drawn = Image.fromarray(pixels)
    if alpha is not None:
        drawn.putalpha(Image.fromarray(alpha))
    return drawn


def tags(photometric: int, samples: int, depth: int = 8, **more: int) -> dict[int, int | tuple[int, ...]]:
    size = {256: WIDTH, 257: HEIGHT, 278: HEIGHT, 259: 1}
    return {**size, 258: (depth,) * samples, 262: photometric, 277: samples, **{int(k[1:]): v for k, v in more.items()}}


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff"])
def test_rgb_is_exact(kind):
    """RGB comes back to the last bit from each lossless format."""
    assert np.array_equal(decoded(encoded(image(RGB), kind, lossless=True)), RGB)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff"])
def test_gray_is_exact(kind):
    """Gray comes back to the last bit: in one channel, and three times over in an RGB set."""
    content = encoded(image(GRAY), kind)
    assert np.array_equal(decoded(content, exact("gray"))[..., 0], GRAY)
    assert np.array_equal(decoded(content), repeated(GRAY))


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff"])
def test_bilevel_is_black_and_white(kind):
    """Mode 1 becomes 0 and 255."""
    drawn = np.where(GRAY > 99, 255, 0).astype(np.uint8)
    assert np.array_equal(decoded(encoded(image(drawn).convert("1"), kind)), repeated(drawn))


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "tiff"])
def test_a_palette_is_looked_up(kind):
    """Mode P becomes the colors of its palette."""
    colors = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    drawn = image(GRAY).copy()
    drawn.putpalette(colors.tobytes())
    assert np.array_equal(decoded(encoded(drawn, kind)), colors[GRAY])


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_alpha_shows_the_background(kind):
    """RGBA is laid over the stated background, rounded to the nearest level."""
    content = encoded(image(RGB, ALPHA), kind, lossless=True, exact=True)
    assert np.array_equal(decoded(content), over(RGB, ALPHA))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_gray_with_alpha_shows_the_background(kind):
    """LA is laid over the background, in color; where it is opaque it stays exact gray."""
    assert np.array_equal(decoded(encoded(image(GRAY, ALPHA), kind)), over(repeated(GRAY), ALPHA))
    opaque = encoded(image(GRAY, np.full_like(GRAY, 255)), kind)
    assert np.array_equal(decoded(opaque, exact("gray"))[..., 0], GRAY)


def test_a_palette_with_alpha_of_its_own_shows_the_background():
    """PA: an index and an alpha for each pixel."""
    colors = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    table = tuple((colors.T.astype(int) * 257).ravel().tolist())
    content = tiff(tags(3, 2) | {320: table, 338: 2}, np.stack([GRAY, ALPHA], axis=-1).tobytes())
    assert np.array_equal(decoded(content), over(colors[GRAY], ALPHA))


@pytest.mark.parametrize("transparency", [7, bytes(range(256))])
def test_a_transparent_palette_shows_the_background(transparency):
    """A tRNS on a palette: one transparent entry, or an alpha for each."""
    drawn = image(GRAY).copy()
    drawn.putpalette(bytes(range(255, -1, -1)) * 3)
    colors = np.frombuffer(drawn.palette.palette, dtype=np.uint8).reshape(-1, 3)
    alpha = np.where(GRAY == 7, 0, 255) if isinstance(transparency, int) else GRAY
    assert np.array_equal(decoded(encoded(drawn, "png", transparency=transparency)), over(colors[GRAY], alpha))


@pytest.mark.parametrize(("depth", "step"), [(1, 255), (2, 85), (4, 17), (8, 1)])
def test_a_transparent_gray_shows_the_background(depth, step):
    """A tRNS on gray of any depth: the value is in the file's own depth."""
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % (1 << depth)
    bits = (values[..., None] >> np.arange(depth - 1, -1, -1) & 1).reshape(HEIGHT, WIDTH * depth)
    content = png(WIDTH, HEIGHT, depth, 0, chunk(b"tRNS", b"\0\1"), rows=png_rows(np.packbits(bits, axis=1)))
    alpha = np.where(values == 1, 0, 255)
    assert np.array_equal(decoded(content), over(repeated(values * step), alpha))


def test_a_transparent_deep_gray_shows_the_background():
    """A tRNS on 16-bit gray is compared in 16 bits."""
    key = int(DEEP[2, 3])
    rows = png_rows(DEEP.astype(">u2").view(np.uint8))
    content = png(WIDTH, HEIGHT, 16, 0, chunk(b"tRNS", key.to_bytes(2, "big")), rows=rows)
    assert np.array_equal(decoded(content), over(repeated(GRAY), np.where(key == DEEP, 0, 255)))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_color_shows_the_background(depth):
    """A tRNS on RGB of 8 and of 16 bits."""
    deep = (RGB.astype(np.uint16) * 256 + 9).astype(">u2") if depth == 16 else RGB
    key = deep[2, 3].astype(">u2").tobytes()
    rows = png_rows(np.ascontiguousarray(deep).view(np.uint8).reshape(HEIGHT, -1))
    content = png(WIDTH, HEIGHT, depth, 2, chunk(b"tRNS", key), rows=rows)
    assert np.array_equal(decoded(content), over(RGB, np.where((RGB[2, 3] == RGB).all(axis=-1), 0, 255)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_gray_loses_its_lower_bits(order):
    """16-bit gray in either byte order is shifted right by 8, not clipped at 255."""
    content = tiff(tags(1, 1, 16), DEEP.astype(order + "u2").tobytes(), order)
    assert np.array_equal(decoded(content, exact("gray"))[..., 0], GRAY)
    assert np.array_equal(decoded(encoded(image(DEEP), "png"), exact("gray"))[..., 0], GRAY)


def test_cmyk_is_multiplied_out():
    """CMYK becomes RGB without a profile: (1 - color) x (1 - black)."""
    cmyk = np.stack([GRAY, 255 - GRAY, ALPHA, ALPHA // 2], axis=-1)
    white = 255 - cmyk[..., 3:].astype(np.float64)
    expected = np.clip(white - np.floor(cmyk[..., :3] * white / 255 + 0.5), 0, 255)
    assert np.array_equal(decoded(tiff(tags(5, 4), cmyk.tobytes())), expected)


def test_ycbcr_becomes_rgb():
    """YCbCr becomes RGB as in JFIF, within its rounding."""
    luma, blue, red = GRAY.astype(int), ALPHA.astype(int) // 4 + 96, 160 - ALPHA.astype(int) // 4
    content = tiff(tags(6, 3), np.stack([luma, blue, red], axis=-1).astype(np.uint8).tobytes())
    blue, red = blue - 128, red - 128
    expected = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    assert np.abs(decoded(content) - np.clip(expected, 0, 255)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_orientation_is_applied(kind, orientation):
    """EXIF's orientations 1 to 8 turn the picture as their definition says."""
    exif = Image.Exif()
    exif[274] = orientation
    tag = {"tiffinfo": {274: orientation}} if kind == "tiff" else {"exif": exif}
    expected = TURNED[orientation](RGB)
    config = exact(height=expected.shape[0], width=expected.shape[1])
    assert np.array_equal(decoded(encoded(image(RGB), kind, lossless=True, **tag), config), expected)


@pytest.mark.parametrize("orientation", [6, 7])
def test_orientation_is_applied_wherever_it_stands(orientation):
    """EXIF behind the pixels of a PNG counts, and so does that of transparent, deep and compressed pictures."""
    exif = Image.Exif()
    exif[274] = orientation
    config = exact(height=WIDTH, width=HEIGHT)
    behind = png(WIDTH, HEIGHT, 8, 2, rows=png_rows(RGB.reshape(HEIGHT, -1)), after=chunk(b"eXIf", exif.tobytes()[6:]))
    assert np.array_equal(decoded(behind, config), TURNED[orientation](RGB))
    blended = encoded(image(RGB, ALPHA), "png", exif=exif)
    assert np.array_equal(decoded(blended, config), TURNED[orientation](over(RGB, ALPHA)))
    deep = encoded(image(DEEP), "png", exif=exif)
    assert np.array_equal(decoded(deep, config), TURNED[orientation](repeated(GRAY)))
    packed = encoded(image(RGB), "tiff", compression="tiff_lzw", tiffinfo={274: orientation})
    assert np.array_equal(decoded(packed, config), TURNED[orientation](RGB))


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_the_first_frame_counts(kind):
    """Of an animation the first frame is read."""
    later = [image(255 - GRAY), image(GRAY[::-1])]
    content = encoded(image(GRAY), kind, save_all=True, append_images=later, duration=100, lossless=True)
    assert np.array_equal(decoded(content), repeated(GRAY))


@pytest.mark.parametrize("kind", ["gif", "png"])
def test_only_the_first_frame_counts(kind):
    """An animation that ends early is the same picture, as long as its first frame is there."""
    content, config = animated(kind), ImageConfig(height=40, width=48)
    assert np.array_equal(decoded(content[: len(content) // 2], config), decoded(content, config))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_stated_formats_are_decoded(kind):
    """A format that is not in limits.formats is refused, whatever else is allowed."""
    content = encoded(picture(), kind)
    others = tuple(other for other in KINDS if other != kind)
    found = decode(content, ImageConfig(resize="stretch"), LimitsConfig(formats=others))
    assert isinstance(found, Refusal)
    assert found.reason == "format_not_allowed"
    assert kind in found.detail
    assert not isinstance(decode(content, ImageConfig(resize="stretch"), LimitsConfig(formats=(kind,))), Refusal)


def test_the_bytes_are_bounded():
    """A file above limits.max_bytes is refused before it is looked at, with both numbers."""
    content = encoded(picture(), "png")
    found = decode(content, ImageConfig(resize="stretch"), LimitsConfig(max_bytes=len(content) - 1))
    assert found == Refusal("too_many_bytes", f"{len(content)} bytes, above the limit of {len(content) - 1}")
    assert not isinstance(decode(content, ImageConfig(resize="stretch"), LimitsConfig(max_bytes=len(content))), Refusal)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_bounded(kind):
    """A picture of limits.max_pixels is read and one of a pixel more is refused, in each format."""
    content = encoded(picture(), kind)
    assert not isinstance(decode(content, ImageConfig(resize="stretch"), LimitsConfig(max_pixels=40 * 48)), Refusal)
    found = decode(content, ImageConfig(resize="stretch"), LimitsConfig(max_pixels=40 * 48 - 1))
    assert isinstance(found, Refusal)
    assert found.reason == "too_many_pixels"


def test_too_little_memory_is_a_refusal(monkeypatch):
    """Where memory runs out in the decoder, the row is refused as too_many_pixels."""

    def load(_self: Image.Image) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    found = decode(encoded(picture(), "gif"), ImageConfig(resize="stretch"), LimitsConfig())
    assert isinstance(found, Refusal)
    assert found.reason == "too_many_pixels"
