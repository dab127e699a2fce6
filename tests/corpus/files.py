"""Odd and bad image files, each with the reason for which it is refused, or None where it is a picture.

They are bytes only: names and links are tested elsewhere. All of them are read under ``LIMITS``.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from cnnjob.config.prepare import LimitsConfig
from tests.corpus.builders import (
    KINDS,
    PNG_MAGIC,
    bmp,
    chunk,
    encoded,
    gif,
    jpeg_of_scans,
    picture,
    png,
    png_rows,
    tiff,
    webp,
)

LIMITS = LimitsConfig(max_bytes=2_000_000)
RGB_TIFF = {256: 4, 257: 4, 258: (8, 8, 8), 259: 1, 262: 2, 277: 3, 278: 4}


class File(NamedTuple):
    """A file of the corpus."""

    name: str
    content: bytes
    reason: str | None


def noise(size: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def good_files() -> dict[str, bytes]:
    """One ordinary picture in each format, and in the variants whose data end in another way."""
    image = picture()
    files = {kind: encoded(image, kind) for kind in KINDS}
    files["jpeg-progressive"] = encoded(image, "jpeg", progressive=True)
    files["webp-lossless"] = encoded(image, "webp", lossless=True)
    files["tiff-deflate"] = encoded(image, "tiff", compression="tiff_adobe_deflate")
    return files


def cut_files() -> list[File]:
    """Every good file, cut at each tenth."""
    return [
        File(f"{name}-cut-at-{tenth}0-percent", content[: len(content) * tenth // 10], "truncated")
        for name, content in good_files().items()
        for tenth in range(1, 10)
    ]


def bombs() -> list[File]:
    """Small files whose headers ask for gigabytes."""
    vp8 = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383) + bytes(20)
    vp8l = b"\x2f" + struct.pack("<I", 16382 | 16382 << 14) + bytes(20)
    vp8x = bytes(4) + 2 * (16_000_000).to_bytes(3, "little")
    sof = b"\xff\xc2\0\x11\x08\xff\xdc\xff\xdc\x03\1\x22\0\2\x11\1\3\x11\1"
    still = b"!\xf9\4\x09\0\0\0\0"
    files = {
        "png": png(50_000, 50_000, 8, 6),
        "png-of-one-16-bit-row": png(16_000_000, 1, 16, 6),
        "png-of-one-column": png(1, 16_000_000, 8, 6),
        "jpeg": b"\xff\xd8" + sof + b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\0\0" + bytes(99) + b"\xff\xd9",
        "gif": gif((65535, 65535), (65535, 65535)),
        "gif-frame": gif((16, 16), (65535, 65535)),
        "gif-frame-twice-the-bound": gif((16, 16), (6000, 5000), still),
        "webp-lossy": webp(b"VP8 ", vp8),
        "webp-lossless": webp(b"VP8L", vp8l),
        "webp-extended": webp(b"VP8X", vp8x),
        "bmp": bmp(50_000, 50_000),
        "tiff": tiff(RGB_TIFF | {256: 50_000, 257: 50_000, 278: 50_000}),
        "tiff-tile": tiff(RGB_TIFF | {259: 8, 322: 65_536, 323: 65_536}),
        "tiff-strip": tiff(RGB_TIFF | {256: 4096, 257: 4096, 258: (16,) * 6, 259: 8, 277: 6, 278: 4096}),
    }
    return [File(f"bomb-{name}", content, "too_many_pixels") for name, content in files.items()]


def crowds() -> list[File]:
    """Files of more pieces than are worth reading, and text that unpacks to more than it says."""
    long_text = zlib.compress(bytes(50_000_000), 9)
    small = np.zeros((4, 12), dtype=np.uint8)
    text = chunk(b"zTXt", b"Comment\0\0" + long_text)
    files = {
        "png-of-chunks": png(4, 4, 8, 2, chunk(b"abCd", b"") * 160_000, rows=png_rows(small)),
        "png-with-long-text": png(4, 4, 8, 2, text, rows=png_rows(small)),
        "jpeg-of-segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 490_000,
        "jpeg-of-stuffing": b"\xff\xd8\xff\xe0\0\2" + b"a" * 1_900_000,
        "jpeg-of-scans": jpeg_of_scans(encoded(picture(), "jpeg", progressive=True), 5000),
        "gif-of-comments": gif((4, 4), (4, 4), b"!\xfe" + b"\2ab" * 600_000 + b"\0"),
        "tiff-of-strips": tiff(RGB_TIFF | {273: (8,) * 70_000, 279: (1,) * 70_000}),
    }
    return [File(name, content, "unreadable") for name, content in files.items()] + [
        File("png-with-long-text-at-its-end", png(4, 4, 8, 2, rows=png_rows(small), after=text), None)
    ]


def strangers() -> list[File]:
    """What is no image, or one of a format that is not decoded."""
    foreign = {
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n",
        "svg": b'\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "svg-with-declaration": b'<?xml version="1.0"?>\n<svg width="9" height="9"/>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "avif": encoded(picture(), "avif"),
        "ico": encoded(picture(), "ico"),
        "jpeg2000": encoded(picture(), "jpeg2000"),
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(99),
        "ppm": encoded(picture(), "ppm"),
        "qoi": encoded(picture(), "qoi"),
    }
    nothing = {
        "text": b"Friday: 12 pictures, all of them sharp.\n",
        "text-that-begins-like-bmp": b"BMX bikes, 24 of them.\n",
        "html": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
        "json": b'{"error": "not found"}',
        "zip": b"PK\3\4\x14\0\0\0\x08\0" + noise(99),
        "script": b"#!/bin/sh\necho\n",
        "random": b"\x07" + noise(5000),
        "one-byte": b"\x89",
        "zeros": bytes(1000),
    }
    return [File(name, content, "format_not_allowed") for name, content in foreign.items()] + [
        File(name, content, "not_an_image") for name, content in nothing.items()
    ]


def damaged() -> list[File]:
    """Files whose first bytes are right and others are not."""
    good, header = good_files(), b"\0\0\0\x0dIHDR"
    frame = b"\xff\xd8\xff\xc0\0\x0b\x08"
    scan = b"\1\1\x11\0\xff\xda\0\x08\1\1\0\0\x3f\0abc\xff\xd9"
    flipped = bytearray(good["png"])
    flipped[good["png"].find(b"IDAT") + 40] ^= 0x55
    files = {
        "png-bad-header-checksum": good["png"][:29] + b"\0\0\0\0" + good["png"][33:],
        "png-bad-deflate": bytes(flipped),
        "png-without-data": PNG_MAGIC + good["png"][8:33] + chunk(b"IEND", b""),
        "png-without-palette": png(4, 4, 8, 3, rows=bytes(20)),
        "png-garbage": PNG_MAGIC + noise(500),
        "png-zero-width": png(0, 4, 8, 2),
        "png-strange-depth": png(4, 4, 7, 2, rows=bytes(52)),
        "png-header-twice": PNG_MAGIC + header + bytes(17) + header + bytes(17) + chunk(b"IEND", b""),
        "jpeg-garbage": b"\xff\xd8\xff\x01" + noise(500),
        "jpeg-zero-height": frame + b"\0\0\0\x08" + scan,
        "jpeg-without-tables": frame + b"\0\x08\0\x08" + scan,
        "gif-garbage": b"GIF89a" + bytes(7) + b"U" * 500,
        "gif-without-frame": gif((4, 4), (4, 4))[:19] + b";",
        "webp-garbage": webp(b"VP8 ", noise(500)),
        "webp-strange-chunk": webp(b"ABCD", noise(500)),
        "bmp-garbage": b"BM" + struct.pack("<IIII", 500, 0, 54, 77) + noise(482),
        "tiff-no-directory": b"II*\0\0\0\0\0" + noise(500),
        "tiff-no-size": tiff({258: 8, 259: 1, 262: 1}, bytes(16)),
        "tiff-bad-deflate": tiff(RGB_TIFF | {259: 8}, noise(48)),
    }
    return [File(name, content, "unreadable") for name, content in files.items()]


def odd_modes() -> list[File]:
    """Pixels that have no exact form in 8 bits."""
    gray = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    gray_tiff = {256: 4, 257: 4, 258: 16, 259: 1, 262: 1, 277: 1, 278: 4}
    files = {
        "tiff-float": encoded(Image.fromarray(gray.astype(np.float32)), "tiff"),
        "tiff-int32": encoded(Image.fromarray(gray.astype(np.int32)), "tiff"),
        "tiff-lab": encoded(Image.new("LAB", (4, 4)), "tiff"),
        "tiff-12-bit": tiff(gray_tiff | {258: 12}, bytes(24)),
        "tiff-16-bit-white-is-zero": tiff(gray_tiff | {262: 0}, gray.tobytes()),
    }
    return [File(name, content, "mode_not_supported") for name, content in files.items()]


def animated(kind: str) -> bytes:
    frames = [picture(), picture().rotate(180), picture().rotate(90)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, loop=0)


def unusual() -> list[File]:
    """Pictures, all of them."""
    image, tiny = picture(), picture(1, 1)
    gray = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000
    broken_exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + noise(40)
    exif, frame = Image.Exif(), encoded(picture(4, 4), "gif")
    exif[274] = 6
    files = {
        "photo.jpg": encoded(image, "png"),
        "photo.txt": encoded(image, "jpeg"),
        **{f"animated-{kind}": animated(kind) for kind in ("gif", "webp", "png")},
        **{f"one-pixel-{kind}": encoded(tiny, kind) for kind in KINDS},
        "png-16-bit-gray": encoded(Image.fromarray(gray), "png"),
        "png-16-bit-rgb": png(2, 1, 16, 2, rows=bytes(13)),
        "png-palette-with-transparency": encoded(image.convert("P"), "png", transparency=bytes(range(256))),
        "png-gray-with-alpha": encoded(picture(channels=4).convert("LA"), "png"),
        "png-bilevel": encoded(image.convert("1"), "png"),
        "png-bad-data-checksum": encoded(image, "png")[:-16] + b"\0\0\0\0" + chunk(b"IEND", b""),
        "png-without-end": encoded(image, "png")[:-12],
        "png-one-pixel-wide": png(1, 1_000_000, 8, 0, rows=bytes(2_000_000)),
        "png-one-pixel-high": png(1_000_000, 1, 8, 0, rows=bytes(1_000_001)),
        "jpeg-cmyk": encoded(image.convert("CMYK"), "jpeg"),
        "jpeg-progressive": encoded(image, "jpeg", progressive=True),
        "jpeg-turned": encoded(image, "jpeg", exif=exif),
        "jpeg-broken-exif": encoded(image, "jpeg", exif=broken_exif),
        "jpeg-with-a-film-behind-it": encoded(image, "jpeg") + b"\xff\xda" * 500 + noise(9000),
        "tiff-16-bit-gray": encoded(Image.fromarray(gray), "tiff"),
        "tiff-turned": encoded(image, "tiff", tiffinfo={274: 6}),
        "gif-frame-beyond-its-screen": frame[:6] + struct.pack("<HH", 2, 2) + frame[10:],
        "tiff-big": encoded(image, "tiff", big_tiff=True),
    }
    return [File(name, content, None) for name, content in files.items()]


def corpus() -> list[File]:
    """All files, each name once."""
    edges = [
        File("empty", b"", "empty"),
        File("too-long", encoded(picture(), "png").ljust(2_000_001), "too_many_bytes"),
    ]
    return edges + cut_files() + bombs() + crowds() + strangers() + damaged() + odd_modes() + unusual()


def large_files() -> dict[str, bytes]:
    """Good pictures of exactly the default `limits.max_pixels`, in the variants that take most memory."""
    side = 4096
    y, x = np.mgrid[:side, :side].astype(np.uint16) >> 4
    image = Image.fromarray(np.stack([x, y, (x + y) >> 1, x ^ y], axis=-1).astype(np.uint8))
    opaque, turned = image.convert("RGB"), Image.Exif()
    turned[274] = 6
    deep = {256: side, 257: side, 258: (16,) * 4, 259: 8, 262: 2, 274: 6, 277: 4, 278: side, 338: 2}
    files = {
        "png-rgba": encoded(image, "png", compress_level=1),
        "png-rgb-one-pixel-wide": png(1, side * side, 8, 2, rows=bytes(4 * side * side)),
        "jpeg-progressive": encoded(opaque, "jpeg", progressive=True, subsampling=0, exif=turned),
        "jpeg-progressive-cmyk": encoded(opaque.convert("CMYK"), "jpeg", progressive=True, subsampling=0),
        "webp": encoded(image, "webp", method=0, quality=30),
        "webp-lossless": encoded(image, "webp", method=0, quality=0, lossless=True),
        "gif": encoded(opaque.quantize(64, dither=Image.Dither.NONE), "gif"),
        "bmp": encoded(opaque.convert("P"), "bmp"),
        "tiff-rgba-16-bit-one-strip-turned": tiff(deep, zlib.compress(bytes(8 * side * side), 1)),
    }
    return {f"large-{name}": content for name, content in files.items()}
