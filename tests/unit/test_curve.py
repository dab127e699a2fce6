import pytest

from pipelines.curve import draw


def test_one_epoch_is_no_curve():
    """Fewer than two epochs have nothing to draw."""
    assert draw([], [], "loss") == draw([1.0], [1.0], "loss") == []


@pytest.mark.parametrize("count", [2, 3, 10, 200])
def test_a_curve_fits_eighty_columns(count):
    """Any number of epochs fits a terminal, with the largest and smallest value and the last epoch at its edges."""
    values = [2.5 / (1 + epoch) for epoch in range(count)]
    lines = draw(values, [value + 0.1 for value in values], "loss")
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[0] == "2.6"
    assert lines[-3].split()[0] == f"{values[-1]:.3g}"
    assert lines[-1].endswith(f"epoch {count}")


def test_values_stand_where_they_belong():
    """What falls begins at the top on the left and ends at the bottom on the right; two that are equal are one."""
    lines = draw([1.0, 0.0], [0.0, 1.0], "loss")
    top, bottom = lines[1].partition("┤")[2], lines[-3].partition("┤")[2]
    assert (top[0], top[-1]) == ("·", "●")
    assert (bottom[0], bottom[-1]) == ("●", "·")
    assert all(set(line.partition("┤")[2].strip()) <= {"◉", " "} for line in draw([2.0, 1.0], [2.0, 1.0], "loss")[1:-2])


def test_a_steep_curve_is_one_stroke():
    """Between neighbouring columns no line is left out, however fast the values fall."""
    rows = [line.partition("┤")[2] for line in draw([9.0, *[0.1] * 99], [9.0, *[0.0] * 99], "loss")[1:-2]]
    assert all(row.strip() for row in rows)


def test_the_scale_is_as_wide_for_any_loss():
    """However small or large the values, the curve begins in the same column."""
    for last in (3.0184e-4, 1.2345e-7, 0.5, 123456.7):
        assert {line.index("┤") for line in draw([9.0, last], [9.0, last], "loss")[1:-2]} == {9}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_curve(value):
    """A value that cannot be drawn leaves the curve out; it does not end the command."""
    assert draw([1.0, 0.5], [1.0, value], "loss") == []


def test_a_flat_curve_is_drawn():
    """Values that are all the same make a line, not a division by zero."""
    assert any("◉" in line for line in draw([1.0, 1.0], [1.0, 1.0], "loss")[1:])
