"""A net as arithmetic: the shape, the parameters and the work of each stage, without torch.

A spec is what the exported model, the trace and the trained module have in common. It refuses a net whose maps
shrink to nothing, and names the layer. Names of axes: N images, C channels, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt, prod

from cnnjob.errors import ModelError

_NORMALIZES = "pixel / 255 (128 becomes 0.502), minus the channel's mean, over its deviation"
_RECTIFIES = "below 0 becomes 0"


@dataclass(frozen=True)
class Block:
    """A convolution, a ReLU, and a max-pool where ``pool`` is above 1.

    Attributes:
        filters: Output channels.
        kernel: Side of the kernel, in pixels.
        stride: Step of the convolution, in pixels.
        padding: Zeros on each side, in pixels.
        pool: Side and step of the max-pool; 1 means none.
    """

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    pool: int = 1


@dataclass(frozen=True)
class Net:
    """A whole classifier.

    Attributes:
        shape: Channels, height, width of an image.
        num_classes: Outputs.
        blocks: The convolutional part, first to last.
        hidden: Widths of the hidden linear layers, first to last.
        dropout: Share of each hidden layer's outputs dropped in training.
        flatten_features: Length of the vector after the last map, for people who want theirs checked; None: computed.
    """

    shape: tuple[int, int, int]
    num_classes: int
    blocks: tuple[Block, ...]
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    flatten_features: int | None = None


@dataclass(frozen=True)
class Stage:
    """One step of the net, for one image.

    Attributes:
        name: What the stage is called, such as ``conv1``.
        kind: input, normalize, conv, relu, pool, flatten, linear or softmax.
        does: What it does, in a few words.
        shape_in: Shape of one image's values before the stage.
        shape_out: The same after it.
        parameters: Trained numbers in the stage.
        flops: Floating point operations for one image, a multiplication and an addition counted as two.
    """

    name: str
    kind: str
    does: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    parameters: int = 0
    flops: int = 0


def stages(net: Net) -> list[Stage]:
    """The stages in logical order: ReLU before the max-pool, as people draw it.

    Raises:
        ModelError: A map shrinks to nothing, a size is not positive, or the stated ``flatten_features`` are not those
            of the maps; the message names the layer, and the sizes before and after it.
    """
    return list(_stages(net))


def largest_map(net: Net) -> int:
    """Numbers in the largest map of an image, of what goes from one stage to the next."""
    return max(prod(stage.shape_out) for stage in stages(net))


FLOAT_BYTES = 4
EVALUATION_ROWS = 512
EVALUATION_BYTES = 64 << 20
"""Of a batch's largest map, where a net is only evaluated: one of 224 x 224 would be 1.6 GB with all rows."""


def evaluation_batch(net: Net) -> int:
    """Images that are evaluated at once."""
    return batch_within(EVALUATION_BYTES, FLOAT_BYTES * largest_map(net), (1, EVALUATION_ROWS))


def batch_within(room: int, image_bytes: int, bounds: tuple[int, int]) -> int:
    """The largest power of two of images that have room in so many bytes, but not less or more than the bounds."""
    least, most = bounds
    fitting = max(1, room // image_bytes)
    return min(most, max(least, 1 << (fitting.bit_length() - 1)))


def features_of(net: Net) -> int:
    """Length of the vector between the last map and the first linear layer."""
    return next(stage.shape_out[0] for stage in stages(net) if stage.kind == "flatten")


def _stages(net: Net) -> Iterator[Stage]:
    channels, height, width = net.shape
    size = channels * height * width
    if min(net.shape) < 1 or net.num_classes < 2:  # noqa: PLR2004 - one class is nothing to classify
        raise ModelError(f"a net needs images of at least 1x1x1 and 2 classes, not {net.shape} and {net.num_classes}")
    shape = net.shape
    yield Stage("input", "input", "uint8 pixels, 0 to 255", shape, shape)
    yield Stage("normalization", "normalize", _NORMALIZES, shape, shape, flops=2 * size)
    for number, block in enumerate(net.blocks, start=1):
        for stage in _block(number, block, shape):
            yield stage
            shape = (stage.shape_out[0], stage.shape_out[1], stage.shape_out[2])
    features = shape[0] * shape[1] * shape[2]
    _check_stated(net, shape, features)
    yield Stage("flatten", "flatten", "all maps as one vector", shape, (features,))
    for number, width_out in enumerate(net.hidden, start=1):
        yield _linear(f"linear{number}", features, width_out)
        yield Stage(f"relu{len(net.blocks) + number}", "relu", _RECTIFIES, (width_out,), (width_out,), flops=width_out)
        features = width_out
    yield _linear("output", features, net.num_classes)
    classes = (net.num_classes,)
    yield Stage("softmax", "softmax", "probabilities that sum to 1", classes, classes, flops=3 * net.num_classes)


def _check_stated(net: Net, maps: tuple[int, int, int], features: int) -> None:
    stated = net.flatten_features
    if stated is None or stated == features:
        return
    side = isqrt(stated // maps[0])
    # What was meant is told where it can be: as many square maps as there are.
    meant = f" ({maps[0]}x{side}x{side})" if maps[0] * side * side == stated else ""
    raise ModelError(
        f"flatten_features is {stated}{meant}, but the maps are {maps[0]}x{maps[1]}x{maps[2]} = {features}; "
        f"state {features}, or leave it out"
    )


def _block(number: int, block: Block, shape: tuple[int, int, int]) -> Iterator[Stage]:
    channels, height, width = shape
    kernel = block.kernel
    out_h = (height + 2 * block.padding - kernel) // block.stride + 1
    out_w = (width + 2 * block.padding - kernel) // block.stride + 1
    if out_h < 1 or out_w < 1:
        raise ModelError(
            f"conv{number}: a kernel of {kernel}x{kernel}, step {block.stride}, padding {block.padding}, makes maps "
            f"of {max(out_h, 0)}x{max(out_w, 0)} from maps of {height}x{width}; use a smaller kernel, more padding or "
            f"less pooling before it"
        )
    conv = (block.filters, out_h, out_w)
    weights = channels * kernel * kernel
    yield Stage(
        f"conv{number}",
        "conv",
        f"{block.filters} filters of {channels}x{kernel}x{kernel}, step {block.stride}, padding {block.padding}",
        shape,
        conv,
        parameters=block.filters * (weights + 1),
        flops=2 * weights * block.filters * out_h * out_w,
    )
    yield Stage(f"relu{number}", "relu", _RECTIFIES, conv, conv, flops=block.filters * out_h * out_w)
    if block.pool > 1:
        pooled = (block.filters, out_h // block.pool, out_w // block.pool)
        if min(pooled) < 1:
            raise ModelError(
                f"pool{number}: a max-pool of {block.pool}x{block.pool} makes maps of {pooled[1]}x{pooled[2]} from "
                f"maps of {out_h}x{out_w}; use a smaller pool, more padding or larger images"
            )
        does = f"the largest of each {block.pool}x{block.pool}"
        yield Stage(f"pool{number}", "pool", does, conv, pooled, flops=block.filters * out_h * out_w)


def _linear(name: str, features_in: int, features_out: int) -> Stage:
    parameters = (features_in + 1) * features_out
    does = f"{features_out} weighted sums of {features_in} values"
    return Stage(name, "linear", does, (features_in,), (features_out,), parameters, 2 * features_in * features_out)
