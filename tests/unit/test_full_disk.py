"""A disk that is full at any write of a night, by the kernel's own bound on the size of a file (RLIMIT_FSIZE)."""

import dataclasses
import itertools
import shutil

import pytest

from cnnjob.scoring.table import current
from tests.nights import EVENING, Work, content_of, files_of, folder_of_pictures, score_apart

PICTURES = 150
LEAST_WRITES = 12
"""Listing, plan, a part and a receipt for each of three units, quarantine, receipts, and the two manifests."""


@pytest.fixture
def work(bundle_folder, tmp_path):
    pictures = folder_of_pictures(tmp_path / "pictures", PICTURES)
    return Work(str(bundle_folder), "folder", str(pictures), str(tmp_path / "scores"))


def test_a_disk_that_is_full_at_any_write(work, tmp_path):
    """At each write the job ends with exit code 1, the old scores stay whole, and with room it comes to its end."""
    assert score_apart(dataclasses.replace(work, version="0", clock=EVENING)) == 0
    before = content_of(work.root)
    ends = []
    for full_at in itertools.count():
        night = dataclasses.replace(work, root=str(tmp_path / str(full_at) / "scores"))
        shutil.copytree(work.root, night.root)
        shutil.copytree(f"{work.root}.meta", f"{night.root}.meta")
        code = score_apart(night, full_at=full_at)
        if code == 0:
            break
        assert code == 1
        # After the commit comes the copy of the manifest for people: the scores are the new ones by then.
        assert content_of(night.root).equals(before) or current(night.table).model["version"] == "1"
        assert not [name for name in files_of(night) if ".tmp-" in name]
        assert score_apart(night) == 0
        ends.append((content_of(night.root), {name[:40] for name in files_of(night)}))
    assert len(ends) >= LEAST_WRITES
    undisturbed = (content_of(night.root), {name[:40] for name in files_of(night)})
    assert all(table.equals(undisturbed[0]) and files == undisturbed[1] for table, files in ends)
