"""Every knob of ``cnnjob train``: the net, the optimization, the workers, where things are kept."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from cnnjob.config.base import Config, Name, TrackingConfig, Uri, rule, tracking_has_no_password


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

    hidden: tuple[int, ...] = Field(default=(), max_length=8, strict=False)
    """Widths of the hidden linear layers, first to last."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer's outputs that is dropped in training."""

    flatten_features: int | None = Field(default=None, ge=1)
    """Length of the vector between the last maps and the first linear layer, to have yours checked; by default
    computed."""


class ModelConfig(Config):
    """Which net: a preset by name, or a spec written out."""

    preset: Literal["default", "simple", "net", "cnn64"] | None = None
    """`default`: two blocks of 3x3 convolutions (16 and 32 filters, padding 1, pool 2), one hidden layer of 64.
    `simple`: one block of 8 filters of 3x3, padding 1, pool 2. `net`: one block of 16 filters of 3x3 without padding,
    pool 2. `cnn64`: two blocks of 5x5 convolutions (10 and 20 filters, no padding, pool 2), one hidden layer of 50,
    made for 64x64."""

    spec: NetConfig | None = None
    """A net of your own, instead of a preset."""


class OptimizerConfig(Config):
    """How weights move."""

    name: Literal["adamw", "sgd"] = "adamw"
    """`adamw`, or `sgd` with Nesterov momentum 0.9."""

    learning_rate: float = Field(default=3e-3, gt=0, le=10)
    """Peak learning rate, for the global batch."""

    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """Decoupled weight decay (`adamw`) or L2 penalty (`sgd`)."""

    schedule: Literal["constant", "cosine", "one_cycle"] = "one_cycle"
    """The learning rate over the run's steps."""

    warmup_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the run's steps in which the rate rises; by default 0.3 for `one_cycle`, and 0 for the others."""

    gradient_clip: float | None = Field(default=None, gt=0)
    """Largest norm of the whole gradient of a step; a larger one is scaled down to it."""

    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay of the moving average of the weights, a step; the average is then what is evaluated and registered."""


class AugmentConfig(Config):
    """Random changes of the training pictures, on uint8, each picture by itself."""

    flip: bool = False
    """Mirror half of the pictures, left to right."""

    shift: int = Field(default=0, ge=0, le=64)
    """Largest shift in each direction, in pixels; black moves in."""

    cutout: int = Field(default=0, ge=0, le=512)
    """Side of a square that is made black, in pixels; 0: none."""


class TrainConfig(Config):
    """A job that trains one classifier and registers it."""

    dataset: Uri
    """Folder of a prepared data set."""

    name: Name
    """The run's name. It is the run's identity: the same name goes on where the run stopped."""

    model: ModelConfig = Field(default_factory=lambda: ModelConfig(preset="default"))
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)

    num_epochs: int = Field(default=10, ge=1, le=100_000)
    """Passes over the training split."""

    global_batch_size: int = Field(default=128, ge=1, le=1_000_000)
    """Images in one optimizer step, over all workers. The last step of an epoch takes what is left."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each training label that is spread evenly over all classes."""

    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: a row of a rare class weighs more in training, in inverse proportion to its class's share."""

    augment: AugmentConfig = Field(default_factory=AugmentConfig)

    early_stopping_epochs: int | None = Field(default=None, ge=1)
    """End the training after so many epochs without a better one; by default all are run."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights and sums stay in float32."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the weights and of the order of rows."""

    num_workers: int = Field(default=2, ge=1, le=4096)
    """Data-parallel (DDP) worker processes."""

    cpus_per_worker: float = Field(default=1, gt=0, le=1024)
    """CPUs that each worker reserves; it runs as many threads, at least one."""

    use_gpu: bool = False
    """One GPU for each worker."""

    compile: bool = False
    """Compile the net with torch.compile, on GPUs: on CPUs it makes training slower."""

    cache_bytes_per_worker: int = Field(default=2_000_000_000, ge=1)
    """Memory a worker may spend on rows, as uint8, in bytes. Where they take more they are streamed, to the same
    weights."""

    data_cpus: int = Field(default=1, ge=1, le=4096)
    """CPUs beside the workers that decode image files, reserved; only for data sets with `storage: encoded`."""

    max_failures: int = Field(default=3, ge=0, le=1000)
    """How often a group of workers that lost one, or has one that hangs, is started again before the run fails."""

    grace_s: float = Field(default=30, ge=1, le=3600)
    """Time that the workers have, once the job is told to end (SIGTERM or Ctrl-C), to finish their step and write a
    checkpoint, in seconds. After it the job ends without one, and goes on from the checkpoint before."""

    storage: Uri = Field(default="runs", validate_default=True)
    """Folder that holds a folder for each run: journal and checkpoints. On a cluster: shared by all nodes."""

    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    register_as: Name | None = None
    """Name of the registered model; by default the run's name."""

    @property
    def model_name(self) -> str:
        """Name under which the model is registered."""
        return self.register_as or self.name


@rule("model.preset", "model.spec")
def one_net(preset: str | None, spec: object) -> Iterator[str]:
    """Exactly one of preset and spec."""
    if (preset is None) == (spec is None):
        state = "neither is given" if preset is None else "both are given"
        yield f"give either model.preset or model.spec; {state}"


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


RULES = (one_net, batch_reaches_every_worker, compiled_on_gpus, tracking_has_no_password)
