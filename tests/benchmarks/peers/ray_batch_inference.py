"""Batch inference with Ray Data, after https://docs.ray.io/en/latest/data/batch_inference.html.

Read, preprocess with ``map_batches``, predict with ``map_batches`` in a pool of actors, write Parquet. The input is
Parquet with packed images; with ``--encoded`` Parquet with image files as bytes, which Pillow decodes in the first map;
with ``--folder`` image files, read with ``read_images``. ``--engine onnx`` is the same with ONNX Runtime in its actor.
With the same batch size in both maps Ray Data runs them in one process; with ``--map-rows 1024``, the default, it runs
them apart. Which is the better setting depends on the processor. ``--channels-last`` is not in the guide; it makes the
eager net faster on CPUs.
"""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from PIL import Image

from tests.benchmarks.peers import common


def to_float(batch: dict[str, Any]) -> dict[str, Any]:
    """Packed bytes to normalized float32."""
    images = np.frombuffer(b"".join(batch["image"]), np.uint8).reshape(-1, *common.SHAPE)
    return {"id": batch["id"], "image": common.normalized(images)}


def to_uint8(batch: dict[str, Any]) -> dict[str, Any]:
    """Packed bytes to arrays; the exported graph normalizes."""
    return {"id": batch["id"], "image": np.frombuffer(b"".join(batch["image"]), np.uint8).reshape(-1, *common.SHAPE)}


def decode(batch: dict[str, Any]) -> dict[str, Any]:
    """Image files to normalized float32."""
    found = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")).transpose(2, 0, 1) for each in batch["image"]]
    return {"id": batch["id"], "image": common.normalized(np.stack(found))}


def read_to_float(batch: dict[str, Any]) -> dict[str, Any]:
    """What ``read_images`` gives to normalized float32."""
    return {"id": batch["path"], "image": common.normalized(batch["image"].transpose(0, 3, 1, 2))}


class TorchPredictor:
    """The eager net."""

    def __init__(self, weights: str, folder: str, channels_last: bool) -> None:
        torch.set_num_threads(1)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = common.net().to(memory_format=self.layout).eval()
        self.meter = common.Meter(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Probabilities of a batch."""
        with torch.inference_mode():
            images = torch.as_tensor(batch["image"]).contiguous(memory_format=self.layout)
            found = self.model(images).softmax(dim=1).numpy()
        self.meter(len(found))
        return {"id": batch["id"], "probabilities": found, "prediction": found.argmax(axis=1)}


class OnnxPredictor:
    """The exported graph."""

    def __init__(self, weights: str, folder: str, channels_last: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name
        self.meter = common.Meter(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Probabilities of a batch."""
        found = self.session.run([self.output], {self.name: batch["image"]})[0]
        self.meter(len(found))
        return {"id": batch["id"], "probabilities": found, "prediction": found.argmax(axis=1)}


def main() -> None:
    """Score, and tell rows a second."""
    args = common.options(
        paths="",
        folder="",
        output="",
        onnx="",
        engine="torch",
        actors=2,
        batch_size=128,
        encoded=False,
        channels_last=False,
        map_rows=0,
    )
    # Two CPUs for the actors and two for reading, mapping and writing, on however many cores there are.
    common.start_ray(args.actors + 2)
    if args.folder:
        dataset = ray.data.read_images(args.folder, include_paths=True, mode="RGB").map_batches(
            read_to_float, batch_size=args.map_rows or args.batch_size
        )
    else:
        files = sorted(map(str, Path(args.paths).glob("*.parquet")))
        by_engine = to_uint8 if args.engine == "onnx" else to_float
        dataset = ray.data.read_parquet(files, columns=["id", "image"])
        dataset = dataset.map_batches(
            decode if args.encoded else by_engine, batch_size=args.map_rows or args.batch_size
        )
    with tempfile.TemporaryDirectory() as meters:
        predictions = dataset.map_batches(
            OnnxPredictor if args.engine == "onnx" else TorchPredictor,
            fn_constructor_args=(args.onnx, meters, args.channels_last),
            compute=ray.data.ActorPoolStrategy(size=args.actors),
            batch_size=args.batch_size,
        )
        predictions.write_parquet(args.output)
        rate = common.steady(meters)
    import pyarrow.parquet as pq

    rows = sum(pq.ParquetFile(path).metadata.num_rows for path in Path(args.output).glob("*.parquet"))
    common.tell(rows=rows, images_per_s_steady=rate, images_per_s=rows / common.since_start())


if __name__ == "__main__":
    main()
