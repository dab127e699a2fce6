"""``cnnjob trace``: a net, stage by stage, by arithmetic alone; with a picture, what each layer makes of it."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cnnjob import storage
from cnnjob.config.prepare import ImageConfig, LimitsConfig
from cnnjob.config.train import TrainConfig
from cnnjob.errors import CnnjobError, UserError
from cnnjob.models.presets import PRESETS, net_for, net_of
from cnnjob.models.spec import FLOAT_BYTES, Net, Stage
from cnnjob.models.trace import trace
from pipelines.console import Console

if TYPE_CHECKING:
    from cnnjob.models.bundle import Bundle

Shape = tuple[int, int, int]
"""Channels, height, width."""

BATCH = 1000
BAR_WIDTH = 40
SHOWN_CLASSES = 10
PICTURE_BYTES = 4_000_000_000
"""Of the weights and all maps, where a picture is run."""
_MODEL = re.compile(r"models:/[^@/]+(@[^@/]+|/[0-9]+)")
"""As a score config takes it."""


@dataclass(frozen=True)
class LayerRange:
    """What one layer makes of the picture: shape, smallest, mean and largest value."""

    name: str
    shape: tuple[int, ...]
    smallest: float
    mean: float
    largest: float


@dataclass(frozen=True)
class TraceResult:
    """What ``cnnjob trace --json`` prints.

    Attributes:
        stages: In logical order.
        parameters: Trained numbers in all.
        flops: Of one image.
        layers: With a picture: what each layer makes of it.
        probabilities: With a picture: by class, largest first.
        png: With a picture: where the maps are drawn.
    """

    stages: tuple[Stage, ...]
    parameters: int
    flops: int
    layers: tuple[LayerRange, ...] = ()
    probabilities: dict[str, float] = dataclasses.field(default_factory=dict)
    png: str | None = None


def of_conf(config: TrainConfig, shape: Shape | None, num_classes: int | None, console: Console) -> Net:
    """The net of a train conf, on images as given, else those of its data set.

    Where that cannot be read, also because it is yet to be prepared, the usual ones are taken, and told.

    Raises:
        ModelError: There is no such net for these images.
    """
    if shape is not None and num_classes is not None:
        return net_for(config.model, shape, num_classes)
    found = _of_dataset(config.dataset)
    if found is None:
        usual = PRESETS[config.model.preset or "default"]
        found = usual.shape, usual.num_classes
        missing = {"--shape": _shape(usual.shape)} if shape is None else {}
        missing |= {"--classes": f"{usual.num_classes} classes"} if num_classes is None else {}
        console.note(
            f"There is no prepared data set that can be read at {config.dataset}: "
            f"assumed {' and '.join(missing.values())}; give {' and '.join(missing)}"
        )
    return net_for(config.model, shape or found[0], found[1] if num_classes is None else num_classes)


def _of_dataset(dataset: str) -> tuple[Shape, int] | None:
    """Shape and number of classes of a prepared data set; None where there is none, or it cannot be read."""
    from cnnjob.data.manifest import read_manifest

    try:
        manifest = read_manifest(dataset)
    except CnnjobError:
        return None
    return manifest.image.shape, len(manifest.class_names)


def of_model(uri: str, tracking: str) -> tuple[Net, "Bundle"]:
    """The net of a registered model, and its bundle.

    Args:
        uri: Of the model.
        tracking: Where MLflow is, as in a config.

    Raises:
        UserError: The URI is of another form.
    """
    if not _MODEL.fullmatch(uri):
        name = uri.removeprefix("models:").strip("/").partition("@")[0].partition("/")[0] or "NAME"
        raise UserError(f"--model {uri!r} should be models:/{name}@champion or models:/{name}/1")
    from cnnjob.tracking.registry import resolve
    from cnnjob.tracking.server import connect

    bundle = resolve(connect(tracking), uri).bundle
    return net_of(bundle.description.architecture), bundle


def run(net: Net, *, image: str | None, bundle: "Bundle | None", png: str, console: Console) -> TraceResult:
    """Trace a net; with a picture, run it, with the bundle's weights or untrained ones, and draw the maps.

    Raises:
        UserError: The picture cannot be run, or the maps would be drawn over it.
    """
    found = trace(net)
    result = TraceResult(found.stages, found.parameters, found.flops)
    if image is None:
        return result
    _check_runs(result, net)
    if os.path.realpath(png) == os.path.realpath(image):
        raise UserError(f"the maps would be drawn over the picture, {image}; give another file with --png")
    return _with_picture(result, net, image, bundle, png, console)


def _check_runs(result: TraceResult, net: Net) -> None:
    """Raises where no picture can be run through the net: it has other channels, or is too large."""
    if net.shape[0] not in (1, 3):
        raise UserError(
            f"--image needs a net for gray or color pictures, 1 or 3 channels, and this one has {net.shape[0]}; "
            f"give another --shape, or leave --image out"
        )
    needed = FLOAT_BYTES * (result.parameters + sum(math.prod(stage.shape_out) for stage in result.stages))
    if needed > PICTURE_BYTES:
        raise UserError(
            f"one picture in this net takes {needed / 1e9:,.1f} GB of memory, and --image takes "
            f"{PICTURE_BYTES / 1e9:g} GB at most; leave --image out, or trace a smaller net or smaller images"
        )


def _with_picture(
    result: TraceResult, net: Net, image: str, bundle: "Bundle | None", png: str, console: Console
) -> TraceResult:
    from cnnjob.data.decode import Refusal
    from cnnjob.data.formats.encoded import decode
    from cnnjob.models.cnn import build
    from cnnjob.models.feature_maps import draw_feature_maps
    from cnnjob.models.layers import layers
    from cnnjob.models.restore import restored

    limits, form = LimitsConfig(), _form(net, bundle)
    try:
        content = storage.read_bounded(image, limits.max_bytes)
    except FileNotFoundError as error:
        raise UserError(f"--image {image} does not exist; give the path or URI of a picture") from error
    pixels = decode(content, form, limits)
    if isinstance(pixels, Refusal):
        raise UserError(f"--image {image} cannot be used: {pixels.reason}, {pixels.detail}")
    if bundle is None:
        channels = net.shape[0]
        module = build(net, [0.5] * channels, [0.25] * channels, seed=0)
        console.note("These are untrained weights (seed 0); give --model for those of a registered model")
        class_names = tuple(str(number) for number in range(net.num_classes))
    else:
        module = restored(bundle)
        class_names = bundle.description.class_names
    found = layers(module, pixels)
    storage.write_bytes(png, draw_feature_maps(found, class_names))
    ranges = tuple(
        LayerRange(
            layer.name,
            layer.values.shape,
            float(layer.values.min()),
            float(layer.values.mean()),
            float(layer.values.max()),
        )
        for layer in found
    )
    shares = sorted(zip(class_names, found[-1].values.tolist(), strict=True), key=lambda pair: -pair[1])
    return dataclasses.replace(result, layers=ranges, probabilities=dict(shares), png=png)


def _form(net: Net, bundle: "Bundle | None") -> ImageConfig:
    """The canonical form of the model's data set; without a model, whatever fits the net."""
    if bundle is not None:
        from cnnjob.models.bundle import image_form

        return image_form(bundle.description)
    channels, height, width = net.shape
    return ImageConfig(color="gray" if channels == 1 else "rgb", height=height, width=width, resize="fit_pad")


def show(result: TraceResult, console: Console) -> None:
    """The stages as a table, shapes for a batch of 1000; the layers of a picture, and bars of its probabilities."""
    rows = [
        [
            stage.name,
            stage.does,
            _shape((BATCH, *stage.shape_in)),
            _shape((BATCH, *stage.shape_out)),
            stage.parameters,
            f"{stage.flops / 1e6:.3f}",
        ]
        for stage in result.stages
    ]
    console.table(["stage", "what it does", "in", "out", "parameters", "MFLOP an image"], rows)
    largest = max(math.prod(stage.shape_out) for stage in result.stages)
    console.say(
        f"{result.parameters:,} parameters, {result.flops / 1e6:.2f} MFLOP an image, largest map {largest:,} numbers"
    )
    if not result.layers:
        return
    ranges = [[layer.name, _shape(layer.shape), layer.smallest, layer.mean, layer.largest] for layer in result.layers]
    console.table(["layer", "shape", "smallest", "mean", "largest"], ranges)
    shown = list(result.probabilities.items())[:SHOWN_CLASSES]
    console.table(
        ["class", "probability", ""], [[name, share, "█" * round(share * BAR_WIDTH)] for name, share in shown]
    )
    console.say(f"The maps are drawn in {result.png}")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)
