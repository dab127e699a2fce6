"""A net as arithmetic: the shape, the parameters and the work of each stage, without torch.

A spec is what the exported model, the trace and the trained module have in common. It refuses a net whose maps
shrink to nothing, and names the layer. Names of axes: N images, C channels, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cnnjob.errors import ModelError


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
    """

    shape: tuple[int, int, int]
    num_classes: int
    blocks: tuple[Block, ...]
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One step of the net, for one image.

    Attributes:
        name: What the stage is called, such as ``conv1``.
        kind: input, normalize, conv, relu, pool, flatten, linear or softmax.
        shape_in: Shape of one image's values before the stage.
        shape_out: The same after it.
        parameters: Trained numbers in the stage.
        flops: Floating point operations for one image, a multiplication and an addition counted as two.
    """

    name: str
    kind: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    parameters: int = 0
    flops: int = 0


def stages(net: Net) -> list[Stage]:
    """The stages in logical order: ReLU before the max-pool, as people draw it.

    Raises:
        ModelError: A map shrinks to nothing, or a size is not positive; the message names the layer.
    """
    return list(_stages(net))


def flatten_features(net: Net) -> int:
    """Length of the vector between the last map and the first linear layer."""
    return next(stage.shape_out[0] for stage in stages(net) if stage.kind == "flatten")


def _stages(net: Net) -> Iterator[Stage]:
    channels, height, width = net.shape
    size = channels * height * width
    if min(net.shape) < 1 or net.num_classes < 2:  # noqa: PLR2004 - one class is nothing to classify
        raise ModelError(f"a net needs images of at least 1x1x1 and 2 classes, not {net.shape} and {net.num_classes}")
    shape = net.shape
    yield Stage("input", "input", shape, shape)
    yield Stage("normalization", "normalize", shape, shape, flops=2 * size)
    for number, block in enumerate(net.blocks, start=1):
        for stage in _block(number, block, shape):
            yield stage
            shape = (stage.shape_out[0], stage.shape_out[1], stage.shape_out[2])
    features = shape[0] * shape[1] * shape[2]
    yield Stage("flatten", "flatten", shape, (features,))
    for number, width_out in enumerate(net.hidden, start=1):
        yield _linear(f"linear{number}", features, width_out)
        yield Stage(f"relu{len(net.blocks) + number}", "relu", (width_out,), (width_out,), flops=width_out)
        features = width_out
    yield _linear("output", features, net.num_classes)
    yield Stage("softmax", "softmax", (net.num_classes,), (net.num_classes,), flops=3 * net.num_classes)


def _block(number: int, block: Block, shape: tuple[int, int, int]) -> Iterator[Stage]:
    channels, height, width = shape
    kernel = block.kernel
    out_h = (height + 2 * block.padding - kernel) // block.stride + 1
    out_w = (width + 2 * block.padding - kernel) // block.stride + 1
    if out_h < 1 or out_w < 1:
        raise ModelError(
            f"conv{number}: a kernel of {kernel}x{kernel} with padding {block.padding} does not fit on maps of "
            f"{height}x{width}; use a smaller kernel, more padding or less pooling before it"
        )
    conv = (block.filters, out_h, out_w)
    weights = channels * kernel * kernel
    yield Stage(
        f"conv{number}",
        "conv",
        shape,
        conv,
        parameters=block.filters * (weights + 1),
        flops=2 * weights * block.filters * out_h * out_w,
    )
    yield Stage(f"relu{number}", "relu", conv, conv, flops=block.filters * out_h * out_w)
    if block.pool > 1:
        pooled = (block.filters, out_h // block.pool, out_w // block.pool)
        if min(pooled) < 1:
            raise ModelError(
                f"pool{number}: a max-pool of {block.pool}x{block.pool} shrinks maps of {out_h}x{out_w} to nothing; "
                f"use a smaller pool, more padding or larger images"
            )
        yield Stage(f"pool{number}", "pool", conv, pooled, flops=block.filters * out_h * out_w)


def _linear(name: str, features_in: int, features_out: int) -> Stage:
    parameters = (features_in + 1) * features_out
    return Stage(name, "linear", (features_in,), (features_out,), parameters, 2 * features_in * features_out)
