import io
import warnings

import numpy as np
import pytest
from PIL import Image

from cnnjob.training import figures
from cnnjob.training.evaluation import count, merge_evaluations


def evaluated(classes: int, num_rows: int = 400):
    """An evaluation of random rows that are right more often than not."""
    generator = np.random.default_rng(classes)
    labels = generator.integers(0, classes, num_rows)
    scores = generator.dirichlet(np.ones(classes), num_rows)
    scores[np.arange(num_rows), labels] += generator.uniform(0, 1, num_rows)
    return merge_evaluations([count(labels, np.log(scores / scores.sum(axis=1, keepdims=True)), 0)])


def assert_fits_a_screen(png: bytes) -> None:
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        assert all(200 < side < 2000 for side in picture.size)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_figures_are_drawn_for_any_number_of_classes(classes):
    """Confusion, calibration and mistakes are pictures of a size that a screen shows."""
    found = evaluated(classes)
    names = [f"class number {number}" for number in range(classes)]
    images = [np.zeros((3, 8, 8), np.uint8)] * len(found.worst)
    for png in (
        figures.confusion(found.tally.confusion, names),
        figures.reliability(found.calibration),
        figures.mistakes(found.worst, images, names),
    ):
        assert_fits_a_screen(png)


NAMES = (["$5_x^$", "a $b", "c"], ["日本", "Käfer", "x" * 300], ["[/b]", "a\nb", "c\x1b[31m"])


@pytest.mark.parametrize("names", NAMES)
def test_class_names_may_be_any_text(names):
    """Names that look like formulas, that are long, or that the font does not have, are drawn without a warning."""
    found = evaluated(3)
    images = [np.zeros((1, 8, 8), np.uint8)] * len(found.worst)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for png in (figures.confusion(found.tally.confusion, names), figures.mistakes(found.worst, images, names)):
            assert_fits_a_screen(png)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9999"), (10_000, "10k"), (9_999_999, "9999k"), (10**7, "10M")]
)
def test_counts_fit_into_their_cells(count, text):
    """A count is written in at most five characters."""
    assert figures._count(count) == text


def test_no_mistake_is_said():
    """A split without a mistake, or without a row, has its figures too."""
    assert_fits_a_screen(figures.mistakes((), [], ["a", "b"]))
    assert_fits_a_screen(figures.reliability(merge_evaluations([evaluated(3, 0)]).calibration))


@pytest.mark.parametrize("count_of", [1, 2, 50])
def test_curves_are_drawn_for_any_number_of_epochs(count_of):
    """One epoch is a picture too."""
    keys = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    rows = [{"epoch": number + 1, **dict.fromkeys(keys, 1 / (number + 1))} for number in range(count_of)]
    assert_fits_a_screen(figures.curves(rows, 1))
