"""The least that Ray Train can do, after https://docs.ray.io/en/latest/train/getting-started-pytorch.html.

Two workers, a linear layer, one step on random numbers: how long a person waits for Ray Train itself.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.peers import common


def train_func(config: dict[str, Any]) -> None:
    """One worker, one step."""
    import ray.train
    import ray.train.torch
    import torch

    loop = time.time()
    model = ray.train.torch.prepare_model(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["folder"], "told.json").write_text(json.dumps({"loop": loop, "step": time.time()}))
    ray.train.report({})


def main() -> None:
    """Train one step, and tell when what was there."""
    args = common.options(workers=2)
    began = time.time() - common.since_start()
    import ray.data  # noqa: F401 - as the job does
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    marks = {"imports": common.since_start()}
    common.start_ray(args.workers)
    marks["ray"] = common.since_start()
    with tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            train_func,
            train_loop_config={"folder": folder},
            scaling_config=ScalingConfig(num_workers=args.workers),
            run_config=RunConfig(storage_path=folder, name="run"),
        )
        trainer.fit()
        told = json.loads(Path(folder, "told.json").read_text())
    marks |= {"workers": told["loop"] - began, "first_step": told["step"] - began}
    common.tell(start=marks, seconds_to_first_step=marks["first_step"])


if __name__ == "__main__":
    main()
