"""DDP by hand over tensors in memory, after https://docs.pytorch.org/tutorials/intermediate/ddp_tutorial.html.

The better setting on two cores: float32 normalized once, channels_last, one thread a process.
"""

import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.peers import common


def demo(rank: int, world_size: int, port: int, args: common.argparse.Namespace, told: mp.Queue) -> None:
    """One rank."""
    common.join_group(rank, world_size, port)
    images, labels = common.read(args.dataset, "train")
    x = torch.from_numpy(common.normalized(images[rank::world_size])).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels[rank::world_size])
    model = DistributedDataParallel(common.net().to(memory_format=torch.channels_last))
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = args.batch_size // world_size
    rates = []
    for _ in range(args.epochs):
        began = time.perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x), batch):
            chosen = order[start : start + batch]
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                loss = loss_fn(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rates.append(common.rate_of_slowest(len(images), began))
    if rank == 0:
        told.put(rates)
    dist.destroy_process_group()


def main() -> None:
    """Train, and tell images a second for each epoch."""
    args = common.options(dataset="", epochs=3, precision="fp32", batch_size=128, workers=2)
    common.on_ranks(demo, args)


if __name__ == "__main__":
    main()
