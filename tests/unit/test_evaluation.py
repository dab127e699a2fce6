import numpy as np
import pytest
import torch

from cnnjob.data.rows import read_rows
from cnnjob.training.evaluation import WORST, Evaluation, merge_evaluations
from cnnjob.training.feed import EvaluationFeed, Place
from cnnjob.training.loop import evaluate, examine
from tests.helpers import Dataset, rows_of

CPU = torch.device("cpu")


def examined(digits: Dataset, module: torch.nn.Module, world_size: int) -> Evaluation:
    """The training rows of the digits, looked at by so many ranks as a worker looks at the test split."""
    parts = []
    for rank in range(world_size):
        feed = EvaluationFeed(digits.path, digits.manifest, "train", Place(rank, world_size), batch_size=64)
        parts.append(examine(module, feed.batches(), device=CPU, num_classes=10, first_row=feed.first_row))
    return merge_evaluations(parts)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_a_mistake_is_the_row_it_names(digits, trained, world_size):
    """The row of a mistake, read from the data set by its number, has its label and is what the net takes it for."""
    worst = examined(digits, trained, world_size).worst
    assert len(worst) == WORST
    split, shape = digits.manifest.splits["train"], digits.manifest.image.shape
    for mistake in worst:
        row = read_rows(digits.path, split, mistake.row, mistake.row + 1, shape)
        with torch.inference_mode():
            probabilities = torch.softmax(trained(torch.from_numpy(row.images)), dim=1)[0].numpy()
        assert (int(row.labels[0]), int(probabilities.argmax())) == (mistake.label, mistake.predicted)
        assert mistake.confidence == pytest.approx(probabilities.max(), rel=1e-4)
        assert mistake.loss == pytest.approx(-np.log(probabilities[mistake.label]), rel=1e-3)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_what_is_counted_does_not_depend_on_the_ranks(digits, trained, world_size):
    """At any world size every row counts once: the counts are the same, and the sums up to rounding."""
    one, found = examined(digits, trained, 1), examined(digits, trained, world_size)
    assert found.tally.rows == digits.manifest.splits["train"].rows
    assert (found.tally.confusion == one.tally.confusion).all()
    assert found.top_k_hits == one.top_k_hits
    assert found.calibration.error == pytest.approx(one.calibration.error, abs=1e-5)
    assert [mistake.row for mistake in found.worst] == [mistake.row for mistake in one.worst]


def test_it_agrees_with_what_chooses_the_best_epoch(digits, trained):
    """Loss and confusion are those that the validation counts."""
    feed = EvaluationFeed(digits.path, digits.manifest, "test", Place(0, 1), batch_size=64)
    told = examine(trained, feed.batches(), device=CPU, num_classes=10, first_row=0).tally
    chosen = evaluate(trained, feed.batches(), device=CPU, num_classes=10)
    assert told.loss == pytest.approx(chosen.loss, rel=1e-6)
    assert (told.confusion == chosen.confusion).all()
    labels = rows_of(digits.path, digits.manifest, "test").labels
    assert told.confusion.sum(axis=1).tolist() == np.bincount(labels, minlength=10).tolist()
