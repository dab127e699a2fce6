"""What Ray Train is asked to start in a Ray that ends with its job."""

from pathlib import Path
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy.factory import create_scaling_policy

from cnnjob.training.trainer import OwnRayTrainer


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the controller of a training of two workers is given, where Ray Train would start it."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", lambda _, **given: found.update(given))
    scaling, run = ScalingConfig(num_workers=2), RunConfig(name="n", storage_path=str(tmp_path))
    trainer = OwnRayTrainer(print, scaling_config=scaling, run_config=run)
    trainer._initialize_and_run_controller(
        callbacks=trainer._create_default_callbacks(), scaling_policy=create_scaling_policy(scaling)
    )
    return found


def test_no_actor_waits_for_the_controllers_death(given: dict[str, Any]) -> None:
    assert "PlacementGroupCleanerCallback" not in [type(each).__name__ for each in given["callbacks"]]


def test_no_actor_hands_out_data_sets(given: dict[str, Any]) -> None:
    assert "DatasetsCallback" not in [type(each).__name__ for each in given["callbacks"]]


def test_what_sets_workers_up_stays(given: dict[str, Any]) -> None:
    names = [type(each).__name__ for each in given["callbacks"]]
    assert {"BackendSetupCallback", "AcceleratorSetupCallback", "UserCallbackHandler"} <= set(names)


def test_no_autoscaler_is_asked_for_nodes(given: dict[str, Any]) -> None:
    policy = given["scaling_policy"]
    policy._send_resource_request()  # An error where it asked: no client is set up before the controller runs.
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2
