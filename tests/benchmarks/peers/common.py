"""What the peers share: the default net as plain torch, rows of shards, Ray with room for its own data tasks.

A peer is one way to do the job as its documentation shows it. It imports nothing of ours; a prepared data set is to it
a folder of Parquet files with ``id``, ``image`` (C x H x W bytes) and ``label``.
"""

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from torch import nn

MEAN, STD = 0.2860, 0.3530
"""Of Fashion-MNIST's training images, on the 0..1 scale."""
SHAPE = (3, 32, 32)


def net() -> nn.Sequential:
    """The default net for 3 x 32 x 32 and ten classes."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2048, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def files(dataset: str, split: str) -> list[str]:
    """The Parquet files of a split."""
    return sorted(str(path) for path in Path(dataset, split).glob("*.parquet"))


def read(dataset: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images N x C x H x W and int64 labels."""
    table = pq.read_table(files(dataset, split), columns=["image", "label"])
    images = np.stack([pixels(chunk) for chunk in (table.column("image").combine_chunks(),)])[0]
    return images, table.column("label").to_numpy().astype(np.int64)


def pixels(column: Any) -> np.ndarray:
    """A column of packed images as an array."""
    return np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, *SHAPE)


def normalized(images: np.ndarray) -> np.ndarray:
    """float32, as the net wants it."""
    return (images.astype(np.float32) / 255 - MEAN) / STD


def options(**defaults: Any) -> argparse.Namespace:
    """Options of a peer, each with its default; the type is the default's."""
    parser = argparse.ArgumentParser()
    for name, value in defaults.items():
        kind = {"action": "store_true"} if value is False else {"type": type(value), "default": value}
        parser.add_argument(f"--{name.replace('_', '-')}", **kind)
    return parser.parse_args()


def since_start() -> float:
    """Seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def tell(**figures: Any) -> None:
    """The last line of a peer's output."""
    sys.stdout.write(json.dumps({**figures, "seconds": since_start()}) + "\n")
    sys.stdout.flush()


def on_ranks(rank_main: Callable[..., None], args: argparse.Namespace) -> None:
    """Run ``rank_main(rank, world_size, port, args, told)`` in a process for each worker, and tell the rates."""
    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = mp.get_context("spawn").SimpleQueue()
    mp.spawn(rank_main, (args.workers, port, args, told), nprocs=args.workers)
    tell(images_per_s=told.get())


def join_group(rank: int, world_size: int, port: int) -> None:
    """One thread, and a place among the ranks."""
    import torch
    import torch.distributed as dist

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)


def rate_of_slowest(images: int, began: float) -> float:
    """Images a second of an epoch that began then, by the rank that took longest."""
    import torch
    import torch.distributed as dist

    seconds = torch.tensor(time.perf_counter() - began)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return images / float(seconds)


def start_ray(num_cpus: int) -> None:
    """A Ray of this process alone; training workers and actors must leave CPUs to data tasks, or nothing moves."""
    import logging

    import ray

    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class Meter:
    """Rows per second of a process that is handed batches, from its own clock."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder, f"{os.getpid()}.log")

    def __call__(self, rows: int) -> None:
        """A batch is done."""
        with self._path.open("a") as file:
            file.write(f"{time.time()} {rows}\n")


def steady(folder: str) -> float:
    """Rows a second of all meters together, from the first finished batch to the last; the first is not counted."""
    lines = [line.split() for path in Path(folder).glob("*.log") for line in path.read_text().splitlines()]
    done = sorted((float(at), int(rows)) for at, rows in lines)
    return sum(rows for _, rows in done[1:]) / (done[-1][0] - done[0][0])
