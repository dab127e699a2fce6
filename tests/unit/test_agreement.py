"""What rank 0 is asked, and that all ranks hear the answer before the same step."""

import os
import tempfile
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from cnnjob.training.feed import Place
from cnnjob.training.group import EVERY, agreement
from tests.forked import PROCESSES

STEPS = 5 * EVERY
FROM = EVERY + 1
"""The step before which rank 0 is asked to stop."""


def test_a_rank_that_is_alone_does_a_step_before_it_leaves():
    should_stop = agreement(Place(0, 1), lambda: True, None)
    assert (should_stop(), should_stop()) == (False, True)


class Carrier:
    """Averaging whose ranks all hear what was asked of this one."""

    asks = asked = False

    def average(self, values: Any) -> None:
        """One step's gradients."""
        del values
        self.asked = self.asks


def test_a_question_travels_with_the_gradients_of_the_step_it_was_asked_before():
    carrier, asked = Carrier(), iter([False, True, True])
    should_stop = agreement(Place(0, 2), lambda: next(asked), carrier)
    answers = []
    for _ in range(3):
        answers.append(should_stop())
        carrier.average(None)
    assert answers == [False, False, True]


def test_ranks_other_than_the_first_ask_nothing():
    carrier = Carrier()
    agreement(Place(1, 2), lambda: True, carrier)()
    assert not carrier.asks


def beside(rank: int, ranks: int, store: str, told: Any) -> None:
    """A rank whose gradients carry nothing: the step before which it hears that it is to stop."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    step = 0
    should_stop = agreement(Place(rank, ranks), lambda: step >= FROM, None)
    while step < STEPS and not should_stop():
        step += 1
    told.put((rank, step))
    dist.barrier()


@pytest.mark.parametrize("ranks", [2, 3])
def test_beside_the_gradients_all_hear_before_the_same_step(ranks):
    with tempfile.TemporaryDirectory() as folder:
        told = PROCESSES.SimpleQueue()
        processes = [
            PROCESSES.Process(target=beside, args=(rank, ranks, f"{folder}/store", told), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        # It is sent before every fourth step, and heard before the next.
        assert sorted(told.get() for _ in processes) == [(rank, 2 * EVERY + 1) for rank in range(ranks)]
