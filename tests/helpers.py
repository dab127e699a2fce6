"""Small real things for tests: a source of random images, preparing in this process, a bundle.

Nothing here starts Ray: where the product spreads a plain function over a cluster, it is called here in a loop.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from cnnjob.config.prepare import ImageConfig, LimitsConfig, PrepareConfig, ShardsConfig, SourceConfig, SplitConfig
from cnnjob.config.score import InputConfig, ScoreConfig, UnitsConfig
from cnnjob.config.train import ModelConfig, OptimizerConfig, TrainConfig
from cnnjob.data import job
from cnnjob.data.manifest import Image, Manifest, Shard, Split, Statistics
from cnnjob.data.rows import Rows, read_rows
from cnnjob.data.sources.base import Listing, listing_table
from cnnjob.models.bundle import DESCRIPTION, ONNX, SAFETENSORS, Bundle, describe
from cnnjob.models.cnn import Classifier
from cnnjob.models.export import export_onnx, weights
from cnnjob.models.presets import net_for
from cnnjob.models.spec import Block, Net
from cnnjob.progress import Silent
from cnnjob.schema import DATASET_FORMAT_VERSION, ID, SPLITS
from cnnjob.scoring.plan import ScoringModel

CLASS_NAMES = ("ant", "bee", "cat")
SMALL = (8, 8)


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: its folder and its manifest."""

    path: str
    manifest: Manifest


class PictureSource:
    """Random images: row k depends on the seed and k alone. Each has one of ``sizes``, in gray or in color."""

    def __init__(self, num_rows: int, *, seed: int = 0, sizes: Sequence[tuple[int, int]] = (SMALL,)) -> None:
        self.num_rows = num_rows
        self.seed = seed
        self.sizes = tuple(sizes)

    def digest(self) -> str:
        """Of everything that the rows depend on."""
        return hashlib.sha256(repr((self.num_rows, self.seed, self.sizes)).encode()).hexdigest()

    def listing(self, scratch: str) -> Listing:
        """All rows, with their labels."""
        labels = [self.label(number) for number in range(self.num_rows)]
        ids = [f"row-{number}" for number in range(self.num_rows)]
        return Listing(listing_table(pa.array(ids), pa.array(labels, pa.int32())), CLASS_NAMES, self)

    def label(self, number: int) -> int:
        """The label of one row."""
        return (number + self.seed) % len(CLASS_NAMES)

    def pixels(self, number: int) -> np.ndarray:
        """The pixels of one row."""
        generator = np.random.default_rng([self.seed, number])
        height, width = self.sizes[generator.integers(len(self.sizes))]
        shape = (height, width, 3) if generator.integers(2) else (height, width)
        return generator.integers(0, 256, shape, dtype=np.uint8)

    def read(self, rows: pa.Table) -> Iterator[np.ndarray]:
        """The contents of listed rows."""
        for name in rows.column(ID).to_pylist():
            yield self.pixels(int(name.removeprefix("row-")))

    def uris(self, rows: pa.Table) -> list[str]:
        """Where they come from."""
        return [f"memory/{name}" for name in rows.column(ID).to_pylist()]


def prepare_config(
    output: Path,
    *,
    size: tuple[int, int] = (32, 32),
    resize: str = "stretch",
    rows_per_shard: int = 40,
    rows_per_group: int = 16,
    **split: Any,
) -> PrepareConfig:
    """A config that prepares RGB images of ``size`` into small shards."""
    height, width = size
    return PrepareConfig(
        output=str(output),
        source=SourceConfig(kind="digits"),
        image=ImageConfig(height=height, width=width, resize=resize),
        split=SplitConfig(**split),
        limits=LimitsConfig(max_refused_share=1.0),
        shards=ShardsConfig(target_bytes=rows_per_shard * 3 * height * width, rows_per_group=rows_per_group),
    )


def prepare(config: PrepareConfig, source: Any, *, rows_per_unit: int = 512, order: int = 0) -> Manifest:
    """Prepare a data set in this process; tasks of ``rows_per_unit`` rows are done in an order drawn by ``order``."""

    def spread(function: Any, items: Sequence[Any], **_: Any) -> Iterator[Any]:
        return map(function, random.Random(order).sample(list(items), len(items)))

    with (
        mock.patch.multiple(job, spread=spread, ROWS_PER_UNIT=rows_per_unit),
        job.begin(config, source, Silent()) as begun,
    ):
        return job.run(begun, Silent())


