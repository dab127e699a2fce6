import json

import onnx
import pytest
from safetensors.torch import load as load_safetensors

from cnnjob.errors import FormatVersionError, IntegrityError, ModelError
from cnnjob.models.bundle import DESCRIPTION, FILES, ONNX, Bundle, describe, parse_description, read_bundle
from cnnjob.schema import BUNDLE_FORMAT_VERSION
from tests.helpers import description_of, manifest_of


def test_bundle_reads_back_equal(bundle, bundle_folder):
    """A written bundle is read back with the same files, digest and description."""
    found = read_bundle(bundle_folder, expected_digest=bundle.digest, where="m")
    assert found == bundle
    assert found.description.class_names == tuple("0123456789")
    assert found.description.shape == (3, 32, 32)


def test_bundle_has_no_pickle(bundle):
    """A bundle is one ONNX graph, one safetensors and one JSON document, and nothing else."""
    assert set(bundle.files) == {"model.onnx", "model.safetensors", "model.json"}
    assert onnx.load_from_string(bundle.files["model.onnx"]).graph.node
    assert load_safetensors(bundle.files["model.safetensors"])
    assert json.loads(bundle.files["model.json"])["format_version"] == BUNDLE_FORMAT_VERSION


@pytest.mark.parametrize("name", FILES)
def test_digest_sees_every_byte(bundle, name):
    """Flipping any byte of any file changes the digest."""
    content = bundle.files[name]
    found = {bundle.digest}
    positions = sorted({k * (len(content) - 1) // 40 for k in range(41)})
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1
        found.add(Bundle({**bundle.files, name: bytes(damaged)}).digest)
    assert len(found) == len(positions) + 1


def test_digest_sees_which_file_is_which(bundle):
    """Swapping the contents of two files changes the digest."""
    first, second = FILES[:2]
    swapped = {**bundle.files, first: bundle.files[second], second: bundle.files[first]}
    assert Bundle(swapped).digest != bundle.digest


def test_digest_is_checked_before_parsing(bundle, bundle_folder):
    """A changed file is an IntegrityError even where it could not be parsed, and nothing of it is parsed."""
    (bundle_folder / DESCRIPTION).write_bytes(b"[" * 1_000_000)
    with pytest.raises(IntegrityError, match="register"):
        read_bundle(bundle_folder, expected_digest=bundle.digest, where="m")


def test_missing_file_is_a_model_error(bundle, bundle_folder):
    """A folder that lacks one of the files is no model of ours; the message names the file."""
    (bundle_folder / ONNX).unlink()
    with pytest.raises(ModelError, match=r"model\.onnx"):
        read_bundle(bundle_folder, expected_digest=bundle.digest, where="m")


def test_without_a_registry_nothing_is_compared(bundle, bundle_folder):
    """Where there is no registry to ask, the bundle is read as it is."""
    assert read_bundle(bundle_folder, expected_digest=None, where="m").digest == bundle.digest


def test_other_format_version_is_refused():
    """A description of another format version is refused by that, whatever else it says."""
    document = {**json.loads(describe(description_of(manifest_of([3])))), "format_version": 99, "surprise": 1}
    with pytest.raises(FormatVersionError, match="99"):
        parse_description(json.dumps(document).encode())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff", b'{"format_version": 1}', b"[" * 100_000])
def test_damaged_description_is_an_integrity_error(content):
    """A description that is no description is an IntegrityError."""
    with pytest.raises(IntegrityError):
        parse_description(content)
