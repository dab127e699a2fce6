"""Scoring what is no picture, or nearly one: no crash, every row is scored or refused, memory stays bounded."""

import dataclasses
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob.schema import REASONS
from cnnjob.scoring.table import current
from tests.corpus.files import LIMITS, animated, corpus, good_files
from tests.nights import Work, content_of, peak_apart, score_here

MAX_GROWTH_BYTES = 300 * 2**20
"""A picture of ``max_pixels`` in its decoder (see ``test_corpus``), and a unit's batch."""


@pytest.fixture
def work(bundle_folder, tmp_path):
    return Work(str(bundle_folder), "folder", str(tmp_path / "in"), str(tmp_path / "scores"))


def check(work: Work, rows: int) -> dict[str, int]:
    """Rows in are rows scored and rows refused, each id in one of the two, for a known reason."""
    manifest = current(work.table)
    told = pq.read_table(work.table.beside("quarantine", manifest.number, manifest.version))
    scored = content_of(work.root).column("id").to_pylist()
    assert len(scored) + len(told) == rows == len({*scored, *told.column("id").to_pylist()})
    assert set(told.column("reason").to_pylist()) <= set(REASONS)
    probabilities = np.array(content_of(work.root).column("probabilities").to_pylist())
    assert np.abs(probabilities.sum(axis=1) - 1).max() < 1e-5
    return manifest.refused


def test_every_file_of_the_corpus_is_scored_or_refused(work, tmp_path):
    """The files that `prepare` is tested with: good ones are scored, bad ones are refused for the same reasons."""
    files = corpus()
    (tmp_path / "in").mkdir()
    for file in files:
        (tmp_path / "in" / file.name).write_bytes(file.content)
    options = {"image": {"resize": "stretch"}, "limits": {"max_refused_share": 1.0, "max_bytes": LIMITS.max_bytes}}
    work = dataclasses.replace(work, options=options)
    peak = peak_apart(work)
    refused = check(work, len(files))
    expected = [file.reason for file in files if file.reason]
    assert refused == {reason: expected.count(reason) for reason in sorted(set(expected))}
    assert peak <= MAX_GROWTH_BYTES


def mutated(count: int, seed: int) -> list[bytes]:
    """Good files with pieces of them written over, taken out, doubled, or cut off."""
    draw = random.Random(seed)
    good = [*good_files().values(), *(animated(kind) for kind in ("png", "gif", "webp"))]
    found = []
    for _ in range(count):
        content = bytearray(draw.choice(good))
        for _ in range(draw.randint(1, 4)):
            at, size = draw.randrange(min(draw.choice([60, len(content)]), len(content))), draw.randint(1, 8)
            match draw.choice(["write", "take", "double", "cut"]):
                case "write":
                    content[at : at + size] = draw.randbytes(size)
                case "take":
                    del content[at : at + size]
                case "double":
                    content[at:at] = content[at : at + size]
                case _:
                    del content[len(content) - size :]
            content = content or bytearray(b"\0")
        found.append(bytes(content))
    return found


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.chaos)])
def test_damaged_files_cost_their_own_rows(work, tmp_path, count):
    """Any damage to a good file costs that row at most, and no row gets another's scores."""
    contents = mutated(count, seed=count)
    ids = [f"{number:05d}" for number in range(count)]
    pq.write_table(pa.table({"id": ids, "image": contents}), tmp_path / "in.parquet", row_group_size=500)
    given = {"uri": str(tmp_path / "in.parquet"), "kind": "manifest", "given": {"columns": {"image": "image"}}}
    options = {"image": {"resize": "stretch"}, "limits": {"max_refused_share": 1.0}, "units": {"target_rows": 500}}
    work = dataclasses.replace(work, **given, options=options)
    assert peak_apart(work) <= MAX_GROWTH_BYTES
    refused = check(work, count)
    assert 0 < sum(refused.values()) < count
    scores = content_of(work.root)
    some = scores.slice(len(scores) // 2, 20)
    alone = [contents[int(row_id)] for row_id in some.column("id").to_pylist()]
    pq.write_table(pa.table({"id": some.column("id"), "image": alone}), tmp_path / "some.parquet")
    other = dataclasses.replace(work, uri=str(tmp_path / "some.parquet"), root=str(tmp_path / "some" / "scores"))
    score_here(other)
    columns = ["id", "prediction", "confidence", "probabilities"]
    assert content_of(other.root).select(columns).to_pylist() == some.select(columns).to_pylist()
