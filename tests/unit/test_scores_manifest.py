"""A manifest of scores that is damaged: told with what to do, in no date but its own, and a copy is written anew."""

import copy
import datetime as dt
import json
from pathlib import Path

import pytest

from cnnjob import storage
from cnnjob.errors import FormatVersionError, IntegrityError
from cnnjob.scoring.commit import recover
from cnnjob.scoring.table import ScoresManifest, Table, as_document, current, read
from tests.nights import Work, score_here
from tests.unit.night import DATE, MORNING

WRONG = (None, [], {}, "text", 1.5, True, -7, [None], {"x": None})
CONTENTS = (b"null", b"[]", b"5", b'"text"', b"{}", b"{", b"\xff\xfe", b"[" * 100_000)


def damages(document: dict) -> list[tuple[str, bytes]]:
    """Each key of the document, its first part and its model, gone or of another type; and no document at all."""
    found = [(repr(content[:9]), content) for content in CONTENTS]
    for where in ((), ("parts", 0), ("model",)):
        for key in _at(document, where):
            whole = copy.deepcopy(document)
            was = _at(whole, where).pop(key)
            if key not in ("keys", "publisher"):
                found.append((f"{where} without {key}", json.dumps(whole).encode()))
            for wrong in WRONG:
                if not _fits(key, was, wrong):
                    _at(whole, where)[key] = wrong
                    found.append((f"{where} {key} as {wrong!r}", json.dumps(whole).encode()))
    return found


def _at(document: dict, where: tuple) -> dict:
    for key in where:
        document = document[key]
    return document


def _fits(key: str, was: object, wrong: object) -> bool:
    """Whether another value is none that reading could tell from a good one: of its type, and of nothing else's."""
    if key in ("keys", "replaced"):
        return wrong is None or (key == "keys" and wrong == {}) or (key == "replaced" and wrong == "text")
    if key in ("number", "date", "format_version", "counts", "model"):
        return False
    empty = wrong in ([], {}) and isinstance(was, type(wrong))
    return key == "publisher" or empty or type(was) is type(wrong) or (key == "config" and isinstance(wrong, dict))


@pytest.fixture
def published(night) -> ScoresManifest:
    return night.publish()


def test_a_damaged_manifest_is_told(night, published):
    """Whatever is missing or of another type, the error names the file, what is wrong and what to do."""
    log = Path(night.table.log(1))
    planned = damages(json.loads(log.read_bytes()))
    assert len(planned) > 150
    for name, content in planned:
        log.write_bytes(content)
        with pytest.raises((IntegrityError, FormatVersionError)) as told:
            current(night.table)
        message = str(told.value)
        assert str(log) in message, name
        if not isinstance(told.value, FormatVersionError):
            assert "is damaged" in message, name
            assert f"Put its copy, {night.table.meta}/manifest.json, in its place" in message, name
            assert "\n" not in message, name


def test_what_the_error_says_mends_the_date(night, published):
    """The copy in the place of the damaged manifest is the same version; without it, the date is scored anew."""
    log, copied = Path(night.table.log(1)), Path(night.table.meta) / "manifest.json"
    log.write_bytes(b"null")
    log.write_bytes(copied.read_bytes())
    assert recover(night.table) == published
    log.unlink()
    Path(night.table.partition).rename(night.root.with_name("aside"))
    assert night.publish(scored_at=MORNING + dt.timedelta(hours=1)).number == 1


def test_a_manifest_of_another_place_is_damage(night, published):
    """A manifest under another number, or of another date, is not taken for what is published."""
    log = Path(night.table.log(1))
    log.rename(night.table.log(3))
    with pytest.raises(IntegrityError, match="it says that it is number 1 of 2024-02-29"):
        current(night.table)
    other = Table(str(night.root), DATE + dt.timedelta(days=1))
    storage.write_json(other.log(1), as_document(published))
    with pytest.raises(IntegrityError, match="it says that it is number 1 of 2024-02-29"):
        current(other)


@pytest.mark.parametrize("content", [b"null", b"[]", b"{", b"{}", b'{"version": 5}', b'{"format_version": 99}', b""])
def test_a_damaged_copy_is_written_anew(night, published, content):
    """The copy for people, damaged in any way, is no obstacle: the next run writes it again."""
    copied = Path(night.table.meta) / "manifest.json"
    before = copied.read_bytes()
    copied.write_bytes(content)
    assert recover(night.table) == published
    assert copied.read_bytes() == before


def test_another_dates_damage_is_not_this_dates(digits, bundle_folder, tmp_path):
    """A date is scored whatever is wrong with the manifest of another one, which is told where that one is scored."""
    work = Work(str(bundle_folder), "dataset", digits.path, str(tmp_path / "scores"))
    other = Table(work.root, DATE + dt.timedelta(days=1))
    score_here(work, other.date)
    log = Path(other.log(1))
    document = json.loads(log.read_bytes())
    some = [
        b"null",
        b"[]",
        json.dumps({**document, "config": None}).encode(),
        json.dumps({**document, "config": {}}).encode(),
    ]
    for number, content in enumerate(some, start=1):
        log.write_bytes(content)
        score_here(work, DATE - dt.timedelta(days=number))
    log.write_bytes(b"null")
    with pytest.raises(IntegrityError, match="is damaged"):
        score_here(work, other.date)


def test_a_manifest_without_key_columns_is_read(night, published):
    """What was published before the types of key columns were recorded is read as it was."""
    log = Path(night.table.log(1))
    document = json.loads(log.read_bytes())
    del document["keys"]
    log.write_text(json.dumps(document))
    assert read(str(log)).keys is None
    assert recover(night.table).version == published.version
