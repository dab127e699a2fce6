"""What one worker does: go on from the newest sound checkpoint, train, evaluate, report, leave when asked to.

It knows no Ray: the group it works in is a ``Group``. Rows come from ``feed``, the arithmetic is ``loop``, what is
trained ``learner``, the state on disk ``checkpoint``. Every rank does the same; rank 0 writes.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cnnjob.config.train import TrainConfig
from cnnjob.data.manifest import Manifest, read_manifest
from cnnjob.errors import DatasetError, StorageError
from cnnjob.models.spec import Net, evaluation_batch
from cnnjob.phases import reached
from cnnjob.training import checkpoint as checkpoints
from cnnjob.training import journal
from cnnjob.training.augment import augmented
from cnnjob.training.checkpoint import Checkpoint, Progress
from cnnjob.training.evaluation import merge_evaluations, to_plain
from cnnjob.training.feed import EvaluationFeed, Feed, Run, TrainingFeed, feed_of
from cnnjob.training.group import Group, agreement, gather
from cnnjob.training.learner import Learner
from cnnjob.training.loop import EpochSums, Loss, NotFiniteError, Trainer, evaluate, examine, train_epoch
from cnnjob.training.metrics import Tally, merge
from cnnjob.training.optim import class_weights
from cnnjob.training.order import is_stuck, num_steps
from cnnjob.training.stop import is_taken, nobody_asks, watch
from cnnjob.training.stream import StreamingFeed


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
        began: When the command's process was started, seconds since the epoch.
        marks: What the command had done before the workers, and when, in seconds since then.
        attempt: Name of this command's try at the run; a stop that is asked for ends this one alone.
    """

    config: TrainConfig
    manifest: Manifest
    net: Net
    run_folder: str
    run_id: str
    threads: int
    began: float
    marks: dict[str, float]
    attempt: str


