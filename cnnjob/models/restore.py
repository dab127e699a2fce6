"""A classifier from its bundle: the net that ``model.json`` describes, with the weights of ``model.safetensors``."""

from safetensors.torch import load

from cnnjob.models.bundle import SAFETENSORS, Bundle
from cnnjob.models.cnn import Classifier, build
from cnnjob.models.presets import net_of


def restored(bundle: Bundle) -> Classifier:
    """The trained module, on the CPU and in evaluation mode.

    Raises:
        RuntimeError: The weights are not those of the net.
    """
    description = bundle.description
    module = build(net_of(description.architecture), description.mean, description.std, seed=0)
    module.load_state_dict(load(bundle.files[SAFETENSORS]))
    return module.eval()