def dies_at(phase: str) -> Callable[..., None]:
    """A ``phases.reached`` at which the process would have died at one instant."""

    def reached(at: str, **_: Any) -> None:
        if at == phase:
            raise KeyboardInterrupt

    return reached


def rows_of(dataset: str, manifest: Manifest, split: str) -> Rows:
    """All rows of a split."""
    found = manifest.splits[split]
    return read_rows(dataset, found, 0, found.rows, manifest.image.shape)


def training_rows(output: Path, num_rows: int) -> Dataset:
    """A small data set whose ``num_rows`` rows all train."""
    config = prepare_config(output, size=SMALL, resize="exact", rows_per_shard=10, rows_per_group=4, val=0.0, test=0.0)
    return Dataset(str(output), prepare(config, PictureSource(num_rows)))


def manifest_of(shard_rows: Sequence[int], split: str = "test") -> Manifest:
    """A manifest without files: one split with shards of so many rows."""
    shards = [
        Shard(path=f"{split}/{k:05d}.parquet", rows=rows, bytes=1, sha256=f"{k:064x}", footer_sha256="")
        for k, rows in enumerate(shard_rows)
    ]
    none = Split(rows=0, class_counts=(0, 0, 0), shards=(), fingerprint="0" * 64)
    full = Split(rows=sum(shard_rows), class_counts=(sum(shard_rows), 0, 0), shards=tuple(shards), fingerprint="1" * 64)
    return Manifest(
        format_version=DATASET_FORMAT_VERSION,
        fingerprint="2" * 64,
        class_names=CLASS_NAMES,
        image=Image(channels=3, height=8, width=8, color="rgb", resize="exact", filter="bilinear"),
        splits={name: full if name == split else none for name in SPLITS},
        statistics=Statistics(
            mean=(0.5,) * 3, std=(0.2,) * 3, pixel_histogram=((1,) * 256,) * 3, class_shares=(1.0, 0, 0)
        ),
        rows_in=sum(shard_rows),
        refused={},
        source={},
        config={},
        versions={},
    )


def small_net(manifest: Manifest, *, dropout: float = 0.0) -> Net:
    """A net of a few thousand parameters for the manifest's images."""
    blocks = (Block(4, padding=1, pool=2), Block(6, padding=1, pool=2))
    return Net(manifest.image.shape, len(manifest.class_names), blocks, (8,), dropout)


def default_net(manifest: Manifest) -> Net:
    """The default preset for the manifest's images."""
    return net_for(ModelConfig(preset="default"), manifest.image.shape, len(manifest.class_names))


def train_config(dataset: Dataset, *, optimizer: OptimizerConfig | None = None, **values: Any) -> TrainConfig:
    """A config that trains on ``dataset``."""
    return TrainConfig(dataset=dataset.path, name="test", optimizer=optimizer or OptimizerConfig(), **values)


def description_of(manifest: Manifest) -> dict[str, Any]:
    """What ``model.json`` says of the default net for the manifest's data, without the format version."""
    statistics = manifest.statistics
    return {
        "architecture": dataclasses.asdict(default_net(manifest)),
        "class_names": manifest.class_names,
        "image": manifest.image.model_dump(),
        "mean": statistics.mean,
        "std": statistics.std,
        "data_fingerprint": manifest.fingerprint,
        "drift_reference": {"pixel_histogram": statistics.pixel_histogram, "class_shares": statistics.class_shares},
        "config": {"seed": 0},
        "git_commit": None,
        "metrics": {},
        "versions": {},
    }


def bundle_of(module: Classifier, manifest: Manifest) -> Bundle:
    """A whole bundle of a module."""
    graph = export_onnx(module, manifest.image.shape, manifest.class_names)
    files = {ONNX: graph, SAFETENSORS: weights(module), DESCRIPTION: describe(description_of(manifest))}
    return Bundle(files)


def score_config(dataset: str, output: Path, *, target_rows: int | None = 64, **values: Any) -> ScoreConfig:
    """A config that scores the test split of a data set."""
    return ScoreConfig(
        input=InputConfig(kind="dataset", uri=dataset, split="test"),
        model="models:/digits/1",
        output=str(output),
        units=UnitsConfig(target_rows=target_rows),
        **values,
    )


def scoring_model(manifest: Manifest, digest: str = "d" * 64) -> ScoringModel:
    """A registered model that fits the manifest's images."""
    return ScoringModel("digits", "1", digest, manifest.class_names, manifest.image.shape, flops=10_000)
