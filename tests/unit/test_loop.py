import copy

import pytest
import torch
from torch.nn import functional as F

from cnnjob.models.cnn import build
from cnnjob.training.feed import EvaluationFeed, Place, Run, TrainingFeed
from cnnjob.training.loop import Loss, NotFiniteError, Trainer, evaluate, train_epoch
from cnnjob.training.metrics import Tally, merge
from tests.helpers import small_net, training_rows

CPU = torch.device("cpu")
BATCH = 8


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Data sets whose last batch of 8 has 7, 1, 2 and 3 rows; the last has no full batch at all."""
    folder = tmp_path_factory.mktemp("loop")
    return {rows: training_rows(folder / str(rows), rows) for rows in (23, 17, 26, 3)}


@pytest.fixture(scope="module")
def dataset(datasets):
    return datasets[23]


def classifier(dataset):
    statistics = dataset.manifest.statistics
    return build(small_net(dataset.manifest), statistics.mean, statistics.std, seed=3).double()


def feed(dataset, rank, world_size):
    return TrainingFeed(Run(dataset.path, dataset.manifest, Place(rank, world_size), BATCH, 0))


def gradients_of_rank(model, dataset, rank, world_size) -> list[list[torch.Tensor]]:
    """The gradients of each step as the loop computes them; a learning rate of 0 keeps the weights."""
    model = copy.deepcopy(model)
    found = []

    def after(_: int) -> None:
        found.append([parameter.grad.clone() for parameter in model.parameters()])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(model, optimizer, world_size, lambda _: None, after, CPU)
    train_epoch(trainer, feed(dataset, rank, world_size).epoch(1), first_step=0, tally=Tally.zero(3))
    return found


def gradient_of_mean(model, batches) -> list[torch.Tensor]:
    """The gradient of the mean loss over the union of the ranks' batches."""
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    loss = F.cross_entropy(model(images), labels)
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("rows", [23, 17, 26, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_averaged_gradients_are_those_of_the_global_mean(datasets, rows, world_size):
    """The ranks' gradients, averaged as DDP does, are the gradient of the mean loss over the global batch.

    Also in last batches that leave ranks with unequally many rows, or with none.
    """
    dataset = datasets[rows]
    model = classifier(dataset)
    by_rank = [gradients_of_rank(model, dataset, rank, world_size) for rank in range(world_size)]
    steps = zip(*(feed(dataset, rank, world_size).epoch(1) for rank in range(world_size)), strict=True)
    for number, batches in enumerate(steps):
        expected = gradient_of_mean(model, batches)
        averaged = [sum(parts) / world_size for parts in zip(*(rank[number] for rank in by_rank), strict=True)]
        for found, wanted in zip(averaged, expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_tallies_of_ranks_are_those_of_one(datasets, world_size):
    """Evaluation at any world size counts the same confusion, and the same loss up to rounding."""
    dataset = datasets[26]
    model = classifier(dataset).float()

    def tally(rank: int, ranks: int):
        batches = EvaluationFeed(dataset.path, dataset.manifest, "train", Place(rank, ranks), batch_size=4).batches()
        return evaluate(model, batches, device=CPU, num_classes=3)

    whole, merged = tally(0, 1), merge([tally(rank, world_size) for rank in range(world_size)])
    assert whole.rows == 26
    assert (merged.confusion == whole.confusion).all()
    assert merged.loss == pytest.approx(whole.loss, rel=1e-6)


def test_training_tally_counts_every_row(dataset):
    """The sums of an epoch are over each training row once, as predicted before each step's update."""
    model = classifier(dataset)
    before: list[torch.nn.Module] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, 1, lambda _: before.append(copy.deepcopy(model)), lambda _: None, CPU)
    found = train_epoch(trainer, feed(dataset, 0, 1).epoch(1), first_step=0, tally=Tally.zero(3)).tally
    steps = zip(before, feed(dataset, 0, 1).epoch(1), strict=True)
    expected = merge([evaluate(net, [batch], device=CPU, num_classes=3) for net, batch in steps])
    unmoved = evaluate(before[0], feed(dataset, 0, 1).epoch(1), device=CPU, num_classes=3)
    assert found.rows == 23
    assert (found.confusion == expected.confusion).all()
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.loss != pytest.approx(unmoved.loss, rel=1e-6)


def test_steps_are_numbered_through_the_run(dataset):
    """An epoch numbers its steps from the first step it is given, before and after each update."""
    model = classifier(dataset)
    seen: list[tuple[str, int]] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(
        model, optimizer, 1, lambda k: seen.append(("before", k)), lambda k: seen.append(("after", k)), CPU
    )
    train_epoch(trainer, feed(dataset, 0, 1).epoch(1), first_step=6, tally=Tally.zero(3))
    assert seen == [(when, k) for k in (6, 7, 8) for when in ("before", "after")]


def test_evaluation_leaves_the_model_alone(dataset):
    """Evaluating changes no weight and leaves no gradient, and switches dropout off."""
    net = small_net(dataset.manifest, dropout=0.5)
    model = build(net, (0.5,) * 3, (0.2,) * 3, seed=0)
    before = copy.deepcopy(model.state_dict())
    batches = EvaluationFeed(dataset.path, dataset.manifest, "train", Place(0, 1), batch_size=4)
    first = evaluate(model, batches.batches(), device=CPU, num_classes=3)
    assert evaluate(model, batches.batches(), device=CPU, num_classes=3).loss_sum == first.loss_sum
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_learns(digits, trained):
    """One epoch on the digits classifies most of the validation split."""
    batches = EvaluationFeed(digits.path, digits.manifest, "val", Place(0, 1), batch_size=64).batches()
    assert evaluate(trained, batches, device=CPU, num_classes=10).accuracy > 0.8


def trainer_of(model, **values) -> Trainer:
    """A trainer in one process whose learning rate of 0 keeps the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return Trainer(model, optimizer, 1, lambda _: None, lambda _: None, CPU, **values)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_smoothed_and_weighted_ranks_add_up_to_torchs_loss(dataset, world_size):
    """Label smoothing and class weights: the ranks' gradients average to that of torch's smoothed, weighted losses."""
    model = classifier(dataset)
    loss = Loss(label_smoothing=0.1, class_weights=torch.tensor([0.5, 2.0, 1.0]))
    batches = [next(iter(feed(dataset, rank, world_size).epoch(1))) for rank in range(world_size)]
    parts = []
    for batch in batches:
        total = loss.row_sum(model(batch.images), batch.labels) * (world_size / batch.global_rows)
        parts.append(torch.autograd.grad(total, list(model.parameters())))
    images, labels = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels"))
    rows = F.cross_entropy(model(images), labels, reduction="none", label_smoothing=0.1)
    expected = torch.autograd.grad((rows * loss.class_weights[labels]).mean(), list(model.parameters()))
    for grads, wanted in zip(zip(*parts, strict=True), expected, strict=True):
        assert torch.allclose(sum(grads) / world_size, wanted, atol=1e-6)


def test_what_is_counted_is_the_plain_loss(dataset):
    """Smoothing and weights change what is minimized, not the loss and the accuracy that are reported."""
    model = classifier(dataset)
    strange = Loss(label_smoothing=0.5, class_weights=torch.tensor([3.0, 0.1, 1.0]))
    tallies = [
        train_epoch(trainer_of(model, loss=loss), feed(dataset, 0, 1).epoch(1), first_step=0, tally=Tally.zero(3)).tally
        for loss in (Loss(), strange)
    ]
    assert tallies[0].loss == tallies[1].loss
    assert (tallies[0].confusion == tallies[1].confusion).all()


def test_a_clipped_gradient_has_the_bound_as_its_norm(dataset):
    """A gradient above the bound is scaled down to it; one below is left alone."""
    norms = []
    for bound in (None, 1e-3, 1e6):
        model = classifier(dataset)
        trainer = trainer_of(model, gradient_clip=bound)
        train_epoch(trainer, [next(iter(feed(dataset, 0, 1).epoch(1)))], first_step=0, tally=Tally.zero(3))
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)
    assert norms[2] == pytest.approx(norms[0])


def test_a_gradient_that_is_not_finite_ends_the_epoch(dataset):
    """The step whose gradient is not finite is named, and the weights are those before it."""
    model = classifier(dataset)
    before = copy.deepcopy(model.state_dict())

    def spoil(step: int) -> None:
        if step == 2:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.0), 1, spoil, lambda _: None, CPU)
    with pytest.raises(NotFiniteError) as told:
        train_epoch(trainer, feed(dataset, 0, 1).epoch(1), first_step=0, tally=Tally.zero(3))
    assert told.value.step == 2
    assert not told.value.loss_is_finite
    name = next(reversed(before))
    assert torch.equal(model.state_dict()[name], before[name])
