import io

import pytest

from pipelines import console as console_of
from pipelines import training_trace
from pipelines.console import Console

KEYS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


def shown(num_epochs: int, names: list[str], *, as_json: bool = False, best: int = 3, said: str = "said") -> str:
    """What is printed of so many epochs, and of classes whose F1 falls from name to name."""
    epochs = [{"epoch": k + 1, **dict.fromkeys(KEYS, 1 / (k + 1)), "observation": said} for k in range(num_epochs)]
    epochs[best - 1]["val_accuracy"] = 2.0
    same = {"precision": 0.5, "recall": 0.5, "support": 7}
    classes = [{"name": name, "f1": 1 - number / 1000, **same} for number, name in enumerate(names)]
    out = io.StringIO()
    test = {"classes": classes, "k": 5, "top_k": 0.9876, "macro_f1": 0.8765, "ece": 0.0321}
    training_trace.show(epochs, test, Console(as_json=as_json, out=out, err=io.StringIO()))
    return out.getvalue()


def epochs_in(text: str) -> list[int]:
    """The epochs of the table."""
    return [int(line.split()[0]) for line in text.splitlines() if line.rstrip().endswith("said")]


def test_few_epochs_and_classes_are_all_there():
    """Each epoch with its observation, the curve, each class in its order, and the figures of the test split."""
    text = shown(4, ["bee", "ant"])
    assert epochs_in(text) == [1, 2, 3, 4]
    assert "epoch 4" in text
    assert text.index("bee") < text.index("ant")
    assert "top-5 accuracy 0.9876, macro F1 0.8765, calibration error 0.0321" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("num_epochs", [11, 12, 40])
def test_of_many_epochs_ten_are_shown(num_epochs):
    """Ten epochs in order, the first, the last and the best among them wherever it is; and where the others are."""
    for best in range(1, num_epochs + 1):
        text = shown(num_epochs, ["a", "b"], best=best)
        found = epochs_in(text)
        assert len(found) == training_trace.MAX_EPOCHS == 10
        assert found == sorted(set(found))
        assert {1, best, num_epochs} <= set(found)
        assert f"10 of {num_epochs} epochs; all are in MLflow" in text


def test_ten_epochs_are_all_shown():
    """Where all fit, nothing is said of others."""
    text = shown(10, ["a", "b"])
    assert epochs_in(text) == [*range(1, 11)]
    assert "MLflow" not in text


def test_in_eighty_columns_an_epoch_is_one_line(monkeypatch):
    """In a narrow terminal the headings are broken, not the longest observation."""
    monkeypatch.setattr(console_of, "PLAIN_WIDTH", 80)
    text = shown(3, ["a", "b"], said="flattening, best so far said")
    assert epochs_in(text) == [1, 2, 3]
    assert text.count("flattening, best so far said") == 3


def test_both_tables_have_the_same_headings():
    """While it goes on and at its end the figures of an epoch have one name each; a rate is a whole number."""
    err = io.StringIO()
    console = Console(as_json=False, out=io.StringIO(), err=err)
    console.row("epochs", training_trace.live({"epoch": 1, **dict.fromkeys(KEYS, 0.5), "images_per_s": 12345.678}))
    heading, row = err.getvalue().splitlines()
    words = " ".join(heading.split())
    assert words == "epoch train loss train accuracy val loss val accuracy images/s"
    assert " ".join(shown(3, ["a", "b"]).split("─")[0].split()) == words.replace("images/s", "observation")
    assert row.split() == ["1", "0.5000", "0.5000", "0.5000", "0.5000", "12,346"]


def test_of_many_classes_the_worst_are_shown():
    """Of 100 classes the 30 with the lowest F1, worst first, and where the others are."""
    text = shown(3, [f"name{number}." for number in range(100)])
    names = [line.split()[0] for line in text.splitlines() if line.strip().startswith("name")]
    assert names == [f"name{number}." for number in range(99, 69, -1)]
    assert "of 100; all are in test.json" in text


@pytest.mark.parametrize("name", ["[/b]", "[red]", "$x^$", "bee é"])
def test_a_class_name_is_shown_as_it_is(name):
    """A name that looks like markup is text."""
    assert name in shown(3, [name, "other"])


def test_json_leaves_standard_output_to_the_result():
    """With --json nothing of it is printed."""
    assert not shown(3, ["a", "b"], as_json=True)
