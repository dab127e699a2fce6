import pytest

from cnnjob.training.observations import observations


def epochs(*rows: tuple[float, float, float]) -> list[dict[str, float]]:
    """Epochs of (training loss, validation loss, validation accuracy)."""
    return [{"train_loss": train, "val_loss": loss, "val_accuracy": accuracy} for train, loss, accuracy in rows]


BEGIN = (1.0, 0.8, 0.70)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((0.8, 0.6, 0.80), "improving, best so far"),
        ((0.8, 0.6, 0.60), "improving"),
        ((0.8, 0.795, 0.71), "flattening, best so far"),
        ((0.8, 0.805, 0.69), "flattening"),
        ((0.8, 0.9, 0.60), "worse"),
        ((0.8, 0.9, 0.75), "worse, best so far"),
        ((1.1, 0.9, 0.60), "worse"),
        ((0.8, 0.79, 0.70), "improving, best so far"),
    ],
)
def test_an_epoch_is_compared_with_those_before(second, expected):
    """Each observation follows from the losses and the accuracy, by the rules of the module."""
    assert observations(epochs(BEGIN, second)) == ["first", expected]


def test_overfitting_is_three_epochs_above_the_lowest_loss():
    """The third epoch in a row more than 2 % above the lowest loss is overfitting, also where the loss falls again."""
    rows = [BEGIN, (0.5, 0.5, 0.8), (0.4, 0.52, 0.7), (0.3, 0.7, 0.7), (0.2, 0.6, 0.7)]
    assert observations(epochs(*rows)) == ["first", "improving, best so far", "worse", "worse", "overfitting"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ((0.3, 0.0160, 0.7), ["worse", "worse", "improving"]),
        ((0.6, 0.0170, 0.7), ["worse", "worse", "flattening"]),
        ((0.3, 0.0170, 0.9), ["worse", "worse", "flattening, best so far"]),
    ],
    ids=["the loss is back", "the training loss has not fallen", "the best so far"],
)
def test_noise_is_not_overfitting(last, expected):
    """Not three in a row, no lower training loss, or an epoch that would be registered: no overfitting."""
    rows = [BEGIN, (0.5, 0.0160, 0.8), (0.4, 0.0165, 0.7), (0.4, 0.0170, 0.7), last]
    assert observations(epochs(*rows))[2:] == expected


def test_best_so_far_is_the_epoch_that_would_be_registered():
    """Of equal accuracy and loss the earlier epoch stays the best."""
    assert observations(epochs(BEGIN, BEGIN))[1] == "flattening"


def test_no_epochs_have_no_observations():
    """Nothing in, nothing out."""
    assert observations([]) == []
