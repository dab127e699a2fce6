"""Ray Train fed by Ray Data, after https://docs.ray.io/en/latest/train/user-guides/data-loading-preprocessing.html.

``map_batches`` normalizes to float32, each worker iterates its shard with a local shuffle. ``--materialize`` keeps the
preprocessed rows in the object store, as the same page advises for data that fit there.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn

from tests.benchmarks.peers import common


def preprocess(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """uint8 bytes to normalized float32."""
    images = np.frombuffer(b"".join(batch["image"]), np.uint8).reshape(-1, *common.SHAPE)
    return {"image": common.normalized(images), "label": batch["label"].astype(np.int64)}


def train_func(config: dict[str, Any]) -> None:
    """One worker."""
    torch.set_num_threads(1)
    model = ray.train.torch.prepare_model(common.net().to(memory_format=torch.channels_last))
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    train_data_shard = ray.train.get_dataset_shard("train")
    for epoch in range(config["epochs"]):
        began, first, rows = time.perf_counter(), 0.0, 0
        for batch in train_data_shard.iter_torch_batches(
            batch_size=config["batch_size"], local_shuffle_buffer_size=10 * config["batch_size"], prefetch_batches=2
        ):
            first = first or time.perf_counter() - began
            images = batch["image"].contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=config["precision"] == "bf16"):
                loss = loss_fn(model(images), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rows += len(images)
        told = {"epoch": epoch, "rows": rows, "seconds": time.perf_counter() - began, "first": first}
        rank = ray.train.get_context().get_world_rank()
        Path(config["folder"], f"{epoch}-{rank}.json").write_text(json.dumps(told))
        ray.train.report(told)


def main() -> None:
    """Train, and tell images a second for each epoch."""
    args = common.options(dataset="", epochs=3, precision="fp32", batch_size=128, workers=2, materialize=False)
    # Two CPUs for the workers and two for data tasks: with the workers' alone nothing would move.
    common.start_ray(args.workers + 2)
    train_dataset = ray.data.read_parquet(common.files(args.dataset, "train"), columns=["image", "label"])
    train_dataset = train_dataset.map_batches(preprocess)
    if args.materialize:
        train_dataset = train_dataset.materialize()
    with tempfile.TemporaryDirectory() as folder:
        loop = {"epochs": args.epochs, "precision": args.precision, "folder": folder}
        trainer = TorchTrainer(
            train_func,
            train_loop_config={**loop, "batch_size": args.batch_size // args.workers},
            datasets={"train": train_dataset},
            scaling_config=ScalingConfig(num_workers=args.workers),
            run_config=RunConfig(storage_path=folder, name="run"),
        )
        trainer.fit()
        told = [json.loads(path.read_text()) for path in Path(folder).glob("*-*.json")]
    by_epoch = [[each for each in told if each["epoch"] == epoch] for epoch in range(args.epochs)]
    common.tell(
        images_per_s=[sum(e["rows"] for e in ranks) / max(e["seconds"] for e in ranks) for ranks in by_epoch],
        first_batch_s=[max(each["first"] for each in ranks) for ranks in by_epoch],
    )


if __name__ == "__main__":
    main()
