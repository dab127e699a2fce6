import pytest
import torch
from torch import nn

from cnnjob.config.train import OptimizerConfig
from cnnjob.training.optim import Average, class_weights, learning_rate, make_optimizer, set_learning_rate

PEAK = 0.5


def rates(schedule: str, steps: int) -> list[float]:
    config = OptimizerConfig(schedule=schedule, learning_rate=PEAK)
    return [learning_rate(config, step, steps) for step in range(steps)]


def test_constant_is_constant():
    """The constant schedule has the peak rate at every step."""
    assert set(rates("constant", 20)) == {PEAK}


def test_cosine_falls_from_the_peak_to_zero():
    """The cosine schedule begins at the peak, never rises, passes half of it midway and ends at zero."""
    found = rates("cosine", 21)
    assert found == sorted(found, reverse=True)
    assert (found[0], found[10], found[-1]) == pytest.approx((PEAK, PEAK / 2, 0), abs=1e-12)


def test_one_cycle_rises_then_falls():
    """One cycle rises from peak/25 to the peak in the first three tenths and falls to peak/250,000."""
    found = rates("one_cycle", 101)
    top = found.index(max(found))
    assert top == 30
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert (found[0], found[top], found[-1]) == pytest.approx((PEAK / 25, PEAK, PEAK / 25 / 1e4))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_rates_stay_between_zero_and_the_peak(schedule, steps):
    """In runs of any length every rate is at least zero and at most the peak."""
    assert all(0 <= rate <= PEAK for rate in rates(schedule, steps))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_first_step_of_a_short_run_moves(steps):
    """Even in a run of one step the first step has a rate above zero."""
    assert all(rates(schedule, steps)[0] > 0 for schedule in ("constant", "cosine", "one_cycle"))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizer_is_the_configured_one(name, kind):
    """The optimizer has the configured kind, rate and decay, and takes the rate that is set."""
    config = OptimizerConfig(name=name, learning_rate=PEAK, weight_decay=0.25)
    optimizer = make_optimizer(config, [nn.Parameter(torch.ones(2))])
    assert type(optimizer) is kind
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (PEAK, 0.25)
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


def test_average_follows_its_definition():
    """The moving average is decay * average + (1 - decay) * weights, its decay growing as (1 + k) / (10 + k)."""
    weight = torch.zeros(3, dtype=torch.float64)
    average = Average([weight], decay=0.5)
    expected = 0.0
    for step in range(20):
        weight.fill_(float(step**2))
        average.update([weight], step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step**2
        assert average.tensors[0].tolist() == pytest.approx([expected] * 3)


def test_average_is_a_copy():
    """Updating the average leaves the weights, and changing the weights leaves the average."""
    weight = nn.Parameter(torch.ones(2))
    average = Average([weight], decay=0.9)
    with torch.no_grad():
        weight.fill_(5.0)
    assert average.tensors[0].tolist() == [1.0, 1.0]
    average.update([weight], 0)
    assert weight.tolist() == [5.0, 5.0]
    assert not average.tensors[0].requires_grad


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_a_warm_up_rises_to_the_peak(schedule):
    """With a warm-up the rate rises, above zero from the first step on, to the peak; then the schedule runs."""
    config = OptimizerConfig(schedule=schedule, learning_rate=PEAK, warmup_share=0.2)
    found = [learning_rate(config, step, 101) for step in range(101)]
    assert found[0] > 0
    assert found[:21] == sorted(found[:21])
    assert found[20] == pytest.approx(PEAK)
    assert found[20:] == sorted(found[20:], reverse=True)
    assert (found[-1] == PEAK) == (schedule == "constant")


def test_class_weights_average_to_one():
    """Balanced weights give each class the same sum over its rows and every row a weight of 1 on average."""
    counts = [900, 90, 10, 0]
    weights = class_weights(counts).tolist()
    sums = [count * weight for count, weight in zip(counts, weights, strict=True)]
    assert sums[:3] == pytest.approx([1000 / 3] * 3)
    assert sum(sums) == pytest.approx(1000)
    assert weights[3] == 0
