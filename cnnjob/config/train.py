"""Every knob of ``cnnjob train``: the net, the optimization, the workers, where things are kept."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from cnnjob.config.base import GIVEN, TRACKING_RULES, Check, Config, Name, TrackingConfig, Uri, no_passwords, rule

MAX_PARAMETERS = 500_000_000
"""Of a net. ONNX keeps a model in one protobuf message, which holds less than 2 GiB, and a parameter takes 4 bytes."""


class BlockConfig(Config):
    """One block of a net: convolution, ReLU, and a max-pool where `pool` is not 1."""

    filters: int = Field(ge=1, le=4096)
    """Output channels of the convolution."""

    kernel: int = Field(default=3, ge=1, le=31)
    """Side of the square kernel, in pixels."""

    stride: int = Field(default=1, ge=1, le=8)
    """Step of the convolution, in pixels."""

    padding: int = Field(default=0, ge=0, le=15)
    """Zeros added on each side, in pixels."""

    pool: int = Field(default=1, ge=1, le=8)
    """Side and step of the max-pool; 1 means none."""


class NetConfig(Config):
    """A net written out: blocks, then hidden layers, then one output a class."""

    blocks: tuple[BlockConfig, ...] = Field(min_length=1, max_length=32, strict=False)
    """The convolutional part, first to last."""

    hidden: tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...] = Field(default=(), max_length=8, strict=False)
    """Widths of the hidden linear layers, first to last, each 1 to 1,000,000. A net has 500,000,000 parameters at
    most, with the data set's images and classes."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer's outputs that is set to 0 in training, at random."""

    flatten_features: int | None = Field(default=None, ge=1, le=MAX_PARAMETERS)
    """Length of the vector that the first linear layer takes. It is computed; a number given here is only compared
    with it, and refused where it differs."""


class ModelConfig(Config):
    """Which net: a preset by name, or a spec written out."""

    preset: Literal["default", "simple", "net", "cnn64"] | None = None
    """`default`: two blocks of 3x3 convolutions (16 and 32 filters, padding 1, pool 2), one hidden layer of 64.
    `simple`: one block of 8 filters of 3x3, padding 1, pool 2. `net`: one block of 16 filters of 3x3 without padding,
    pool 2. `cnn64`: two blocks of 5x5 convolutions (10 and 20 filters, no padding, pool 2), one hidden layer of 50,
    made for 64x64."""

    spec: NetConfig | None = None
    """A net of your own, layer by layer; instead of `preset`."""


class OptimizerConfig(Config):
    """The optimizer and its learning rate."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with Nesterov momentum 0.9."""

    learning_rate: float = Field(default=3e-3, gt=0, le=10)
    """Peak learning rate, for a step of `global_batch_size` images."""

    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Decoupled weight decay (`adamw`) or L2 penalty (`sgd`)."""

    schedule: Literal["constant", "cosine", "one_cycle"] = "one_cycle"
    """The learning rate over the run's steps. `constant`: the peak to the end. `cosine`: from the peak down to 0 at the
    last step, along half a cosine. `one_cycle`: along half cosines from 1/25 of the peak up to it, then down to
    1/250,000 of it at the last step. Only `one_cycle` has a warm-up by default, see `warmup_share`."""

    warmup_share: float | None = Field(default=None, ge=0, le=1)
    """Warm-up: share of the run's steps in which the learning rate rises to its peak. Default: 0.3 for `one_cycle`, 0
    for the others, whose rate rises in a straight line."""

    gradient_clip: float | None = Field(default=None, gt=0, le=1_000_000_000)
    """Largest norm of a step's gradient over all weights; a larger one is scaled down to it. Default: no limit."""

    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay for each step of an exponential moving average (EMA) of the weights, such as 0.999; the averaged weights
    are then what is evaluated and registered. Default: no average."""


class AugmentConfig(Config):
    """Random changes of the training pictures, drawn anew for each picture in each epoch."""

    flip: bool = False
    """Mirror half of the pictures, left to right."""

    shift: int = Field(default=0, ge=0, le=64)
    """Largest shift up, down, left and right, in pixels; what becomes free is black."""

    cutout: int = Field(default=0, ge=0, le=512)
    """Side of a square at a random place that is made black, in pixels; 0: none."""


class TrainConfig(Config):
    """A job that trains one classifier and registers it."""

    dataset: Uri
    """Folder of a prepared data set."""

    name: Name
    """The run's name, and its identity: under the same name a run that stopped goes on, and a finished one is not
    trained again. Only these keys may differ then: `storage`, `tracking`, `cpus_per_worker`,
    `cache_bytes_per_worker`, `data_cpus`, `max_failures`, `grace_s`, `register_as`; any other changed key is refused,
    so more epochs need a new name."""

    model: ModelConfig = Field(default_factory=lambda: ModelConfig(preset="default"))
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)

    num_epochs: int = Field(default=10, ge=1, le=100_000)
    """Passes over the training split."""

    global_batch_size: int = Field(default=128, ge=1, le=1_000_000)
    """Images in one optimizer step, over all workers. The last step of an epoch takes what is left."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each training label that is spread evenly over all classes; 0: none."""

    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a row of a rare class weighs more in training, in inverse proportion to its class's share."""

    augment: AugmentConfig = Field(default_factory=AugmentConfig)

    early_stopping_epochs: int | None = Field(default=None, ge=1, le=100_000)
    """End the training after this many epochs in a row that were no better than the best one: better is a higher
    validation accuracy, or the same accuracy with a lower loss. Default: all epochs are run."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights, optimizer and metrics are float32 either way."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the initial weights, the order of rows, augmentation and dropout."""

    num_workers: int = Field(default=2, ge=1, le=4096)
    """Data-parallel (DDP) worker processes."""

    cpus_per_worker: float = Field(default=1, gt=0, le=1024)
    """CPUs that each worker reserves in Ray, and threads that it runs: a fraction is rounded down, to one at least."""

    use_gpu: bool = False
    """One GPU for each worker."""

    compile: bool = False
    """Compile the net with torch.compile. Only on GPUs: on CPUs it makes training slower."""

    cache_bytes_per_worker: int = Field(default=2_000_000_000, ge=1, le=10**15)
    """Memory that each worker may spend on its rows, as uint8 pixels, in bytes. Where they take more, they are read
    from the shards in every epoch, with the same batches and so the same weights."""

    data_cpus: int = Field(default=1, ge=1, le=4096)
    """CPUs, over the whole job, that decode image files beside the workers. Only used, and reserved, for data sets that
    were prepared with `image.storage: encoded`."""

    max_failures: int = Field(default=3, ge=0, le=1000)
    """How often the workers are started again, from the newest checkpoint, after one of them died or hung; after that
    the run fails."""

    grace_s: float = Field(default=30, ge=1, le=3600)
    """Seconds that the workers have to finish their step and write a checkpoint, once the job is told to end (SIGTERM
    or Ctrl-C). Where that is too short, the job ends without it and later goes on from the checkpoint before."""

    storage: Uri = Field(default="runs", validate_default=True)
    """Folder with a sub-folder for each run, which holds its checkpoints and its journal of results. On a cluster it
    must be one that all nodes share."""

    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    register_as: Name | None = None
    """Name under which the model is registered in MLflow. Default: the run's name."""

    @property
    def model_name(self) -> str:
        """Name under which the model is registered."""
        return self.register_as or self.name


