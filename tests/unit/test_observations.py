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
        ((0.8, 0.9, 0.60), "overfitting"),
        ((0.8, 0.9, 0.75), "overfitting, best so far"),
        ((1.1, 0.9, 0.60), "worse"),
        ((0.8, 0.79, 0.70), "improving, best so far"),
    ],
)
def test_an_epoch_is_compared_with_those_before(second, expected):
    """Each observation follows from the losses and the accuracy, by the rules of the module."""
    assert observations(epochs(BEGIN, second)) == ["first", expected]


def test_overfitting_is_against_the_lowest_loss():
    """A loss that falls again, but is still above its lowest by more than 2 %, is overfitting."""
    assert observations(epochs(BEGIN, (0.5, 0.5, 0.8), (0.3, 0.7, 0.7), (0.2, 0.6, 0.7)))[-1] == "overfitting"


def test_best_so_far_is_the_epoch_that_would_be_registered():
    """Of equal accuracy and loss the earlier epoch stays the best."""
    assert observations(epochs(BEGIN, BEGIN))[1] == "flattening"


def test_no_epochs_have_no_observations():
    """Nothing in, nothing out."""
    assert observations([]) == []
