"""What one Ray Train worker does: set itself up, go on from the newest sound checkpoint, train, report.

A thin adapter: rows come from ``feed``, the arithmetic is ``loop``, the state on disk ``checkpoint``.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import nn

from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest
from cnnjob.models.cnn import build
from cnnjob.models.spec import Net
from cnnjob.training import checkpoint as checkpoints
from cnnjob.training.augment import augmented
from cnnjob.training.checkpoint import Checkpoint, Progress
from cnnjob.training.feed import EvaluationFeed, Place, TrainingFeed
from cnnjob.training.loop import EpochSums, Loss, NotFiniteError, Trainer, evaluate, train_epoch
from cnnjob.training.metrics import Tally, merge
from cnnjob.training.optim import Average, class_weights, learning_rate, make_optimizer, restore, set_learning_rate
from cnnjob.training.order import is_stuck, num_steps

EVALUATION_BATCH = 512
TEST_KEY = "test"
NOT_FINITE_KEY = "not_finite"


@dataclass(frozen=True)
class TrainJob:
    """Everything a worker gets to know.

    Attributes:
        config: The validated config.
        manifest: The data set's.
        net: The net to train.
        run_folder: Where the run's checkpoints and journal lie.
        run_id: The run's MLflow id.
        threads: Threads of each worker.
        began: Time of the command's start, seconds since the epoch.
    """

    config: TrainConfig
    manifest: Manifest
    net: Net
    run_folder: str
    run_id: str
    threads: int
    began: float


def run(loop_config: dict[str, TrainJob]) -> None:
    """The function that Ray Train calls on every rank."""
    _Worker(loop_config["job"]).run()


class _Worker:
    def __init__(self, job: TrainJob) -> None:
        context = ray.train.get_context()
        self.job = job
        self.place = Place(context.get_world_rank(), context.get_world_size())
        self.device = ray.train.torch.get_device()
        self.classes = job.net.num_classes
        torch.set_num_threads(job.threads)
        torch.use_deterministic_algorithms(mode=True)
        # It would also fill every new tensor, to show reads of memory never written: 6 % of a step, for debugging.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        statistics = job.manifest.statistics
        self.module = build(job.net, statistics.mean, statistics.std, seed=job.config.seed)
        self.model = self._distribute()
        self.optimizer = make_optimizer(job.config.optimizer, self.module.parameters())
        decay = job.config.optimizer.ema_decay
        self.average = Average(self.module.parameters(), decay) if decay else None
        self.progress: Progress | None = None
        self.best: dict[str, torch.Tensor] = {}

    def run(self) -> None:
        self._restore()
        job = self.job
        feed = TrainingFeed(
            job.config.dataset,
            job.manifest,
            self.place,
            global_batch_size=job.config.global_batch_size,
            seed=job.config.seed,
            cache_bytes=job.config.cache_bytes_per_worker,
        )
        validation = self._evaluation("val")
        first = self.progress.epoch + 1 if self.progress else 1
        for epoch in range(first, job.config.num_epochs + 1):
            before = self.progress
            if before and is_stuck(before.epoch, before.best_epoch, job.config.early_stopping_epochs):
                break
            try:
                sums = self._train(feed, epoch)
            except NotFiniteError as error:
                self._report_not_finite(epoch, error)
                return
            self._report_epoch(epoch, sums, self._validate(validation, epoch))
        self._test()

    def _distribute(self) -> nn.Module:
        # Without find_unused_parameters DDP rebuilds its buckets once in each process, and with them the order of
        # summation: a restarted run then differs in the last bits at world size 3 (DESIGN.md, "Determinism").
        options = {"find_unused_parameters": True, "broadcast_buffers": False}
        wrapped: nn.Module = ray.train.torch.prepare_model(self.module, parallel_strategy_kwargs=options)
        return wrapped

    def _restore(self) -> None:
        sound, _ = checkpoints.latest(self.job.run_folder)
        if sound is None:
            return
        self.module.load_state_dict(dict(sound.weights))
        restore(self.optimizer, sound.optimizer)
        if self.average:
            for number, tensor in enumerate(self.average.tensors):
                tensor.copy_(sound.average[str(number)])
        self.progress, self.best = sound.progress, dict(sound.best)

    def _train(self, feed: TrainingFeed, epoch: int) -> list[EpochSums]:
        config = self.job.config
        steps = num_steps(self.job.manifest.splits["train"].rows, config.global_batch_size)
        total = steps * config.num_epochs
        # Dropout draws from torch's generator: seeded here, it too is a function of (seed, epoch, rank).
        torch.manual_seed(_torch_seed(config.seed, epoch, self.place.rank))

        def before(step: int) -> None:
            set_learning_rate(self.optimizer, learning_rate(config.optimizer, step, total))

        def after(step: int) -> None:
            if self.average:
                self.average.update(self.module.parameters(), step)

        trainer = Trainer(
            model=self.model,
            optimizer=self.optimizer,
            world_size=self.place.world_size,
            before_step=before,
            after_step=after,
            device=self.device,
            bf16=config.precision == "bf16",
            loss=self._loss(),
            gradient_clip=config.optimizer.gradient_clip,
        )
        batches = augmented(feed.epoch(epoch), config.augment, seed=config.seed, epoch=epoch, rank=self.place.rank)
        sums = train_epoch(trainer, batches, first_step=(epoch - 1) * steps, num_classes=self.classes)
        return self._gather(sums)

    def _loss(self) -> Loss:
        config, train = self.job.config, self.job.manifest.splits["train"]
        weights = class_weights(train.class_counts).to(self.device) if config.class_weights == "balanced" else None
        return Loss(config.label_smoothing, weights)

    def _evaluation(self, split: str) -> EvaluationFeed:
        return EvaluationFeed(
            self.job.config.dataset, self.job.manifest, split, self.place, batch_size=EVALUATION_BATCH
        )

    def _validate(self, feed: EvaluationFeed, epoch: int) -> Tally:
        """Evaluate the weights that would be registered, and keep them if this epoch is the best so far.

        Best is the highest validation accuracy, ties by lower loss, then by the earlier epoch.
        """
        before = self.progress
        with self._registrable_weights():
            tally = self._evaluate(feed)
            better = before is None or (tally.accuracy, -tally.loss) > (before.best_val_accuracy, -before.best_val_loss)
            if better:
                self.best = self._state()
        best = (epoch, tally.loss, tally.accuracy)
        if before is not None and not better:
            best = (before.best_epoch, before.best_val_loss, before.best_val_accuracy)
        self.progress = Progress(epoch, *best, self.job.run_id, self.job.manifest.fingerprint)
        return tally

    @contextmanager
    def _registrable_weights(self) -> Iterator[None]:
        """The moving average in the place of the weights, where there is one."""
        if self.average is None:
            yield
            return
        parameters = list(self.module.parameters())
        kept = [parameter.detach().clone() for parameter in parameters]
        _copy(self.average.tensors, parameters)
        try:
            yield
        finally:
            _copy(kept, parameters)

    def _evaluate(self, feed: EvaluationFeed) -> Tally:
        tally = evaluate(self.module, feed.batches(), device=self.device, num_classes=self.classes)
        return merge(self._gather(tally))

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def _report_epoch(self, epoch: int, sums: list[EpochSums], val: Tally) -> None:
        train = merge([each.tally for each in sums])
        seconds = max(each.seconds for each in sums)
        metrics = {
            "key": checkpoints.folder_name(epoch),
            "epoch": epoch,
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "val_loss": val.loss,
            "val_accuracy": val.accuracy,
            "images_per_s": train.rows / seconds,
            "first_batch_s": max(each.first_batch_s for each in sums),
            "seconds": seconds,
            "seconds_to_first_step": time.time() - self.job.began - seconds,
        }
        if self.place.rank != 0:
            ray.train.report(metrics, checkpoint_dir_name=checkpoints.folder_name(epoch))
            return
        with tempfile.TemporaryDirectory() as folder:
            assert self.progress is not None, "set by _remember"
            average = {str(n): t for n, t in enumerate(self.average.tensors)} if self.average else {}
            checkpoints.write(
                Checkpoint(self.progress, self._state(), self.best, average, self.optimizer.state_dict()), Path(folder)
            )
            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=checkpoints.folder_name(epoch),
            )

    def _report_not_finite(self, epoch: int, error: NotFiniteError) -> None:
        """Tell it and end: raised, it would be taken for a fault of the worker, and tried again to the same end."""
        finite = self._gather(error.loss_is_finite)
        ranks = [rank for rank, is_finite in enumerate(finite) if not is_finite]
        ray.train.report({"key": NOT_FINITE_KEY, "epoch": epoch, "step": error.step + 1, "ranks": ranks})

    def _test(self) -> None:
        """Once, at the end, with the best weights."""
        assert self.progress is not None, "there is at least one epoch"
        self.module.load_state_dict(self.best)
        tally = self._evaluate(self._evaluation("test"))
        ray.train.report(
            {
                "key": TEST_KEY,
                "loss": tally.loss,
                "accuracy": tally.accuracy,
                "rows": tally.rows,
                "best_epoch": self.progress.best_epoch,
                "confusion": tally.confusion.tolist(),
            }
        )

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.place.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(found, value)
        return found


def _copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            target.copy_(source)


def _torch_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))
