"""A checkpoint on disk: tensors as safetensors, the rest as JSON, all under one digest. Nothing is a pickle.

The description is written last: a folder without it is no checkpoint, so one that is killed on the way is not there. It
is read back only if every byte is what was written; ``latest`` passes over one that is not, and says so. Random state
needs no file: orders, augmentation and dropout are functions of (seed, epoch, rank, step).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from cnnjob import storage
from cnnjob.digests import digest_of
from cnnjob.errors import FormatVersionError, IntegrityError, StorageError
from cnnjob.phases import reached
from cnnjob.schema import CHECKPOINT_FORMAT_VERSION
from cnnjob.training.metrics import Tally

FOLDER = "checkpoints"
DESCRIPTION = "checkpoint.json"
WEIGHTS = "weights.safetensors"
AVERAGE = "average.safetensors"
BEST = "best.safetensors"
OPTIMIZER = "optimizer.safetensors"
PARTIAL = "partial.safetensors"
KEPT = 2
"""Checkpoints that stay: the newest, and the one before it."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch: Last finished epoch, 1 on; 0 before the first.
        step: Finished steps of the epoch after it.
        best_epoch: The epoch with the best validation result so far; 0 before the first.
        best_val_loss: Its validation loss.
        best_val_accuracy: Its validation accuracy.
        run_id: The run's MLflow id.
        data_fingerprint: The data set's fingerprint.
    """

    epoch: int
    step: int
    best_epoch: int
    best_val_loss: float
    best_val_accuracy: float
    run_id: str
    data_fingerprint: str

    @property
    def name(self) -> str:
        """Name of the checkpoint's folder; names are in the order of progress."""
        return f"epoch-{self.epoch:05d}" + (f"-step-{self.step:09d}" if self.step else "")


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on.

    Attributes:
        progress: How far it is.
        weights: The weights that training goes on from.
        best: The weights of the best epoch, those that are registered; empty before the first.
        average: The moving average of the weights, in the order of the parameters; empty without EMA.
        optimizer: ``state_dict`` of the optimizer.
        partial: What each rank counted in an unfinished epoch, in rank order; empty between epochs.
        entries: What was reported of each finished epoch, so that a report that got lost can be made again.
    """

    progress: Progress
    weights: Tensors
    best: Tensors
    average: Tensors
    optimizer: dict[str, Any]
    partial: tuple[Tally, ...] = ()
    entries: tuple[dict[str, Any], ...] = ()


def save(checkpoint: Checkpoint, run_folder: str) -> None:
    """Write a run's newest checkpoint, whole or not at all, and remove all but it and the one before.

    Later ones are removed too: they were passed over, or this one would not be written. So are folders of which a
    process that was killed has written a part.

    Raises:
        StorageError: It could not be written; the one before stands.
    """
    folder = storage.join(run_folder, FOLDER)
    uri = storage.join(folder, checkpoint.progress.name)
    # What lies there is damaged, or this name would not be written again.
    storage.remove(uri)
    write(checkpoint, uri)
    paths = storage.list_files(folder)
    kept = [name for name in _whole(paths) if name <= checkpoint.progress.name][:KEPT]
    for name in sorted({PurePosixPath(path).parts[0] for path in paths} - set(kept)):
        storage.remove(storage.join(folder, name, DESCRIPTION))
        storage.remove(storage.join(folder, name))


def write(checkpoint: Checkpoint, uri: str) -> None:
    """Write a checkpoint into a folder that has none."""
    state = checkpoint.optimizer["state"]
    moments = {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}
    files = {
        WEIGHTS: checkpoint.weights,
        BEST: checkpoint.best,
        AVERAGE: checkpoint.average,
        OPTIMIZER: moments,
        PARTIAL: _tensors_of(checkpoint.partial),
    }
    digests = {}
    for name, tensors in files.items():
        # One at a time: all of them are several times the net.
        content = _pack(tensors)
        digests[name] = hashlib.sha256(content).hexdigest()
        storage.write_bytes(storage.join(uri, name), content)
        del content
        reached("checkpoint file", file=name, epoch=checkpoint.progress.epoch)
    document = {
        "format_version": CHECKPOINT_FORMAT_VERSION,
        "progress": vars(checkpoint.progress),
        "param_groups": checkpoint.optimizer["param_groups"],
        "entries": list(checkpoint.entries),
        "sha256": digests,
    }
    storage.write_bytes(storage.join(uri, DESCRIPTION), _sealed(document))
    reached("checkpoint", epoch=checkpoint.progress.epoch, step=checkpoint.progress.step)


def read(uri: str) -> Checkpoint:
    """Read a checkpoint; every byte of it is checked before any tensor is built.

    Raises:
        IntegrityError: A file is missing, or a byte of it is not what was written.
        FormatVersionError: Written by another version of the format.
        StorageError: A store failed; the checkpoint may be sound.
    """
    where = storage.join(uri, DESCRIPTION)
    sealed = _content(where)
    try:
        document = json.loads(sealed)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is damaged: {error}") from error
    if not isinstance(document, dict) or document.pop("digest", None) is None or _sealed(document) != sealed:
        raise IntegrityError(f"{where} is damaged: it is not what was written")
    if document["format_version"] != CHECKPOINT_FORMAT_VERSION:
        raise FormatVersionError.of("checkpoint", where, document["format_version"], CHECKPOINT_FORMAT_VERSION)
    tensors = {name: _read_tensors(storage.join(uri, name), digest) for name, digest in document["sha256"].items()}
    return Checkpoint(
        progress=Progress(**document["progress"]),
        weights=tensors[WEIGHTS],
        best=tensors[BEST],
        average=tensors[AVERAGE],
        optimizer=_optimizer(tensors[OPTIMIZER], document["param_groups"]),
        partial=_tallies_of(tensors[PARTIAL]),
        entries=tuple(document["entries"]),
    )


def latest(run_folder: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of a run, and what was wrong with newer ones that were passed over.

    Raises:
        StorageError: A store failed. Work that is done would be done again if it were passed over for that.
    """
    damaged: list[str] = []
    folder = storage.join(run_folder, FOLDER)
    for name in _whole(storage.list_files(folder)):
        try:
            return read(storage.join(folder, name)), damaged
        except IntegrityError as error:
            damaged.append(str(error))
    return None, damaged


