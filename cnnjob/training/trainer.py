"""Ray Train's trainer without what nobody needs in a Ray that ends with its job.

For each training Ray Train starts three actors that are neither its controller nor workers: one gives the workers'
places back where the controller dies, on a cluster that lives on; one asks an autoscaler for nodes; one hands data sets
of Ray Data to workers, also where there are none. Each is a Python process: a second or two of a CPU before the first
step, some 1 % of one after it, and a hundred wakings a second between the workers' steps, at which ranks wait for each
other. Ray has no option for any of them.
"""

from typing import Any

from ray.train.torch import TorchTrainer

_FOR_OTHERS = frozenset({"PlacementGroupCleanerCallback", "DatasetsCallback"})
_ASK_AN_AUTOSCALER = ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request")


class OwnRayTrainer(TorchTrainer):  # type: ignore[misc]
    """A ``TorchTrainer`` without data sets, in a Ray that was started for its job and has no autoscaler.

    It overrides a private method of Ray 2.60. Where Ray has changed inside, the actors start as before; that is all.
    """

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if "callbacks" in given:
            given["callbacks"] = [each for each in given["callbacks"] if type(each).__name__ not in _FOR_OTHERS]
        policy = given.get("scaling_policy")
        for name in _ASK_AN_AUTOSCALER:
            if hasattr(policy, name):
                setattr(policy, name, _asks_nobody)
        return super()._initialize_and_run_controller(**given)


def _asks_nobody() -> None:
    pass
