"""What the benchmarks work on, made once in a folder: data sets, piles of files, a registered model.

Fashion-MNIST where Debian's package has it; the 600,000 rows are its files ten times, under names of their own.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cnnjob.data.manifest import MANIFEST, Manifest, read_manifest
from cnnjob.data.rows import read_rows
from tests.piles import FASHION

FILES = 20_000


class Material:
    """Folders of the benchmarks, below one; each is made when it is first asked for.

    Attributes:
        root: The folder.
        trained: Where a model has just been registered as ``bench``; None: one is trained when it is asked for.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trained: Path | None = None
        root.mkdir(parents=True, exist_ok=True)

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        folder, begun = self.root / name, self.root / f"{name}.begun"
        if not folder.exists():
            subprocess.run(["rm", "-rf", str(begun)], check=True)
            make(begun)
            begun.rename(folder)
        return folder

    @property
    def fashion(self) -> Path:
        """The prepared data set: 3 x 32 x 32, packed; 60,000 rows for training and validation, 10,000 for the test."""
        return self._fashion(None)

    def _fashion(self, rows_per_group: int | None) -> Path:
        if not FASHION.exists():
            sys.exit("The benchmarks need Fashion-MNIST: apt install dataset-fashion-mnist")
        name, shards = "fashion", {}
        if rows_per_group is not None:
            name, shards = f"fashion-{rows_per_group}", {"rows_per_group": rows_per_group}
        return self._made(name, lambda folder: cnnjob("prepare", self.idx_config(folder, **shards)))

    def idx_config(self, output: Path, **shards: int) -> Path:
        """The config that prepares it."""
        return self.config(
            "idx",
            output=str(output),
            source={"kind": "idx", "uri": str(FASHION)},
            image={"color": "rgb", "height": 32, "width": 32, "resize": "pad"},
            split={"method": "given", "val": 0.1},
            **({"shards": shards} if shards else {}),
        )

    def rows(self, times: int, rows_per_group: int | None = None) -> Path:
        """Training rows are the 60,000 of training and validation, ``times`` times; the test split is there too."""
        fashion = self._fashion(rows_per_group)

        def make(folder: Path) -> None:
            given = read_manifest(str(fashion))
            shards = []
            (folder / "train").mkdir(parents=True)
            for number in range(times):
                for shard in (*given.splits["train"].shards, *given.splits["val"].shards):
                    path = f"train/{number:02d}-{shard.path.replace('/', '-')}"
                    os.link(fashion / shard.path, folder / path)
                    shards.append(shard.model_copy(update={"path": path}))
            train = given.splits["train"].model_copy(
                update={"rows": sum(shard.rows for shard in shards), "shards": tuple(shards)}
            )
            shutil.copytree(fashion / "test", folder / "test", copy_function=os.link)
            splits = {**given.splits, "train": train}
            manifest: Manifest = given.model_copy(update={"splits": splits})
            (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")))

        return self._made(f"rows-{times}{f'-{rows_per_group}' if rows_per_group else ''}", make)

    @property
    def files(self) -> Path:
        """A folder of ``FILES`` image files, half PNG, half JPEG, below a folder for each class."""

        def make(folder: Path) -> None:
            manifest = read_manifest(str(self.fashion))
            rows = read_rows(str(self.fashion), manifest.splits["train"], 0, FILES, manifest.image.shape)
            for number, (image, label) in enumerate(zip(rows.images, rows.labels, strict=True)):
                kind = "png" if number % 2 else "jpeg"
                path = folder / manifest.class_names[label].replace(" ", "-") / f"{number:05d}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                file = io.BytesIO()
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, kind.upper())
                path.write_bytes(file.getvalue())

        return self._made("files", make)

    @property
    def many_files(self) -> Path:
        """The same files three times, under names of their own: scoring them takes longer than starting to."""

        def make(folder: Path) -> None:
            for time in range(3):
                shutil.copytree(self.files, folder / str(time), copy_function=os.link)

        return self._made("many-files", make)

    @property
    def inside_parquet(self) -> Path:
        """Those as bytes inside Parquet, with their ids."""

        def make(folder: Path) -> None:
            folder.mkdir()
            paths = sorted(self.many_files.rglob("*.*"))
            for number in range(0, len(paths), FILES // 4):
                part = paths[number : number + FILES // 4]
                ids = [str(path.relative_to(self.many_files)) for path in part]
                table = pa.table({"id": ids, "image": [path.read_bytes() for path in part]})
                pq.write_table(table, folder / f"{number:05d}.parquet", row_group_size=1000, compression="none")

        return self._made("inside-many", make)

    @property
    def tracking(self) -> Path:
        """Where a model of the default net is registered as ``bench``."""
        if self.trained is not None:
            return self.trained
        folder = self.root / "mlflow"
        # MLflow keeps absolute paths, so this one is made in its place.
        self._made(
            "model", lambda done: (cnnjob("train", self.train_config("model", folder, num_epochs=1)), done.mkdir())
        )
        return folder

    @property
    def graph(self) -> Path:
        """The registered model's graph."""
        return next(self.tracking.rglob("model.onnx"))

    def train_config(self, name: str, folder: Path, **more: object) -> Path:
        """A config of ``cnnjob train`` with two workers."""
        return self.config(
            name,
            dataset=str(self.fashion),
            name=name,
            model={"preset": "default"},
            optimizer={"learning_rate": 3e-3},
            num_workers=2,
            global_batch_size=128,
            tracking={"uri": str(folder)},
            storage=str(folder / "runs"),
            register_as="bench",
            **more,
        )

    def score_config(
        self, name: str, given: dict[str, object], output: Path, unit_rows: int | None = None, **engine: object
    ) -> Path:
        """A config of ``cnnjob score``."""
        return self.config(
            name,
            input=given,
            model="models:/bench/1",
            output=str(output),
            date="2024-03-01",
            engine=engine,
            units={"target_rows": unit_rows},
            tracking={"uri": str(self.tracking)},
        )

    def config(self, file: str, /, **document: object) -> Path:
        """A config as a file; JSON is YAML."""
        path = self.root / f"{file}.yaml"
        path.write_text(json.dumps(document, indent=1))
        return path


def cnnjob(command: str, config: Path) -> None:
    """Run the command, quietly."""
    subprocess.run([sys.executable, "-m", "pipelines", command, str(config), "--json"], check=True, capture_output=True)