def _whole(paths: Sequence[str]) -> list[str]:
    """Folders with a description, newest first: those that were written to their end."""
    found = map(PurePosixPath, paths)
    return sorted({path.parts[0] for path in found if path.name == DESCRIPTION}, reverse=True)


def _sealed(document: Mapping[str, Any]) -> bytes:
    """The document with its digest, as the very bytes that are written: another form of the same is damage too."""
    sealed = {**document, "digest": digest_of(document)}
    return (json.dumps(sealed, indent=1, ensure_ascii=False) + "\n").encode()


def _pack(tensors: Tensors) -> bytes:
    content: bytes = save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return content


def _content(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise IntegrityError(f"{uri} is damaged: {error}") from error
    except StorageError as error:
        if not storage.is_local(uri):
            raise
        # What a disk cannot read now it cannot read later; a store behind a network can.
        raise IntegrityError(f"{uri} is damaged: {error}") from error


def _read_tensors(uri: str, digest: str) -> Tensors:
    content = _content(uri)
    if hashlib.sha256(content).hexdigest() != digest:
        raise IntegrityError(f"{uri} is damaged: it is not what was written")
    tensors: Tensors = load_safetensors(content)
    return tensors


def _optimizer(tensors: Tensors, param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    return {"state": state, "param_groups": param_groups}


def _tensors_of(tallies: Sequence[Tally]) -> Tensors:
    if not tallies:
        return {}
    losses = torch.tensor([tally.loss_sum for tally in tallies], dtype=torch.float64)
    return {"loss_sum": losses, "confusion": torch.stack([torch.from_numpy(tally.confusion) for tally in tallies])}


def _tallies_of(tensors: Tensors) -> tuple[Tally, ...]:
    if not tensors:
        return ()
    pairs = zip(tensors["loss_sum"].tolist(), tensors["confusion"].numpy(), strict=True)
    return tuple(Tally(loss, confusion) for loss, confusion in pairs)
