"""What nothing can be faster than here: matrix products, a bare ONNX Runtime loop, a loop that only decodes.

Each in two processes of one thread at once, as the product works; their rates are added. Last line: one JSON object.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROCESSES = 2
SECONDS = 3.0
BATCH = 16
"""What is fastest here, and what the product chooses."""


def matrix(precision: str) -> Callable[[], float]:
    """Products of 1024 x 1024: GFLOP done by a call."""
    import torch

    torch.set_num_threads(1)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(1024, 1024).to(kind), torch.randn(1024, 1024).to(kind)

    def work() -> float:
        torch.mm(left, right)
        return 2 * 1024**3 / 1e9

    return work


def graph(model: str) -> Callable[[], float]:
    """The exported graph over one batch of an array in memory: images done by a call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given, found = session.get_inputs()[0].name, [output.name for output in session.get_outputs()][:1]
    images = np.random.default_rng(0).integers(0, 256, (64 * BATCH, 3, 32, 32), dtype=np.uint8)
    at = 0

    def work() -> float:
        nonlocal at
        session.run(found, {given: images[at : at + BATCH]})
        at = (at + BATCH) % len(images)
        return BATCH

    return work


def decoding(folder: str) -> Callable[[], float]:
    """The product's decoder over files in memory: files done by a call."""
    from cnnjob.config.prepare import ImageConfig, LimitsConfig
    from cnnjob.data.formats.encoded import decode

    contents = [path.read_bytes() for path in sorted(Path(folder).rglob("*.*"))[:4000]]
    form, limits = ImageConfig(color="rgb", height=32, width=32, resize="pad"), LimitsConfig()

    def work() -> float:
        for content in contents:
            decode(content, form, limits)
        return len(contents)

    return work


MAKERS = {"matrix": matrix, "graph": graph, "decoding": decoding}


def measure(kind: str, argument: str, barrier: Any, rates: Any) -> None:
    """One process: the rate of the work while the other does the same."""
    work = MAKERS[kind](argument)
    work()
    barrier.wait()
    began, done = time.perf_counter(), 0.0
    while time.perf_counter() - began < SECONDS:
        done += work()
    rates.put(done / (time.perf_counter() - began))


def main() -> None:
    """Measure one roof."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=MAKERS)
    parser.add_argument("argument")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=measure, args=(args.kind, args.argument, barrier, rates)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    total = sum(rates.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    sys.stdout.write(json.dumps({"rate": total, "largest_mb": used}) + "\n")


if __name__ == "__main__":
    main()
