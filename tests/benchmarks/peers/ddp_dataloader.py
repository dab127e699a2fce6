"""DDP with a DataLoader and a DistributedSampler, after https://docs.pytorch.org/tutorials/beginner/ddp_series_multigpu.html.

The better setting on two cores: a TensorDataset, and no loader processes, which would take the cores from training.
"""

import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from tests.benchmarks.peers import common


def ddp_main(rank: int, world_size: int, port: int, args: common.argparse.Namespace, told: mp.Queue) -> None:
    """One rank."""
    common.join_group(rank, world_size, port)
    images, labels = common.read(args.dataset, "train")
    dataset = TensorDataset(torch.from_numpy(common.normalized(images)), torch.from_numpy(labels))
    sampler = DistributedSampler(dataset)
    train_data = DataLoader(dataset, batch_size=args.batch_size // world_size, shuffle=False, sampler=sampler)
    model = DistributedDataParallel(common.net().to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rates = []
    for epoch in range(args.epochs):
        began = time.perf_counter()
        train_data.sampler.set_epoch(epoch)
        for source, targets in train_data:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
                output = model(source.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(output, targets)
            loss.backward()
            optimizer.step()
        rates.append(common.rate_of_slowest(len(images), began))
    if rank == 0:
        told.put(rates)
    dist.destroy_process_group()


def main() -> None:
    """Train, and tell images a second for each epoch."""
    args = common.options(dataset="", epochs=3, precision="fp32", batch_size=128, workers=2)
    common.on_ranks(ddp_main, args)


if __name__ == "__main__":
    main()