@rule(f"model.preset{GIVEN}", f"model.spec{GIVEN}")
def one_net(preset: bool, spec: bool) -> Iterator[str]:  # noqa: FBT001 - as rules are called
    """Exactly one of preset and spec, whatever is wrong in them."""
    if preset == spec:
        yield f"give either model.preset or model.spec; {'both are' if preset else 'neither is'} given"


@rule("model.spec")
def net_is_bounded(spec: NetConfig | None) -> Iterator[str]:
    """What a net has on images of any size and with any classes is within the bound; the rest the data set tells."""
    if spec is not None and (least := least_parameters(spec)) > MAX_PARAMETERS:
        yield (
            f"it has {least:,} parameters even on the smallest images, and a net may have {MAX_PARAMETERS:,}; use "
            f"fewer filters, smaller kernels or narrower hidden layers"
        )


def least_parameters(spec: NetConfig) -> int:
    """Parameters of a net on images of one channel, whose maps are one pixel in the end, and of two classes."""
    channels = [1, *(block.filters for block in spec.blocks)]
    convolutions = sum(
        block.filters * (before * block.kernel**2 + 1) for before, block in zip(channels, spec.blocks, strict=False)
    )
    return convolutions + sum((before + 1) * after for before, after in pairwise([channels[-1], *spec.hidden, 2]))


@rule("global_batch_size", "num_workers")
def batch_reaches_every_worker(global_batch_size: int, num_workers: int) -> Iterator[str]:
    """Each worker has at least one image in a full step."""
    if global_batch_size < num_workers:
        yield (
            f"{global_batch_size} images for {num_workers} workers leave some with none; "
            f"it should be at least num_workers"
        )


@rule("compile", "use_gpu")
def compiled_on_gpus(compile: bool, use_gpu: bool) -> Iterator[str]:  # noqa: A002, FBT001 - named as the keys
    """torch.compile is for GPUs."""
    if compile and not use_gpu:
        yield "torch.compile makes training on CPUs slower; leave it out, or set use_gpu: true"


RULES: tuple[Check, ...] = (
    one_net,
    net_is_bounded,
    batch_reaches_every_worker,
    compiled_on_gpus,
    *TRACKING_RULES,
    *no_passwords("dataset", "storage"),
)
