"""A checkpoint on disk: tensors as safetensors, the rest as JSON, all under one digest. Nothing is a pickle.

Written whole into a folder, which Ray Train moves to the run's storage; read back only if every byte is what was
written. Random state needs no file: orders and seeds are functions of (seed, epoch, rank).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from cnnjob import storage
from cnnjob.errors import FormatVersionError, IntegrityError, StorageError
from cnnjob.schema import CHECKPOINT_FORMAT_VERSION

DESCRIPTION = "checkpoint.json"
WEIGHTS = "weights.safetensors"
AVERAGE = "average.safetensors"
BEST = "best.safetensors"
OPTIMIZER = "optimizer.safetensors"

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch: Last finished epoch, 1 on.
        best_epoch: The epoch with the best validation result so far.
        best_val_loss: Its validation loss.
        best_val_accuracy: Its validation accuracy.
        run_id: The run's MLflow id.
        data_fingerprint: The data set's fingerprint.
    """

    epoch: int
    best_epoch: int
    best_val_loss: float
    best_val_accuracy: float
    run_id: str
    data_fingerprint: str


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on.

    Attributes:
        progress: How far it is.
        weights: The weights that training goes on from.
        best: The weights of the best epoch; those that are registered.
        average: The moving average of the weights, in the order of the parameters; empty without EMA.
        optimizer: ``state_dict`` of the optimizer.
    """

    progress: Progress
    weights: Tensors
    best: Tensors
    average: Tensors
    optimizer: dict[str, Any]


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint into an existing empty folder."""
    state = checkpoint.optimizer["state"]
    tensors = {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}
    contents = {
        WEIGHTS: _pack(checkpoint.weights),
        BEST: _pack(checkpoint.best),
        AVERAGE: _pack(checkpoint.average),
        OPTIMIZER: _pack(tensors),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    document = {
        "format_version": CHECKPOINT_FORMAT_VERSION,
        "progress": vars(checkpoint.progress),
        "param_groups": checkpoint.optimizer["param_groups"],
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    document["digest"] = storage.digest_of(document)
    (folder / DESCRIPTION).write_text(json.dumps(document, indent=1))


def read(uri: str) -> Checkpoint:
    """Read a checkpoint; every byte of it is checked before any tensor is built.

    Raises:
        IntegrityError: A file is missing, or a byte of it is not what was written.
        FormatVersionError: Written by another version of the format.
    """
    where = storage.join(uri, DESCRIPTION)
    try:
        document = storage.read_json(where)
        contents = {name: storage.read_bytes(storage.join(uri, name)) for name in (WEIGHTS, BEST, AVERAGE, OPTIMIZER)}
    except (OSError, StorageError) as error:
        raise IntegrityError(f"the checkpoint {uri} is not whole: {error}") from error
    if not isinstance(document, dict) or document.pop("digest", None) != storage.digest_of(document):
        raise IntegrityError(f"{where} is damaged: it does not have the digest it was written with")
    if document["format_version"] != CHECKPOINT_FORMAT_VERSION:
        raise FormatVersionError.of("checkpoint", where, document["format_version"], CHECKPOINT_FORMAT_VERSION)
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != document["sha256"][name]:
            raise IntegrityError(f"{storage.join(uri, name)} is damaged: it is not what was written")
    return Checkpoint(
        progress=Progress(**document["progress"]),
        weights=load_safetensors(contents[WEIGHTS]),
        best=load_safetensors(contents[BEST]),
        average=load_safetensors(contents[AVERAGE]),
        optimizer=_optimizer(load_safetensors(contents[OPTIMIZER]), document["param_groups"]),
    )


def folder_name(epoch: int) -> str:
    """Name of the folder of an epoch's checkpoint, in the run's storage."""
    return f"epoch-{epoch:05d}"


def latest(run_folder: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of a run, and what was wrong with newer ones that were passed over."""
    names = {Path(path).parts[0] for path in storage.list_files(run_folder)}
    damaged: list[str] = []
    for name in sorted((n for n in names if n.startswith("epoch-")), reverse=True):
        try:
            return read(storage.join(run_folder, name)), damaged
        except IntegrityError as error:
            damaged.append(str(error))
    return None, damaged


def _pack(tensors: Tensors) -> bytes:
    content: bytes = save_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return content


def _optimizer(tensors: Tensors, param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    return {"state": state, "param_groups": param_groups}
