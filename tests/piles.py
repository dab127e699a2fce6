"""Piles of images in the layouts that people have them, written by the tests: IDX, CIFAR, folders, manifests."""

import gzip
import io
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cnnjob.config.load import load_config
from cnnjob.config.prepare import RULES, PrepareConfig
from cnnjob.data.sources.base import Listing
from cnnjob.data.sources.open import open_source
from cnnjob.schema import ID

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts it."""


def config_of(output: Path | str = "unused", **values: Any) -> PrepareConfig:
    """A config with its rules checked, as a file would be."""
    return load_config(PrepareConfig, {"output": str(output), **values}, where="test", rules=RULES)


def source_config(kind: str, uri: Path | str, *, method: str = "hash", **source: Any) -> PrepareConfig:
    """A config of a source."""
    return config_of(source={"kind": kind, "uri": str(uri), **source}, split={"method": method})


def listing_of(config: PrepareConfig, scratch: Path | str = "") -> Listing:
    """The listing of a config's source."""
    return open_source(config).listing(str(scratch))


def contents(listing: Listing) -> dict[str, Any]:
    """What the reader gives for each id."""
    return dict(zip(listing.rows.column(ID).to_pylist(), listing.reader.read(listing.rows), strict=True))


def pixels(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random uint8."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(folder: Path, split: str, images: np.ndarray, labels: Sequence[int], *, packed: bool = False) -> None:
    """The two files of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, values in (("images", images), ("labels", np.array(labels, np.uint8))):
        header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
        content = header + values.tobytes()
        name = f"{split}-{part}-idx{values.ndim}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def cifar_records(images: np.ndarray, *labels: Sequence[int]) -> bytes:
    """Records of images N x 32 x 32 x 3 with their label bytes."""
    heads = np.stack([np.array(each, np.uint8) for each in labels], axis=1)
    return np.concatenate([heads, images.transpose(0, 3, 1, 2).reshape(len(images), -1)], axis=1).tobytes()


def write_cifar10(folder: Path, images: np.ndarray, labels: Sequence[int], *, per_batch: int = 10) -> None:
    """CIFAR-10's layout: the last batch is the test."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(images), per_batch)
    for number, start in enumerate(starts, 1):
        name = "test_batch.bin" if number == len(starts) else f"data_batch_{number}.bin"
        part = slice(start, start + per_batch)
        (folder / name).write_bytes(cifar_records(images[part], labels[part]))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")


def tar_of(folder: Path, target: Path) -> Path:
    """A .tar.gz of a folder."""
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return target


def encoded(image: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    """An image in a file format."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, kind, **options)
    return sink.getvalue()


def write_folder(
    root: Path, per_class: dict[str, int], *, size: tuple[int, int] = (8, 8), kinds: Sequence[str] = ("png",)
) -> None:
    """Class folders of random images, in turn of each kind."""
    number = 0
    for name, count in per_class.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            kind = kinds[number % len(kinds)]
            image = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
            (folder / f"{number:05d}.{kind}").write_bytes(encoded(image, kind))
            number += 1


def write_parquet(path: Path, row_group_size: int = 1000, **columns: Any) -> Path:
    """A table of these columns."""
    pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return path
