import numpy as np
import pytest

from cnnjob.config.prepare import ImageConfig
from cnnjob.data.decode import Refusal, _seen, canonical
from cnnjob.schema import REASONS


def gradient(height: int, width: int, *, color: bool = True) -> np.ndarray:
    shape = (height, width, 3) if color else (height, width)
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def test_right_size_is_only_transposed():
    """An image of the right size keeps every pixel; channels come first, in one block of memory."""
    pixels = gradient(5, 7)
    found = canonical(pixels, ImageConfig(height=5, width=7))
    assert np.array_equal(found, pixels.transpose(2, 0, 1))
    assert found.flags.c_contiguous


def test_gray_is_repeated_over_three_channels():
    """A gray source becomes RGB with three equal channels."""
    pixels = gradient(4, 4, color=False)
    found = canonical(pixels, ImageConfig(height=4, width=4))
    assert found.shape == (3, 4, 4)
    assert all(np.array_equal(channel, pixels) for channel in found)


def test_gray_stays_gray():
    """A gray source in a gray data set keeps every pixel in one channel."""
    pixels = gradient(4, 4, color=False)
    assert np.array_equal(canonical(pixels, ImageConfig(color="gray", height=4, width=4)), pixels[None])


def test_color_becomes_luma():
    """RGB becomes gray by ITU-R 601-2 luma, within its rounding."""
    pixels = gradient(4, 4)
    found = canonical(pixels, ImageConfig(color="gray", height=4, width=4))
    assert np.abs(found[0] - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_exact_refuses_other_sizes():
    """With `exact`, another size is refused as wrong_size and the detail has both sizes."""
    found = canonical(gradient(5, 7), ImageConfig(height=8, width=9, resize="exact"))
    assert isinstance(found, Refusal)
    assert found.reason == "wrong_size"
    assert "5x7" in found.detail
    assert "8x9" in found.detail


def test_pad_never_scales():
    """With `pad`, a smaller image keeps its pixels in the middle of black, odd remainders below and right."""
    pixels = gradient(3, 4)
    found = canonical(pixels, ImageConfig(height=6, width=6, resize="pad"))
    assert np.array_equal(found[:, 1:4, 1:5], pixels.transpose(2, 0, 1))
    assert int(found.sum()) == int(pixels.sum())


@pytest.mark.parametrize("size", [(7, 3), (3, 7), (7, 7)])
def test_pad_refuses_larger_images(size):
    """With `pad`, an image that is larger in either direction is refused."""
    found = canonical(gradient(*size), ImageConfig(height=6, width=6, resize="pad"))
    assert isinstance(found, Refusal)
    assert found.reason == "wrong_size"


def test_fit_pad_keeps_the_aspect():
    """With `fit_pad`, an image twice as wide as high fills the width and half of the height."""
    white = np.full((10, 20), 255, dtype=np.uint8)
    found = canonical(white, ImageConfig(color="gray", height=8, width=8, resize="fit_pad"))[0]
    assert (found[2:6] == 255).all()
    assert found[:2].sum() == found[6:].sum() == 0


def test_center_crop_takes_the_middle():
    """With `center_crop`, the middle of an image of the right height is kept without scaling."""
    pixels = gradient(4, 10)
    found = canonical(pixels, ImageConfig(height=4, width=4, resize="center_crop"))
    assert np.array_equal(found, pixels[:, 3:7].transpose(2, 0, 1))


def test_stretch_ignores_the_aspect():
    """With `stretch` and the nearest filter, doubling repeats every pixel."""
    pixels = gradient(2, 4, color=False)
    config = ImageConfig(color="gray", height=4, width=8, resize="stretch", filter="nearest")
    assert np.array_equal(canonical(pixels, config)[0], pixels.repeat(2, axis=0).repeat(2, axis=1))


def test_filters_differ():
    """The configured filter is the one that is used: four filters give four results."""
    pixels = gradient(9, 9)
    names = ("nearest", "bilinear", "bicubic", "lanczos")
    configs = [ImageConfig(height=5, width=5, resize="stretch", filter=name) for name in names]
    assert len({canonical(pixels, config).tobytes() for config in configs}) == 4


@pytest.mark.parametrize("resize", ["exact", "pad", "fit_pad", "center_crop", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (8, 8), (31, 17)])
@pytest.mark.parametrize("color", ["rgb", "gray"])
def test_canonical_or_refused(resize, size, color):
    """Whatever the size and the policy, the result is uint8 of the shape asked for, or a known refusal."""
    config = ImageConfig(color=color, height=8, width=12, resize=resize)
    found = canonical(gradient(*size), config)
    if isinstance(found, Refusal):
        assert found.reason in REASONS
        assert resize in ("exact", "pad")
    else:
        assert found.shape == (config.channels, 8, 12)
        assert found.dtype == np.uint8


@pytest.mark.parametrize("shape", [(32, 32), (28, 28), (24, 40), (1, 7)])
def test_a_centre_crop_stays_inside_of_the_picture(shape):
    """Whatever a picture's sides are, what is cut out of its middle has its form and lies inside of it."""
    image = ImageConfig(height=shape[0], width=shape[1], resize="center_crop")
    for height in range(1, 200):
        for width in range(1, 200):
            left, top, right, bottom = _seen(height, width, image)
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert abs((right - left) * shape[0] - (bottom - top) * shape[1]) < 1e-9 * shape[0] * shape[1] * 200


def test_every_side_can_be_cropped():
    """Squares and all but squares of any side are cropped without an error of rounding."""
    image = ImageConfig(color="gray", height=32, width=32, resize="center_crop")
    for side in range(1, 130):
        for other in (side, side + 1):
            found = canonical(np.zeros((side, other), dtype=np.uint8), image)
            assert isinstance(found, np.ndarray)
            assert found.shape == (1, 32, 32)
