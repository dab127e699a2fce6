"""scikit-learn's handwritten digits: 1,797 images of 8x8, gray levels 0 to 16, inside the installed package.

The test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), as ``load_digits``
gives it.
"""

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import pyarrow as pa

from cnnjob.data.sources.base import Listing, listing_table
from cnnjob.schema import ID

GRAY_LEVELS = 16


class DigitsSource:
    """The digits, as rows ``digits/000000`` on."""

    def digest(self) -> str:
        """SHA-256 of the pixels and labels."""
        images, labels = _load()
        return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()

    def listing(self, scratch: str) -> Listing:
        """List the digits."""
        del scratch
        _, labels = _load()
        ids = pa.array([f"digits/{row:06d}" for row in range(len(labels))])
        return Listing(listing_table(ids, pa.array(labels)), tuple("0123456789"), DigitsReader())


class DigitsReader:
    """Reads them from the installed package."""

    def read(self, rows: pa.Table) -> Iterator[np.ndarray]:
        """The pixels of listed digits."""
        images, _ = _load()
        for name in rows.column(ID).to_pylist():
            yield images[int(name.removeprefix("digits/"))]

    def uris(self, rows: pa.Table) -> list[str]:
        """The ids: digits have no place of their own."""
        return rows.column(ID).to_pylist()  # type: ignore[no-any-return]


@cache
def _load() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 1797 x 8 x 8 with 0..16 spread over 0..255, labels int32."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * 255 / GRAY_LEVELS).astype(np.uint8)
    return images, bunch.target.astype(np.int32)