class Worker:
    """One rank of a run."""

    def __init__(self, job: TrainJob, group: Group) -> None:
        torch.set_num_threads(job.threads)
        torch.use_deterministic_algorithms(mode=True)
        # It would also fill every new tensor, to show reads of memory never written: 6 % of a step, for debugging.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        self.job = job
        self.group = group
        self.place = group.place
        self.classes = job.net.num_classes
        self.keeps_rows = feed_of(job.config, job.manifest).kind == "in memory"
        # Rows as they are cost less to read here than to send; to decode files costs more.
        self.spread = group.spread if job.manifest.image.storage == "encoded" else None
        self.steps = num_steps(job.manifest.splits["train"].rows, job.config.global_batch_size)
        self.learner = Learner(job.config, job.net, job.manifest, group)
        self.progress = Progress(0, 0, 0, 0.0, 0.0, job.run_id, job.manifest.fingerprint)
        self.partial = Tally.zero(self.classes)
        self.entries: list[dict[str, Any]] = []
        self.marks = {**job.marks, "workers": time.time() - job.began}
        self.ended: float | None = None
        self.pause_s = 0.0

    def run(self) -> None:
        """Train to the last epoch, evaluate the best weights on the test split, and report all of it."""
        self._restore()
        config = self.job.config
        run = Run(config.dataset, self.job.manifest, self.place, config.global_batch_size, config.seed)
        spread = self.spread
        feed: Feed = (
            TrainingFeed(run, spread or map) if self.keeps_rows else StreamingFeed(run, spread, config.num_epochs)
        )
        validation = self._evaluation("val")
        self.marks["rows"] = time.time() - self.job.began
        with watch(self.job.run_folder, self.job.attempt) if self.place.rank == 0 else nobody_asks() as asked:
            should_stop = agreement(self.place, asked, self.learner.averaging)
            while self.progress.epoch < config.num_epochs and not self._is_stuck():
                if not self._epoch(feed, validation, should_stop):
                    return
        self._test()

    def _restore(self) -> None:
        sound, damaged = checkpoints.latest(self.job.run_folder)
        found = gather(sound.progress.name if sound else None, self.place)
        if len(set(found)) > 1:
            # A rank that cannot read the newest one now would train other weights than the rest, unseen.
            raise StorageError(
                f"the ranks read different checkpoints: {', '.join(map(str, found))}. Check that every node reaches "
                f"the run's storage, then run the same command again."
            )
        if sound is not None:
            self.learner.restore(sound)
            self.progress, self.entries = sound.progress, list(sound.entries)
            if sound.partial:
                self.partial = sound.partial[self.place.rank]
        if sound is not None or damaged:
            progress = {"epoch": self.progress.epoch, "step": self.progress.step}
            # With all that was reported before: of an entry that got lost with its process there is one again.
            self._report({**journal.event("resumed"), **progress, "damaged": damaged, "entries": self.entries})

    def _is_stuck(self) -> bool:
        progress = self.progress
        return is_stuck(progress.epoch, progress.best_epoch, self.job.config.early_stopping_epochs)

    def _epoch(self, feed: Feed, validation: EvaluationFeed, should_stop: Callable[[], bool]) -> bool:
        """Train what is left of an epoch, and validate. False where the run ends here: stopped, or not finite."""
        epoch, first_step = self.progress.epoch + 1, self.progress.step
        try:
            sums = self._train(feed, epoch, first_step, should_stop)
        except NotFiniteError as error:
            finite = gather(error.loss_is_finite, self.place)
            ranks = [rank for rank, is_finite in enumerate(finite) if not is_finite]
            # Raised, it would be taken for a fault of the worker, and tried again to the same end.
            step = first_step + error.step + 1
            self._report({**journal.event("not_finite"), "epoch": epoch, "step": step, "ranks": ranks})
            return False
        self.ended = time.perf_counter()
        by_rank = gather(sums, self.place)
        if first_step + sums.steps < self.steps:
            self._leave(epoch, first_step + sums.steps, by_rank)
            return False
        began = time.perf_counter()
        val = self._validate(validation, epoch)
        self.ended += time.perf_counter() - began
        if self._leave_if_replaced(epoch):
            return False
        self.partial = Tally.zero(self.classes)
        entry = self._entry(epoch, by_rank, sums.steps, val)
        self.entries.append(entry)
        self._save()
        self._report(entry)
        return True

    def _train(self, feed: Feed, epoch: int, first_step: int, should_stop: Callable[[], bool]) -> EpochSums:
        config, seed, rank = self.job.config, self.job.config.seed, self.place.rank
        before_epoch = (epoch - 1) * self.steps
        learner = self.learner

        def before(step: int) -> None:
            self.marks.setdefault("first_step", time.time() - self.job.began)
            if self.ended is not None:
                self.pause_s, self.ended = time.perf_counter() - self.ended, None
            reached("step", rank=rank, epoch=epoch, step=step - before_epoch)
            if self.job.net.dropout:
                # Dropout draws from torch's generator: seeded here, it too is a function of what it is seeded with.
                torch.manual_seed(_torch_seed(seed, epoch, rank, step))
            learner.before_step(step, self.steps * config.num_epochs)

        trainer = Trainer(
            model=learner.model,
            optimizer=learner.optimizer,
            world_size=self.place.world_size,
            before_step=before,
            after_step=learner.after_step,
            device=self.group.device,
            bf16=config.precision == "bf16",
            loss=self._loss(),
            gradient_clip=config.optimizer.gradient_clip,
        )
        batches = augmented(
            feed.epoch(epoch, first_step), config.augment, seed=seed, epoch=epoch, rank=rank, first_step=first_step
        )
        return train_epoch(
            trainer, batches, first_step=before_epoch + first_step, tally=self.partial, should_stop=should_stop
        )

    def _loss(self) -> Loss:
        config, train = self.job.config, self.job.manifest.splits["train"]
        balanced = config.class_weights == "balanced"
        weights = class_weights(train.class_counts).to(self.group.device) if balanced else None
        return Loss(config.label_smoothing, weights)

    def _leave(self, epoch: int, step: int, by_rank: list[EpochSums]) -> None:
        """Keep what is done of an epoch, and say that this run was asked to leave."""
        if self._leave_if_replaced(epoch):
            return
        if step > self.progress.step:
            self.progress = dataclasses.replace(self.progress, step=step)
            self._save(tuple(sums.tally for sums in by_rank))
        self._report({**journal.event("stopped"), "epoch": epoch, "step": step})

    def _leave_if_replaced(self, epoch: int) -> bool:
        """Whether the data set was prepared anew since the run began; every rank reports it then.

        Other rows lie in the same places, and a feed may have read them. It is asked before anything is kept, after
        the last row of it was read: a checkpoint has nothing of them.
        """
        replaced = False
        if self.place.rank == 0:
            try:
                replaced = read_manifest(self.job.config.dataset).splits != self.job.manifest.splits
            except DatasetError:
                replaced = True
        if not gather(replaced, self.place)[0]:
            return False
        self._report({**journal.event("replaced"), "epoch": epoch})
        return True

    def _evaluation(self, split: str) -> EvaluationFeed:
        return EvaluationFeed(
            self.job.config.dataset,
            self.job.manifest,
            split,
            self.place,
            batch_size=evaluation_batch(self.job.net),
            # The test split is gone through once.
            keep=self.keeps_rows and split != "test",
            spread=self.spread or map,
        )

    def _validate(self, feed: EvaluationFeed, epoch: int) -> Tally:
        """Evaluate the weights that would be registered, and keep them if this epoch is the best so far.

        Best is the highest validation accuracy, ties by lower loss, then by the earlier epoch.
        """
        before = self.progress
        best = (before.best_epoch, before.best_val_loss, before.best_val_accuracy)
        with self.learner.registrable():
            tally = self._evaluate(feed)
            if before.epoch == 0 or (tally.accuracy, -tally.loss) > (before.best_val_accuracy, -before.best_val_loss):
                self.learner.best = self.learner.weights()
                best = (epoch, tally.loss, tally.accuracy)
        self.progress = Progress(epoch, 0, *best, before.run_id, before.data_fingerprint)
        return tally

    def _evaluate(self, feed: EvaluationFeed) -> Tally:
        tally = evaluate(self.learner.module, feed.batches(), device=self.group.device, num_classes=self.classes)
        return merge(gather(tally, self.place))

    def _entry(self, epoch: int, by_rank: list[EpochSums], steps: int, val: Tally) -> dict[str, Any]:
        train = merge([each.tally for each in by_rank])
        seconds = max(each.seconds for each in by_rank)
        # Of an epoch that was begun by an earlier process, the rate is that of the part done here.
        rows = train.rows * steps / self.steps
        return {
            "key": f"epoch-{epoch:05d}",
            "kind": journal.EPOCH,
            "epoch": epoch,
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            "val_loss": val.loss,
            "val_accuracy": val.accuracy,
            "images_per_s": rows / seconds,
            "first_batch_s": max(each.first_batch_s for each in by_rank),
            "seconds": seconds,
            # Since the last step of the epoch before, its validation aside.
            "pause_s": self.pause_s,
            "marks": self.marks,
        }

    def _save(self, partial: tuple[Tally, ...] = ()) -> None:
        if self.place.rank != 0 or is_taken(self.job.run_folder, self.job.attempt):
            # Of a run that another command has taken up, newer checkpoints would be put away for this one.
            return
        learner = self.learner
        state = learner.optimizer.state_dict()
        checkpoints.save(
            Checkpoint(
                self.progress, learner.weights(), learner.best, learner.averages(), state, partial, tuple(self.entries)
            ),
            self.job.run_folder,
        )

    def _report(self, entry: dict[str, Any]) -> None:
        reached("report", rank=self.place.rank, key=str(entry["key"]))
        if self.place.rank == 0:
            journal.append(self.job.run_folder, {**entry, "attempt": self.job.attempt})

    def _test(self) -> None:
        """Once, at the end, with the best weights."""
        self.learner.module.load_state_dict(self.learner.best)
        feed = self._evaluation("test")
        part = examine(
            self.learner.module,
            feed.batches(),
            device=self.group.device,
            num_classes=self.classes,
            first_row=feed.first_row,
        )
        whole = to_plain(merge_evaluations(gather(part, self.place)))
        if self._leave_if_replaced(self.progress.epoch):
            return
        best = {"best_epoch": self.progress.best_epoch}
        self._report({"key": journal.TEST, "kind": journal.TEST, **best, "evaluation": whole})


def _torch_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))
