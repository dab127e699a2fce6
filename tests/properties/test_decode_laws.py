"""Laws of decoding: no bytes raise or warn, a file that ends early says so, a picture is its pixels."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.data.decode import Refusal, canonical
from cnnjob.data.formats import headers
from cnnjob.data.formats.encoded import decode
from cnnjob.schema import REASONS
from tests.corpus.files import animated, corpus, good_files

LIMITS = LimitsConfig(max_pixels=1_000_000)
GOOD = [*good_files().values(), *(animated(kind) for kind in ("png", "gif", "webp"))]
MAGIC = [b"", *(content[:size] for content in good_files().values() for size in (4, 12, 30))]
POLICIES = st.sampled_from(["exact", "pad", "fit_pad", "center_crop", "stretch"])
FILLED = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker as ITU-T T.81 has it (B.1.1.2), with all bytes that may fill up before it."""
PIECES = [b"\xff", b"\xff" * 5, b"\0", b"\0\2", b"\0\3", b"\1", b"\xc0", b"\xd0", b"\xd8", b"\xd9", b"\xda", b"\xe0"]


@st.composite
def mutated_files(draw) -> bytes:
    """A good file with pieces of it written over, taken out or doubled."""
    content = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of the time within the header, where one byte says most.
        reach = draw(st.sampled_from([60, len(content)]))
        at = draw(st.integers(0, min(reach, len(content)) - 1))
        size = draw(st.integers(1, 8))
        match draw(st.sampled_from(["write", "take", "double"])):
            case "write":
                content[at : at + size] = draw(st.binary(min_size=size, max_size=size))
            case "take" if len(content) > size:
                del content[at : at + size]
            case _:
                content[at:at] = content[at : at + size]
    return bytes(content)


def found_without_a_warning(content: bytes, config: ImageConfig) -> np.ndarray | Refusal:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode(content, config, LIMITS)


@settings(max_examples=300)
@given(
    st.one_of(st.binary(max_size=60), st.tuples(st.sampled_from(MAGIC), st.binary(max_size=99)).map(b"".join)),
    st.sampled_from(["rgb", "gray"]),
)
def test_any_bytes_are_a_picture_or_refused(content, color):
    """Any bytes, right first bytes before them or not, are a picture of the shape asked for or refused."""
    check(found_without_a_warning(content, ImageConfig(color=color, height=8, width=12, resize="stretch")), color)


@settings(max_examples=500)
@given(mutated_files(), st.sampled_from(["rgb", "gray"]), POLICIES)
def test_any_damage_is_a_picture_or_refused(content, color, resize):
    """Any damage to a good file leaves a picture of the shape asked for or a refusal, never an exception or warning."""
    check(found_without_a_warning(content, ImageConfig(color=color, height=8, width=12, resize=resize)), color)


def check(found: np.ndarray | Refusal, color: str) -> None:
    if isinstance(found, Refusal):
        assert found.reason in REASONS
        assert found.detail.isprintable()
        assert 0 < len(found.detail) <= 200
    else:
        assert found.shape == (3 if color == "rgb" else 1, 8, 12)
        assert found.dtype == np.uint8


@pytest.mark.parametrize("name", good_files())
def test_the_start_of_a_file_is_the_picture_or_truncated(name):
    """However short a good file is cut, what is left is the same picture or says that it ends too early."""
    content, config = good_files()[name], ImageConfig(height=40, width=48)
    whole = decode(content, config, LIMITS)
    for end in [*range(64), *range(64, len(content), 17), *range(len(content) - 20, len(content))]:
        found = found_without_a_warning(content[:end], config)
        if isinstance(found, Refusal):
            assert found.reason == "truncated" or (end < 12 and found.reason in ("empty", "not_an_image")), (end, found)
        else:
            assert np.array_equal(found, whole), end


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["rgb", "gray"]), st.booleans(), POLICIES)
def test_a_picture_is_its_pixels(height, width, color, is_color, resize):
    """A picture and the array of its pixels come to the same canonical form."""
    pixels = (np.arange(height * width * 3) * 7 % 256).astype(np.uint8).reshape(height, width, 3)
    pixels = pixels if is_color else np.ascontiguousarray(pixels[..., 0])
    config = ImageConfig(color=color, height=16, width=9, resize=resize)
    found, expected = canonical(Image.fromarray(pixels), config), canonical(pixels, config)
    assert found == expected if isinstance(expected, Refusal) else np.array_equal(found, expected)


@settings(max_examples=20)
@given(
    st.integers(1, 300_000),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["fit_pad", "center_crop", "stretch"]),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
)
@example(length=4_000_000, breadth=1, is_tall=True, resize="stretch", name="lanczos")
def test_one_shade_stays_one_shade(length, breadth, is_tall, resize, name):
    """A strip of one shade keeps it, however long the strip and whichever way it is brought to size."""
    strip = np.full((length, breadth) if is_tall else (breadth, length), 201, dtype=np.uint8)
    found = canonical(strip, ImageConfig(color="gray", height=512, width=512, resize=resize, filter=name))
    assert set(np.unique(found)) <= {0, 201} if resize == "fit_pad" else (found == 201).all()
    assert (found == 201).any()


def markers(content: bytes) -> list[object]:
    """All that is found out by the markers of a JPEG, from its start and from behind it."""
    scans = [headers.jpeg_scans(content, start, bound) for start in (0, 2, len(content) // 2) for bound in (0, 1, 3)]
    return [headers.is_cut("jpeg", content), *scans]


def markers_by_definition(content: bytes) -> list[object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(headers, "_MARKER", FILLED)
        return markers(content)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_a_marker_may_have_any_fill_before_it(content):
    """Markers, lengths, stuffing and fill in any order are read as the definition of a marker says."""
    assert markers(content) == markers_by_definition(content)


def test_markers_of_the_corpus_are_those_of_the_definition():
    """Every JPEG of the corpus is read as the definition of a marker says."""
    files = [file.content for file in corpus() if file.content.startswith(b"\xff\xd8\xff")]
    assert len(files) > 20
    for content in files:
        assert markers(content) == markers_by_definition(content)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", [b"", b"\0", b"\xd0"])
@pytest.mark.parametrize("start", [b"\xff\xd8", b"\xff\xd8\xff\xe0\0\2", b"\xff\xd8\xff\xc0\0\2"])
def test_fill_that_leads_to_no_marker_is_read_once(start, end):
    """As much fill as a file may have is refused like a little: no byte of it is looked at again and again."""
    long, short = (decode(start + b"\xff" * count + end, ImageConfig(), LIMITS) for count in (200_000, 4))
    assert isinstance(short, Refusal)
    assert long == short


@pytest.mark.timeout(60)
def test_fill_of_megabytes_is_read_once():
    """Scans are counted, and an end is missed, behind megabytes of fill as behind a few bytes."""
    fill = b"\xff" * 4_000_000 + b"\0"
    assert headers.jpeg_scans(fill + b"\xff\xda\0\2" * 5, 0, 3) == 4
    assert headers.is_cut("jpeg", b"\xff\xd8" + fill)
    assert not headers.is_cut("jpeg", b"\xff\xd8" + fill + b"\xff\xda\0\2\xff\xd9")
