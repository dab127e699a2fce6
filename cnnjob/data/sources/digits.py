"""scikit-learn's handwritten digits: 1,797 images of 8x8, gray levels 0 to 16, inside the installed package.

The test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), as ``load_digits``
gives it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from cnnjob.data.sources.base import RawImage, Unit

GRAY_LEVELS = 16


class DigitsSource:
    """The digits, as rows ``digits/000000`` on."""

    class_names: Sequence[str] = tuple("0123456789")
    num_rows = 1797

    def digest(self) -> str:
        """SHA-256 of the pixels and labels."""
        images, labels = _load()
        return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()

    def read(self, unit: Unit) -> Iterator[RawImage]:
        """The rows of a unit."""
        images, labels = _load()
        for row in range(unit.start, unit.stop):
            name = f"digits/{row:06d}"
            yield RawImage(id=name, uri=name, label=int(labels[row]), pixels=images[row])


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 1797 x 8 x 8 with 0..16 spread over 0..255, labels int32."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / GRAY_LEVELS).astype(np.uint8)
    return images, bunch.target.astype(np.int32)
