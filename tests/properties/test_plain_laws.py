"""Laws of the short way for plain files: it gives Pillow's pixels, and leaves refusing to Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal
from cnnjob.data.formats import encoded
from cnnjob.data.formats.plain import decode_plain
from tests.corpus.files import corpus, good_files

LIMITS = LimitsConfig(max_pixels=1_000_000)
FORM = ImageConfig(height=8, width=12, resize="stretch")


def picture(mode: str, seed: int = 0, size: tuple[int, int] = (23, 17)) -> Image.Image:
    width, height = size
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    smooth = np.add.outer(np.arange(height) * 5, np.arange(width) * 7)[(...,) + (None,) * (len(shape) - 2)]
    noise = np.random.default_rng(seed).integers(0, 60, shape)
    return Image.fromarray(((smooth + noise) % 256).astype(np.uint8))


def saved(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


PLAIN = {
    f"{mode} {name} {size}": saved(picture(mode, size=size), **options)
    for mode in ("L", "RGB")
    for size in ((23, 17), (1, 1), (64, 9))
    for name, options in {
        "png": {"format": "PNG"},
        "png with its density": {"format": "PNG", "dpi": (300, 300)},
        "jpeg": {"format": "JPEG"},
        "jpeg of full color": {"format": "JPEG", "subsampling": 0, "quality": 95},
        "jpeg of half color": {"format": "JPEG", "subsampling": 1},
        "poor jpeg": {"format": "JPEG", "quality": 5},
        "jpeg that restarts": {"format": "JPEG", "restart_marker_blocks": 1},
    }.items()
}
TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
OTHER = {
    "progressive": saved(picture("RGB"), format="JPEG", progressive=True),
    "exif": saved(picture("RGB"), format="JPEG", exif=TURNED),
    "cmyk": saved(picture("RGB").convert("CMYK"), format="JPEG"),
    "palette": saved(picture("RGB").convert("P"), format="PNG"),
    "alpha": saved(picture("RGB").convert("RGBA"), format="PNG"),
    "transparent gray": saved(picture("L"), format="PNG", transparency=3),
    "jpeg with something behind": PLAIN["RGB jpeg (23, 17)"] + b"\0",
    "png with something behind": PLAIN["RGB png (23, 17)"] + b"\0",
}
SOURCES = [*PLAIN.values(), *OTHER.values(), *(c for c in good_files().values() if c[:1] in b"\x89\xff")]


def by_pillow(content: bytes, form: ImageConfig = FORM) -> np.ndarray | Refusal:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "decode_plain", lambda *_: None)
        return encoded.decode(content, form, LIMITS)


def check(content: bytes, form: ImageConfig = FORM) -> None:
    found, expected = encoded.decode(content, form, LIMITS), by_pillow(content, form)
    if isinstance(expected, Refusal):
        assert found == expected
    else:
        assert not isinstance(found, Refusal), found
        assert np.array_equal(found, expected)


def kind(content: bytes) -> str:
    return "png" if content.startswith(b"\x89") else "jpeg"


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_plain_files_go_the_short_way(content):
    """A plain file is decoded without Pillow."""
    assert decode_plain(kind(content), content, 10_000) is not None


@pytest.mark.parametrize("content", OTHER.values(), ids=OTHER)
def test_other_files_go_the_long_way(content):
    """A file with more to it than its pixels is left to Pillow."""
    assert decode_plain(kind(content), content, 10_000) is None


@pytest.mark.parametrize("content", PLAIN.values(), ids=PLAIN)
def test_a_larger_picture_is_not_decoded(content):
    """What is above the bound of pixels does not reach a decoder."""
    pixels = decode_plain(kind(content), content, 10_000)
    assert pixels is not None
    count = pixels.shape[0] * pixels.shape[1]
    assert decode_plain(kind(content), content, count) is not None
    assert decode_plain(kind(content), content, count - 1) is None


@pytest.mark.parametrize("color", ["rgb", "gray"])
@pytest.mark.parametrize("resize", ["stretch", "pad", "center_crop", "fit_pad", "exact"])
def test_both_ways_give_the_same(color, resize):
    """Every file of the corpus has the same pixels, or the same refusal, by either way."""
    form = ImageConfig(color=color, height=17, width=23, resize=resize)
    for content in (*SOURCES, *(file.content for file in corpus())):
        check(content, form)


@settings(max_examples=400)
@given(st.sampled_from(SOURCES), st.data())
def test_damage_is_judged_by_pillow(content, data):
    """A damaged file has the same pixels, or the same refusal, by either way; also where its sums are right again."""
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at, size = data.draw(st.integers(0, len(damaged) - 1)), data.draw(st.integers(1, 4))
        match data.draw(st.sampled_from(["write", "take", "double", "cut"])):
            case "write":
                damaged[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
            case "take" if len(damaged) > size + 1:
                del damaged[at : at + size]
            case "cut" if at > 1:
                del damaged[at:-2]
            case _:
                damaged[at:at] = damaged[at : at + size]
    check(summed(bytes(damaged)) if data.draw(st.booleans()) else bytes(damaged))


def summed(content: bytes) -> bytes:
    """The file with the right sum for each chunk of a PNG, as far as they can be followed."""
    repaired, at = bytearray(content), 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(repaired):
        end = at + 8 + int.from_bytes(repaired[at : at + 4], "big")
        if end + 4 > len(repaired):
            break
        repaired[end : end + 4] = struct.pack(">I", zlib.crc32(repaired[at + 4 : end]))
        at = end + 4
    return bytes(repaired)
