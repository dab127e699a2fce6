import numpy as np
import pytest

from cnnjob.training.order import epoch_order, is_stuck, num_steps, rank_range, share, step_slices


def test_shares_are_dealt_from_the_first_rank():
    """What does not divide goes to the lower ranks, one each."""
    assert [share(11, rank, 4) for rank in range(4)] == [3, 3, 3, 2]


def test_last_step_may_leave_ranks_without_rows():
    """Where fewer rows are left than there are ranks, the higher ranks take a step with none."""
    slices = [list(step_slices(17, 8, rank, 3))[-1] for rank in range(3)]
    assert [(part.stop - part.start, rows) for part, rows in slices] == [(1, 1), (0, 1), (0, 1)]


def test_no_rows_are_no_steps():
    """Without rows there is no step, and every rank's range is empty."""
    assert num_steps(0, 8) == 0
    assert list(step_slices(0, 8, 0, 2)) == []
    assert rank_range(0, 8, 1, 2) == (0, 0)


@pytest.mark.parametrize("changed", [{"seed": 2}, {"epoch": 4}, {"rank": 1}])
def test_order_depends_on_seed_epoch_and_rank(changed):
    """Another seed, epoch or rank is another order; the same three are the same order."""
    base = {"seed": 1, "epoch": 3, "rank": 0}
    assert np.array_equal(epoch_order(50, **base), epoch_order(50, **base))
    assert not np.array_equal(epoch_order(50, **base), epoch_order(50, **{**base, **changed}))


def test_order_is_pinned():
    """The order never changes between versions: a run goes on in the order it was begun with."""
    assert epoch_order(8, seed=1, epoch=2, rank=3).tolist() == [4, 2, 6, 5, 1, 3, 7, 0]


@pytest.mark.parametrize(
    ("epoch", "best", "patience", "stuck"),
    [(5, 5, 1, False), (5, 4, 1, True), (5, 4, 2, False), (9, 4, 5, True), (100, 1, None, False)],
)
def test_patience_ends_after_epochs_without_a_better_one(epoch, best, patience, stuck):
    """Training ends when as many epochs as configured came after the best one; without patience it never does."""
    assert is_stuck(epoch, best, patience) == stuck
