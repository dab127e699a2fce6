"""DDP by hand over tensors in memory, after https://docs.pytorch.org/tutorials/intermediate/ddp_tutorial.html.

The better setting on two cores: float32 normalized once, channels_last, one thread a process.
"""

import os
import socket
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.peers import common


def demo(rank: int, world_size: int, port: int, args: common.argparse.Namespace, told: mp.Queue) -> None:
    """One rank."""
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
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
        seconds = torch.tensor(time.perf_counter() - began)
        dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
        rates.append(len(images) / float(seconds))
    if rank == 0:
        told.put(rates)
    dist.destroy_process_group()


def main() -> None:
    """Train, and tell images a second for each epoch."""
    args = common.options(dataset="", epochs=3, precision="fp32", batch_size=128, workers=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = mp.get_context("spawn").SimpleQueue()
    mp.spawn(demo, (args.workers, port, args, told), nprocs=args.workers)
    common.tell(images_per_s=told.get())


if __name__ == "__main__":
    main()
