"""What a training is checked for before anything is started or written: its net, its rows, its memory."""

from collections.abc import Iterator

from cnnjob.cluster.session import own_memory
from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest
from cnnjob.errors import ConfigError, Mistake, ModelError
from cnnjob.models.presets import net_for
from cnnjob.models.spec import Net
from cnnjob.training.memory import check_fits


def fitting_net(config: TrainConfig, manifest: Manifest) -> Net:
    """The net, where it and the rest of the config fit the data set.

    Raises:
        ConfigError: With all that does not.
    """
    mistakes = [*_missing_splits(manifest), *_nothing_left(config, manifest)]
    net: Net | None = None
    try:
        net = net_for(config.model, manifest.image.shape, len(manifest.class_names))
    except ModelError as error:
        mistakes.append(Mistake("model", str(error)))
    if mistakes or net is None:
        raise ConfigError(f"{config.name}, with {config.dataset},", mistakes)
    return net


def check_memory(config: TrainConfig, manifest: Manifest, net: Net) -> None:
    """The training fits the memory of this machine, where it runs on it; a cluster's nodes have their own.

    Raises:
        ResourceError: It does not, with the arithmetic.
    """
    if (memory := own_memory()) is not None:
        check_fits(config, manifest, net, memory)


def _missing_splits(manifest: Manifest) -> Iterator[Mistake]:
    """The best epoch is the one with the best validation, and what is registered has been tested."""
    given = manifest.config["split"]["method"] == "given"
    for split in ("val", "test"):
        if not manifest.splits[split].rows:
            advice = (
                "give its source some, or set split.method to hash or stratified"
                if given
                else f"prepare it with a larger split.{split}, or with more images"
            )
            yield Mistake(
                "dataset",
                f"it has no {split} rows. The best epoch is chosen on val and measured on test, so both need some: "
                f"{advice}",
            )


def _nothing_left(config: TrainConfig, manifest: Manifest) -> Iterator[Mistake]:
    """What is moved or cut out of a picture leaves some of it."""
    side = min(manifest.image.height, manifest.image.width)
    for key, pixels in (("shift", config.augment.shift), ("cutout", config.augment.cutout)):
        if pixels >= side:
            what = f"{pixels} would leave nothing of some pictures, which are {side} pixels on a side"
            yield Mistake(f"augment.{key}", what)
