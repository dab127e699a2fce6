"""Gradients averaged over processes: the same bits whatever carries them, and nothing left behind."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cnnjob.training import averaging
from cnnjob.training.averaging import Messages, SharedMemory
from cnnjob.training.feed import Place
from tests.forked import PROCESSES

LENGTHS = (1, 2, 7, 1000, 1001)
CHUNK = 300
ASKING, ASKED = 1, 8
"""The rank that asks something, and along with which of its averages."""


def given(rank: int, length: int) -> torch.Tensor:
    """What a rank has: numbers of all sizes, so that the order of a sum shows in its last bits."""
    generator = torch.Generator().manual_seed(1000 * length + rank)
    return torch.randn(length, generator=generator) * 10 ** (3 * torch.randn(length, generator=generator))


def expected(ranks: int, length: int) -> torch.Tensor:
    """The mean, added up in the order of the ranks."""
    total = given(0, length)
    for rank in range(1, ranks):
        total = total + given(rank, length)
    return total / ranks


def work(rank: int, ranks: int, store: str, role: str, told: Any) -> None:
    """One rank: averages all lengths, several times over."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    averaging.CHUNK = CHUNK
    averaging._MEMORY, tempfile.tempdir = Path(store).parent, str(Path(store).parent)
    if role in ("elsewhere", "asks elsewhere") and rank == ranks - 1:
        # A rank that does not see the others' memory, as on another machine.
        averaging._mapped = lambda *_: (_ for _ in ()).throw(FileNotFoundError())
    if role == "no sockets" and rank == ranks - 1:
        averaging._listening = lambda *_: (_ for _ in ()).throw(OSError("AF_UNIX path too long"))
    if role == "another machine" and rank == ranks - 1:
        averaging._machine = lambda: "another"
    if role == "no room":
        Path.write_bytes = lambda *_: (_ for _ in ()).throw(OSError(28, "no space"))
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    found = averaging.make_averaging(Place(rank, ranks), max(LENGTHS))
    if role == "dies" and rank == 0:
        os._exit(3)
    sums, asked = [], []
    try:
        for number, length in enumerate(LENGTHS * 3):
            values = given(rank, length)
            found.asks = rank == ASKING and number == ASKED
            found.average(values)
            sums.append(values)
            asked += [number] if found.asked else []
        same = all(torch.equal(each, expected(ranks, len(each))) for each in sums)
    except (ConnectionError, RuntimeError) as error:
        told.put((rank, type(found).__name__, type(error).__name__))
        return
    told.put((rank, type(found).__name__, asked if "asks" in role else same))


def run(ranks: int, role: str = "") -> list[tuple[int, str, Any]]:
    """What each rank tells; nothing of theirs is left, in a part of the machine's memory that nobody else uses."""
    with tempfile.TemporaryDirectory(dir=averaging._MEMORY) as folder:
        told = PROCESSES.SimpleQueue()
        arguments = [(rank, ranks, f"{folder}/store", role, told) for rank in range(ranks)]
        processes = [PROCESSES.Process(target=work, args=each, daemon=True) for each in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert not list(Path(folder).glob("cnnjob-*"))
        return sorted(told.get() for process in processes if process.exitcode == 0)


@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_means_are_added_up_in_the_order_of_the_ranks(ranks):
    """In shared memory, at any world size and length, also over several chunks: the same bits on every rank."""
    assert run(ranks) == [(rank, SharedMemory.__name__, True) for rank in range(ranks)]


@pytest.mark.parametrize("role", ["elsewhere", "another machine", "no sockets", "no room"])
@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_messages_give_the_same_bits(ranks, role):
    """Where a rank does not share the memory, or there is none, all of them use gloo, and every bit is the same."""
    assert run(ranks, role) == [(rank, Messages.__name__, True) for rank in range(ranks)]


@pytest.mark.parametrize(("role", "carrier"), [("asks", SharedMemory), ("asks elsewhere", Messages)])
@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_what_one_rank_asks_all_hear_along_with_the_same_average(ranks, role, carrier):
    assert run(ranks, role) == [(rank, carrier.__name__, [ASKED]) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_nobody_waits_for_a_rank_that_died(ranks):
    """A rank that ends in the middle ends the waiting of all others, at once, with an error."""
    found = run(ranks, "dies")
    assert [(rank, kind) for rank, kind, _ in found] == [(rank, SharedMemory.__name__) for rank in range(1, ranks)]
    assert all(error in {"ConnectionError", "BrokenPipeError", "ConnectionResetError"} for *_, error in found)
