"""An output on an object store: what ended before it was published is no obstacle, and is gone after the next job."""

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cnnjob import phases, storage
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data import job, staging
from cnnjob.data.manifest import MANIFEST, read_manifest
from cnnjob.data.output import refuse_output
from cnnjob.errors import DatasetError, OvertakenError, StorageError
from pipelines import prepare
from tests.forked import PROCESSES
from tests.instants import kill
from tests.nights import Quiet, killed
from tests.piles import config_of, encoded, pixels, write_folder

PICTURES = 40


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    """Class folders of small pictures."""
    write_folder(tmp_path / "pile", {"ant": PICTURES // 2, "bee": PICTURES // 2})
    return tmp_path / "pile"


@pytest.fixture
def output(s3_folder: str) -> str:
    """A folder in a folder of the test's own."""
    return storage.join(s3_folder, "sets", "set")


def config_for(output: str, pile: Path, **split: Any) -> PrepareConfig:
    """A config of several shards."""
    return config_of(
        output,
        source={"kind": "folder", "uri": str(pile)},
        image={"height": 8, "width": 8},
        split=split,
        shards={"target_bytes": 192 * 10},
    )


def prepare_here(config: PrepareConfig) -> prepare.PrepareResult:
    """``cnnjob prepare`` in this process, without Ray."""
    with (
        mock.patch.object(prepare, "session", return_value=nullcontext()),
        mock.patch.object(job, "spread", lambda function, items, **_: map(function, items)),
    ):
        return prepare.run(config, Quiet())


def _prepare(config: PrepareConfig, faults: list[dict[str, Any]], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.environ[phases.ENVIRONMENT] = json.dumps(faults)
    prepare_here(config)


def prepare_apart(config: PrepareConfig, faults: list[dict[str, Any]]) -> int:
    """The same in a process of its own; its exit code."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = PROCESSES.Process(target=_prepare, args=(config, faults, environment), daemon=True)
    process.start()
    process.join()
    return process.exitcode


def kill_while_it_writes(config: PrepareConfig, marks: Path) -> None:
    """Kill the job when it has written its first shard."""
    before = set(storage.list_files(config.output))
    assert killed(prepare_apart(config, [kill("shard", marks, number=1)]))
    assert len(set(storage.list_files(config.output)) - before) == 1


def assert_whole(config: PrepareConfig) -> None:
    """Beside what the manifest names there is nothing, neither in the output nor beside it."""
    manifest = read_manifest(config.output)
    assert sum(split.rows for split in manifest.splits.values()) == PICTURES
    assert set(storage.list_files(config.output)) == {MANIFEST, *manifest.files}
    beside = {name.partition("/")[0] for name in storage.list_files(storage.parent(config.output))}
    assert beside == {"set"}


def test_a_first_job_that_is_killed_goes_on(pile, output, tmp_path):
    """Killed when it has written a shard of a first data set, the same command finishes it."""
    config = config_for(output, pile)
    kill_while_it_writes(config, tmp_path)
    assert prepare_here(config).created
    assert_whole(config)


def test_a_first_job_that_was_killed_is_followed_by_another(pile, output, tmp_path):
    """What a job left that was killed is gone once another one, of another config, has published."""
    kill_while_it_writes(config_for(output, pile), tmp_path)
    prepare_here(config_for(output, pile, seed=1))
    assert_whole(config_for(output, pile, seed=1))


@pytest.mark.parametrize("seed", [0, 1], ids=["the same", "another"])
@pytest.mark.parametrize("instant", ["plan_dataset", "check_unchanged"], ids=["before the shards", "after them"])
@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_jobs_one_publishes(pile, output, is_first, instant, seed):
    """A job that another one overtakes, at either end of its shards, says so, and leaves that one's data set whole."""
    slow, quick = config_for(output, pile, seed=0), config_for(output, pile, seed=seed)
    if not is_first:
        prepare_here(config_for(output, pile, seed=2))
    plainly = getattr(job, instant)

    def overtaken(*given: Any) -> Any:
        with mock.patch.object(job, instant, plainly):
            assert prepare_here(quick).created
        return plainly(*given)

    with mock.patch.object(job, instant, overtaken), pytest.raises(OvertakenError, match="its data set is there"):
        prepare_here(slow)
    assert read_manifest(output).config["split"]["seed"] == seed
    assert_whole(quick)
    assert prepare_here(slow).created == (seed != 0)
    assert_whole(slow)


def test_a_store_that_fails_after_the_manifest_takes_nothing_back(pile, output):
    """What cannot be removed stays for the next job; the data set is published, and no other job is blamed."""
    prepare_here(config_for(output, pile))
    remove = mock.Mock(side_effect=StorageError("the store is away"))
    with mock.patch.object(storage, "remove", remove):
        assert prepare_here(config_for(output, pile, seed=1)).created
    assert remove.called
    assert not prepare_here(config_for(output, pile, seed=1)).created
    prepare_here(config_for(output, pile, seed=2))
    assert_whole(config_for(output, pile, seed=2))


def test_what_fails_after_the_manifest_is_told_as_it_is(pile, output):
    """A job that has published and then fails is not taken for one that another has overtaken."""

    class Broken(nullcontext):
        def __exit__(self, *_: object) -> None:
            raise StorageError("Ray did not end")

    broken = mock.patch.object(prepare, "session", return_value=Broken())
    here = mock.patch.object(job, "spread", lambda function, items, **_: map(function, items))
    with broken, here, pytest.raises(StorageError, match="Ray did not"):
        prepare.run(config_for(output, pile), Quiet())
    assert not prepare_here(config_for(output, pile)).created


def test_the_same_job_twice_agrees_on_each_unit(output, s3_folder, tmp_path):
    """A picture that comes back between two readings of a unit is refused, or is a row, for both of them."""
    config, uris, contents = pictures_on(s3_folder, output, tmp_path)
    plainly = staging._write_staged

    def another_is_quicker(*given: Any, **options: Any) -> None:
        storage.write_bytes(uris[0], contents[0])
        with mock.patch.object(staging, "_write_staged", plainly):
            assert prepare_here(config).refused == {}
        plainly(*given, **options)

    with mock.patch.object(staging, "_write_staged", another_is_quicker), pytest.raises(OvertakenError):
        prepare_here(config)
    assert read_manifest(output).refused == {}
    assert_whole(config)


def test_a_damaged_list_of_refused_rows_is_made_anew(output, s3_folder, tmp_path):
    """Where nothing tells which pictures were gone, the data set is prepared again."""
    config, *_ = pictures_on(s3_folder, output, tmp_path)
    prepare_here(config)
    storage.write_bytes(storage.join(output, read_manifest(output).refused_table), b"")
    assert prepare_here(config).created
    assert not prepare_here(config).created


def pictures_on(s3_folder: str, output: str, tmp_path: Path) -> tuple[PrepareConfig, list[str], list[bytes]]:
    """A config of a table of pictures on S3, of which the first is not there, where each is, and what it is."""
    uris = [storage.join(s3_folder, "pictures", f"{number:02d}.png") for number in range(PICTURES)]
    contents = [encoded(image) for image in pixels(PICTURES, 8, 8)]
    for uri, content in zip(uris[1:], contents[1:], strict=True):
        storage.write_bytes(uri, content)
    listed = "\n".join(f"{uri},{'ab'[number % 2]}" for number, uri in enumerate(uris))
    (tmp_path / "table.csv").write_text(f"uri,label\n{listed}\n")
    config = config_of(
        output,
        source={"kind": "manifest", "uri": str(tmp_path / "table.csv")},
        image={"height": 8, "width": 8},
        shards={"target_bytes": 192 * 10},
        limits={"max_refused_share": 0.1},
    )
    return config, uris, contents


def test_a_picture_that_has_come_back_is_prepared(output, s3_folder, tmp_path):
    """A table's picture that was gone is looked for; what is published stays whole until there is one with it."""
    config, uris, contents = pictures_on(s3_folder, output, tmp_path)
    assert prepare_here(config).refused == {"gone": 1}
    assert not prepare_here(config).created
    before = read_manifest(output)
    storage.write_bytes(uris[0], contents[0])
    kill_while_it_writes(config, tmp_path)
    assert read_manifest(output) == before
    assert before.files <= set(storage.list_files(output))
    assert prepare_here(config).refused == {}
    assert not prepare_here(config).created
    manifest = read_manifest(output)
    assert set(storage.list_files(output)) == {MANIFEST, *manifest.files}


def test_a_published_set_stays_whole_while_others_die_over_it(pile, output, tmp_path):
    """Killed over a data set, a job leaves that as it was; the next one removes what the dead one wrote."""
    config = config_for(output, pile)
    prepare_here(config)
    before = read_manifest(output)
    kill_while_it_writes(config_for(output, pile, seed=1), tmp_path)
    assert read_manifest(output) == before
    assert before.files <= set(storage.list_files(output))
    assert not prepare_here(config).created
    prepare_here(config_for(output, pile, seed=2))
    assert_whole(config)


@pytest.mark.parametrize("is_first", [True, False])
def test_wrong_input_leaves_no_shards(pile, output, is_first):
    """A mistake that shows when the shards are written leaves none of them, and what was published as it was."""
    good, wrong = config_for(output, pile), config_for(output, pile, val=0.0, test=0.999999)
    if not is_first:
        prepare_here(good)
    before = storage.list_files(storage.parent(output))
    with pytest.raises(DatasetError, match="has 0 rows of 0 classes"):
        prepare_here(wrong)
    assert storage.list_files(storage.parent(output)) == before
    assert prepare_here(good).created == is_first
    assert_whole(good)


def test_what_is_published_is_not_removed_by_its_own_job(pile, output):
    """Prepared again for a file that was lost, and then refused, a data set has all of its other files."""
    config = config_for(output, pile)
    prepare_here(config)
    manifest = read_manifest(output)
    storage.remove(storage.join(output, manifest.contact_sheet))
    with mock.patch.object(job, "_describe", side_effect=DatasetError("wrong")), pytest.raises(DatasetError):
        prepare_here(config)
    assert set(storage.list_files(output)) == {MANIFEST, *manifest.files} - {manifest.contact_sheet}
    assert prepare_here(config).created
    assert_whole(config)


def test_a_failing_store_leaves_what_the_job_goes_on_from(pile, output):
    """Where the world failed, staged rows and shards stay, and no image is decoded again."""
    config = config_for(output, pile)
    with (
        mock.patch.object(job, "_describe", side_effect=StorageError("the store is away")),
        pytest.raises(StorageError),
    ):
        prepare_here(config)
    assert any(name.startswith("train/") for name in storage.list_files(output))
    with mock.patch.object(staging, "decode", side_effect=AssertionError):
        prepare_here(config)
    assert_whole(config)


@pytest.mark.parametrize("name", ["train/00000.parquet", "train/part-0123456789ab.parquet", "notes.txt", MANIFEST])
def test_other_files_are_not_taken_for_what_a_job_left(output, name):
    """Without a manifest of ours only files whose names have a version are; with any other the output is refused."""
    for file in ("train/00000-0123456789ab.parquet", "refused-0123456789ab.parquet"):
        storage.write_bytes(storage.join(output, file), b"")
    refuse_output(output, None)
    storage.write_bytes(storage.join(output, name), b"{}")
    with pytest.raises(DatasetError, match="is not a prepared data set"):
        refuse_output(output, None)


def test_a_whole_bucket_is_no_output():
    """What is unfinished lies beside the output, and beside a bucket lies nothing that can be written to."""
    for output in ("s3://lake", "s3://lake/", "s3://lake?region=eu-1"):
        with pytest.raises(DatasetError, match=r"is a whole bucket.*Choose a folder in it"):
            refuse_output(output, None)


def test_on_a_disk_nothing_is_left_in_the_output(tmp_path):
    """A local folder without a manifest is refused, whatever the names of its files: no job writes there."""
    storage.write_bytes(str(tmp_path / "set" / "train" / "00000-0123456789ab.parquet"), b"")
    with pytest.raises(DatasetError, match="is not a prepared data set"):
        refuse_output(str(tmp_path / "set"), None)
