import json

import pytest

from cnnjob.data.manifest import MANIFEST, fingerprint_of, read_manifest
from cnnjob.errors import DatasetError, FormatVersionError, UserError
from tests.helpers import manifest_of


def stored(folder, change=None) -> str:
    document = manifest_of([3, 4]).model_dump(mode="json")
    (folder / MANIFEST).write_text(json.dumps({**document, **(change or {})}))
    return str(folder)


def test_manifest_reads_back_equal(tmp_path):
    """What was written is what is read."""
    assert read_manifest(stored(tmp_path)) == manifest_of([3, 4])


def test_no_manifest_is_a_user_error(tmp_path):
    """A folder without a manifest, or none at all, is a DatasetError that says what to run."""
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError, match="cnnjob prepare"):
            read_manifest(str(path))


def test_file_in_the_place_of_the_folder_is_a_user_error(tmp_path):
    """A path to a file is no data set."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        read_manifest(str(tmp_path / "file"))


@pytest.mark.parametrize("text", ["", "{", '{"format_version": 1', "\x00", "[" * 100_000])
def test_unreadable_manifest_is_a_dataset_error(tmp_path, text):
    """A manifest that is no JSON is told as a damaged data set."""
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DatasetError):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("change", [{"splits": {}, "rows_in": "many"}, {"surprise": 1}, {"class_names": 3}])
def test_damaged_manifest_is_a_dataset_error(tmp_path, change):
    """A manifest whose fields are not those of the format is refused."""
    with pytest.raises(DatasetError, match="damaged"):
        read_manifest(stored(tmp_path, change))


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_other_format_version_is_refused(tmp_path, version):
    """A manifest of another format version is refused by that, whatever else it has."""
    with pytest.raises(FormatVersionError, match=repr(version)):
        read_manifest(stored(tmp_path, {"format_version": version, "surprise": 1}))


def test_document_that_is_no_mapping_has_no_format_version(tmp_path):
    """A JSON list in the manifest's place is refused as another format."""
    (tmp_path / MANIFEST).write_text("[1]")
    with pytest.raises(FormatVersionError):
        read_manifest(str(tmp_path))


def test_fingerprint_covers_classes_form_and_splits():
    """Class names, image form and each split's rows change the fingerprint; sizes and digests of shards do not."""
    manifest = manifest_of([3, 4])
    names, image, splits = manifest.class_names, manifest.image, manifest.splits
    base = fingerprint_of(names, image, splits)
    moved = {**splits, "train": splits["test"], "test": splits["train"]}
    changed = {
        base,
        fingerprint_of(names[::-1], image, splits),
        fingerprint_of(names, image.model_copy(update={"height": 9}), splits),
        fingerprint_of(names, image.model_copy(update={"color": "gray"}), splits),
        fingerprint_of(names, image, moved),
    }
    assert len(changed) == 5
    recut = manifest_of([1, 2, 4]).splits
    assert fingerprint_of(names, image, recut) == base


@pytest.mark.parametrize("form", [{"resize": "stretch"}, {"filter": "nearest"}, {"background": (9, 9, 9)}])
def test_fingerprint_of_original_bytes_covers_how_they_are_decoded(form):
    """The same bytes decoded another way are other pixels; pixels that are stored are what they are."""
    manifest = manifest_of([3, 4])
    for storage, same in (("encoded", False), ("packed", True)):
        one = manifest.image.model_copy(update={"storage": storage})
        other = one.model_copy(update=form)
        assert one != other
        found = [fingerprint_of(manifest.class_names, image, manifest.splits) for image in (one, other)]
        assert (found[0] == found[1]) == same
