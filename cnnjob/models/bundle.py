"""What a model is on disk: three files and nothing that runs code on loading.

``model.onnx`` (uint8 images in; probabilities and class names out), ``model.safetensors`` (the weights) and
``model.json`` (everything about it). The bundle's digest covers all three; it is kept in a registry tag and
checked before anything is parsed. Writing the graph is ``models.export``, registering it ``tracking.registry``.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from cnnjob.config.prepare import ImageConfig
from cnnjob.errors import FormatVersionError, IntegrityError, ModelError
from cnnjob.schema import BUNDLE_FORMAT_VERSION

ONNX = "model.onnx"
SAFETENSORS = "model.safetensors"
DESCRIPTION = "model.json"
GRAPH_INPUT = "image"
GRAPH_PROBABILITIES = "probabilities"
GRAPH_PREDICTION = "prediction"
"""Names of the graph's input and outputs: what servers of the model see."""
FILES = (ONNX, SAFETENSORS, DESCRIPTION)


class Description(BaseModel):
    """The content of ``model.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format_version: int
    architecture: dict[str, Any]
    """The net's spec: shape, num_classes, blocks, hidden, dropout."""
    class_names: tuple[str, ...]
    """In the order of the probabilities."""
    image: dict[str, Any]
    """Channels, height, width, color and resize policy of the data set, so that scoring prepares images alike."""
    mean: tuple[float, ...]
    """A channel each, on the 0..1 scale."""
    std: tuple[float, ...]
    """A channel each, on the 0..1 scale."""
    data_fingerprint: str
    """Fingerprint of the prepared data set it was trained on."""
    drift_reference: dict[str, Any]
    """Pixel histogram and class shares of the training split."""
    config: dict[str, Any]
    """The resolved training config."""
    git_commit: str | None
    metrics: dict[str, Any]
    """Figures of the best epoch and of the test split."""
    versions: dict[str, str]
    """Library versions at export."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (int(self.image["channels"]), int(self.image["height"]), int(self.image["width"]))


def image_form(description: Description) -> ImageConfig:
    """How the images of the model's data set were prepared, so that others are brought to the same form."""
    known = {name: value for name, value in description.image.items() if name in ImageConfig.model_fields}
    return ImageConfig.model_validate({**known, "storage": "packed"})


@dataclass(frozen=True)
class Bundle:
    """A whole model in memory.

    Attributes:
        files: Content by file name; exactly ``FILES``.
    """

    files: Mapping[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 over the names and contents of the three files."""
        whole = hashlib.sha256()
        for name in FILES:
            whole.update(name.encode() + b"\0" + hashlib.sha256(self.files[name]).digest())
        return whole.hexdigest()

    @property
    def description(self) -> Description:
        """``model.json``, checked.

        Raises:
            FormatVersionError: Written by another version of the format.
            IntegrityError: Not what this format says.
        """
        return parse_description(self.files[DESCRIPTION])

    def write(self, folder: Path) -> None:
        """Write the three files into an existing folder."""
        for name in FILES:
            (folder / name).write_bytes(self.files[name])


def describe(description: Mapping[str, Any]) -> bytes:
    """``model.json`` for a new bundle; the format version is added here."""
    whole = Description.model_validate({"format_version": BUNDLE_FORMAT_VERSION, **description})
    return (whole.model_dump_json(indent=1) + "\n").encode()


def parse_description(content: bytes) -> Description:
    """Read ``model.json``; see ``Bundle.description`` for what it raises."""
    try:
        document = json.loads(content)
        version = document.get("format_version")
        if version != BUNDLE_FORMAT_VERSION:
            raise FormatVersionError.of("model bundle", DESCRIPTION, version, BUNDLE_FORMAT_VERSION)
        return Description.model_validate(document)
    except (ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{DESCRIPTION} is not a model description: {error}") from error


def read_bundle(folder: Path, *, expected_digest: str | None, where: str) -> Bundle:
    """Read a bundle and check its digest before anything in it is parsed.

    Args:
        folder: Folder with the three files, among others.
        expected_digest: What the registry says; None where there is no registry to ask.
        where: Name of the model, for messages.

    Raises:
        ModelError: A file is missing: this is no cnnjob bundle.
        IntegrityError: The bytes are not those that were registered.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"{where} is not a cnnjob model: {', '.join(missing)} missing; register it with cnnjob train")
    bundle = Bundle({name: (folder / name).read_bytes() for name in FILES})
    if expected_digest is not None and bundle.digest != expected_digest:
        raise IntegrityError(
            f"{where}: the files have the digest {bundle.digest[:12]}, the registry says {expected_digest[:12]}. "
            f"They were changed after registration; register the model again and do not use this version."
        )
    return bundle
