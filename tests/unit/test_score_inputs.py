"""What can be scored: each kind of input, where it lies, and what becomes of rows that change, vanish or come twice."""

import dataclasses
import os
import shutil
import time
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cnnjob import storage
from cnnjob.config.prepare import ImageConfig
from cnnjob.errors import DatasetError, IntegrityError, RefusedRowsError, UserError
from cnnjob.scoring.dates import for_date
from cnnjob.scoring.inputs import DatasetInput, open_input
from cnnjob.scoring.table import current
from cnnjob.tracking.registry import Resolved
from pipelines.score_checks import check_classes, check_fit
from tests.helpers import scoring_model
from tests.nights import Work, content_of, folder_of_pictures, score_here
from tests.piles import encoded, pixels

COUNT = 30


@pytest.fixture(scope="module")
def work(bundle, tmp_path_factory):
    """A job of any input, into a table of the test's own."""
    folder = tmp_path_factory.mktemp("bundle")
    bundle.write(folder)
    return lambda kind, uri, root, **options: Work(str(folder), kind, str(uri), str(root), options=options)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder_of_pictures(tmp_path_factory.mktemp("pictures"), COUNT)


def names(pictures: Path) -> list[str]:
    return sorted(str(path.relative_to(pictures)) for path in pictures.rglob("*.png"))


def table_of(pictures: Path) -> pa.Table:
    """A row for each picture, with a name and typed keys of its own."""
    uris = names(pictures)
    return pa.table(
        {
            "sku": [f"a{number:03d}" for number in range(len(uris))],
            "uri": [str(pictures / name) for name in uris],
            "price": pa.array([Decimal(number) / 4 for number in range(len(uris))], pa.decimal128(10, 2)),
            "seen": pa.array(range(len(uris)), pa.timestamp("ms", tz="Europe/Berlin")),
            "tags": pa.array([["x"] * (number % 3) for number in range(len(uris))], pa.list_(pa.string())),
        }
    )


def quarantine_of(work: Work) -> pd.DataFrame:
    manifest = current(work.table)
    return pd.read_parquet(work.table.beside("quarantine", manifest.number, manifest.version))


def by_id(work: Work) -> dict[str, list[float]]:
    table = content_of(work.root)
    return dict(zip(table.column("id").to_pylist(), table.column("probabilities").to_pylist(), strict=True))


def test_a_picture_has_the_same_scores_in_any_input(work, pictures, tmp_path):
    """Folder, CSV, Parquet of URIs and Parquet with bytes inside give the same picture the same probabilities."""
    table = table_of(pictures)
    table.select(["uri"]).to_pandas().to_csv(tmp_path / "list.csv", index=False)
    pq.write_table(table, tmp_path / "list.parquet")
    content = [Path(uri).read_bytes() for uri in table.column("uri").to_pylist()]
    pq.write_table(pa.table({"id": table.column("uri"), "png": content}), tmp_path / "bytes.parquet", row_group_size=7)
    inputs = {
        "csv": ("list.csv", {}),
        "parquet": ("list.parquet", {"columns": {"id": "uri"}}),
        "bytes": ("bytes.parquet", {"columns": {"image": "png"}}),
    }
    folder = work("folder", pictures, tmp_path / "folder" / "scores")
    assert score_here(folder).rows == COUNT - COUNT // 10
    expected = {str(pictures / name): scores for name, scores in by_id(folder).items()}
    for name, (file, given) in inputs.items():
        one = work("manifest", tmp_path / file, tmp_path / name / "scores")
        one = dataclasses.replace(one, given=given)
        result = score_here(one)
        assert result.refused == {"not_an_image": COUNT // 10}, name
        assert by_id(one) == expected, name


def test_keys_keep_their_types(work, pictures, tmp_path):
    """Key columns of a manifest are in the table with their own types and values, beside their own rows."""
    table = table_of(pictures)
    pq.write_table(table, tmp_path / "list.parquet")
    keys = ["price", "seen", "tags"]
    one = work("manifest", tmp_path / "list.parquet", tmp_path / "scores")
    one = dataclasses.replace(one, given={"columns": {"id": "sku", "keys": keys}})
    score_here(one)
    found = content_of(one.root)
    kept = table.filter(pa.compute.is_in(table.column("sku"), found.column("id")))
    assert [found.schema.field(key).type for key in keys] == [table.schema.field(key).type for key in keys]
    assert found.select(keys).equals(kept.select(keys).cast(found.select(keys).schema))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_true_class_can_be_carried_over(work, pictures, tmp_path, ending):
    """A key column may be called label or split, which mean something only where a data set is prepared."""
    table = table_of(pictures).select(["sku", "uri"])
    table = table.append_column("label", table.column("sku")).append_column("split", table.column("uri"))
    path = tmp_path / f"list.{ending}"
    pq.write_table(table, path) if ending == "parquet" else table.to_pandas().to_csv(path, index=False)
    one = work("manifest", path, tmp_path / "scores")
    score_here(dataclasses.replace(one, given={"columns": {"id": "sku", "keys": ["label", "split"]}}))
    found = content_of(one.root)
    assert len(found) == COUNT - COUNT // 10
    assert found.column("label").equals(found.column("id"))
    assert set(found.column("split").to_pylist()) <= set(table.column("uri").to_pylist())


def test_the_first_of_two_ids_stays(work, pictures, tmp_path):
    """Of rows with the same id the first in the order of the input is scored; the others are quarantined as such."""
    table = table_of(pictures)
    good = [uri for uri in table.column("uri").to_pylist() if not uri.endswith("7.png")]
    ids = ["one", "two", "one", "three", "one"]
    pq.write_table(pa.table({"id": ids, "uri": good[:5]}), tmp_path / "list.parquet")
    one = work("manifest", tmp_path / "list.parquet", tmp_path / "scores", units={"target_rows": 2})
    result = score_here(one)
    assert (result.rows, result.refused) == (3, {"duplicate_id": 2})
    alone = work("folder", pictures, tmp_path / "alone" / "scores")
    score_here(alone)
    assert by_id(one)["one"] == by_id(alone)[os.path.relpath(good[0], pictures)]
    assert quarantine_of(one)["uri"].tolist() == [good[2], good[4]]


def test_files_that_vanish_or_change_after_the_plan(work, pictures, tmp_path, monkeypatch):
    """A file that is gone when it is read is `gone`, one rewritten at its size is `changed`; both are told."""
    copy = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    first, second = (copy / name for name in names(copy)[:2])
    one = work("folder", copy, tmp_path / "scores")

    def between(*_: object) -> None:
        first.unlink()
        second.write_bytes(second.read_bytes())

    monkeypatch.setattr("pipelines.score.check_space", between)
    result = score_here(one)
    assert result.rows + sum(result.refused.values()) == COUNT
    assert result.refused == {"changed": 1, "gone": 1, "not_an_image": COUNT // 10}
    told = quarantine_of(one).set_index("reason")
    assert told.loc["gone", "uri"] == str(first)
    assert told.loc["changed", "uri"] == str(second)


@pytest.mark.slow
def test_objects_that_vanish_or_change_after_the_plan(work, pictures, s3_folder, tmp_path, monkeypatch):
    """The same on S3, where a second of the last change tells."""
    given = storage.join(s3_folder, "pictures")
    for name in names(pictures):
        storage.write_bytes(storage.join(given, name), (pictures / name).read_bytes())
    first, second = (storage.join(given, name) for name in names(pictures)[:2])
    one = work("folder", given, storage.join(s3_folder, "scores"))

    def between(*_: object) -> None:
        storage.remove(first)
        time.sleep(1.1)
        storage.write_bytes(second, storage.read_bytes(second))

    monkeypatch.setattr("pipelines.score.check_space", between)
    assert score_here(one).refused == {"changed": 1, "gone": 1, "not_an_image": COUNT // 10}
    monkeypatch.undo()


@pytest.mark.slow
def test_an_object_store_has_the_same_scores(work, pictures, s3_folder, tmp_path, s3):
    """Pictures and table on S3 give what local disks give; again there is nothing to do; a rewritten one is noticed."""
    given = storage.join(s3_folder, "2024-02-29")
    for name in names(pictures):
        storage.write_bytes(storage.join(given, name), (pictures / name).read_bytes())
    there = work("folder", given, storage.join(s3_folder, "scores"), units={"target_rows": 8})
    here = work("folder", pictures, tmp_path / "scores")
    assert score_here(there).published
    score_here(here)
    assert by_id(there) == by_id(here)
    assert not score_here(there).published
    time.sleep(1.1)
    first = storage.join(given, names(pictures)[0])
    storage.write_bytes(first, storage.read_bytes(first))
    assert score_here(there).published
    assert set(storage.list_files(there.table.partition)) == current(there.table).file_names


def test_a_table_that_is_rewritten_while_it_is_scored_publishes_nothing(work, pictures, tmp_path, monkeypatch):
    """Rows inside a Parquet file are known by their place: where it is exchanged meanwhile, nothing is published."""
    content = [(pictures / name).read_bytes() for name in names(pictures)]
    ids = [f"a{number}" for number in range(COUNT)]
    pq.write_table(pa.table({"id": ids, "png": content}), tmp_path / "night.parquet")
    one = work("manifest", tmp_path / "night.parquet", tmp_path / "scores", units={"target_rows": 8})
    one = dataclasses.replace(one, given={"columns": {"image": "png"}})

    def between(*_: object) -> None:
        pq.write_table(pa.table({"id": ids[::-1], "png": content[::-1]}), tmp_path / "night.parquet")

    monkeypatch.setattr("pipelines.score.check_space", between)
    with pytest.raises(IntegrityError, match=r"night.parquet was written to since it was listed"):
        score_here(one)
    assert current(one.table) is None
    monkeypatch.undo()
    assert score_here(one).rows == COUNT - COUNT // 10
    found = by_id(one)
    folder = work("folder", pictures, tmp_path / "folder" / "scores")
    score_here(folder)
    expected = by_id(folder)
    assert found == {f"a{at}": expected[name] for at, name in enumerate(names(pictures)) if name in expected}


def test_another_column_of_images_is_another_input(work, pictures, tmp_path):
    """Which column the images come from is a part of what is scored, also where ids and file are the same."""
    content = [(pictures / name).read_bytes() for name in names(pictures)]
    table = pa.table({"id": [f"a{at}" for at in range(COUNT)], "front": content, "back": content[::-1]})
    pq.write_table(table, tmp_path / "both.parquet")
    one = work("manifest", tmp_path / "both.parquet", tmp_path / "scores")
    found = []
    for column in ("front", "back"):
        result = score_here(dataclasses.replace(one, given={"columns": {"image": column}}))
        assert result.published
        found.append(by_id(one))
    assert found[0] != found[1]


def test_rows_that_repeat_unit_by_unit_are_all_told(work, pictures, tmp_path):
    """Of a table whose units are the same row by row, each row is scored or in quarantine."""
    uri = str(pictures / names(pictures)[0])
    pq.write_table(pa.table({"id": ["one"] * 5, "uri": [uri] * 5}), tmp_path / "list.parquet")
    one = work("manifest", tmp_path / "list.parquet", tmp_path / "scores", units={"target_rows": 1})
    result = score_here(one)
    assert (result.rows, result.refused) == (1, {"duplicate_id": 4})
    assert len(quarantine_of(one)) == 4


def test_a_refusal_of_the_world_is_looked_at_again(work, pictures, tmp_path, monkeypatch):
    """A file that was gone and is there again as it was is scored by the same command; sound units stay."""
    copy = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    first, aside = copy / names(copy)[0], tmp_path / "aside"
    strict = {"max_refused_share": 0.1}
    one = work("folder", copy, tmp_path / "scores", limits=strict, units={"target_rows": 8})
    monkeypatch.setattr("pipelines.score.check_space", lambda *_: first.rename(aside))
    with pytest.raises(RefusedRowsError, match="1 gone"):
        score_here(one)
    monkeypatch.undo()
    aside.rename(first)
    result = score_here(one)
    assert result.refused == {"not_an_image": COUNT // 10}
    assert result.units == {"planned": 4, "reused": 3}


@pytest.mark.parametrize(
    ("key", "layout", "taken"),
    [
        ("prediction", "list", True),
        ("date", "columns", True),
        ("Date", "list", True),
        ("ID", "list", True),
        ("p_3", "columns", True),
        ("P_3", "columns", True),
        ("p_3", "list", False),
        ("sku", "columns", False),
    ],
)
def test_key_columns_of_a_data_set_have_room(work, digits, bundle, tmp_path, key, layout, taken):
    """A key column that is called as one of the table's own is refused; the values would be lost."""

    class Keyed(DatasetInput):
        @property
        def keys(self) -> tuple[pa.Field, ...]:
            return (pa.field(key, pa.string()),)

    config = work("dataset", digits.path, tmp_path / "scores", probabilities=layout).config
    given, resolved = Keyed(digits.path, digits.manifest), Resolved("digits", "1", bundle)
    with pytest.raises(DatasetError, match=f"the key column '{key}'") if taken else nullcontext():
        check_fit(config, given, resolved)


def test_two_keys_that_differ_in_case_alone_are_refused(work, digits, bundle, tmp_path):
    """Readers that do not tell upper from lower case would take two keys for one column."""

    class Keyed(DatasetInput):
        @property
        def keys(self) -> tuple[pa.Field, ...]:
            return (pa.field("shop", pa.string()), pa.field("Shop", pa.string()))

    config = work("dataset", digits.path, tmp_path / "scores").config
    with pytest.raises(DatasetError, match="the key column 'Shop'"):
        check_fit(config, Keyed(digits.path, digits.manifest), Resolved("digits", "1", bundle))


@pytest.mark.parametrize(("layout", "fits"), [("list", True), ("columns", False)])
def test_a_column_a_class_needs_classes_that_differ_by_more_than_case(work, digits, tmp_path, layout, fits):
    """Of classes such as cat and Cat the columns would be one to many readers; in a list each has its place."""
    config = work("dataset", digits.path, tmp_path / "scores", probabilities=layout).config
    model = dataclasses.replace(scoring_model(digits.manifest), class_names=("cat", "dog", "Cat"))
    with nullcontext() if fits else pytest.raises(UserError, match=r"p_cat and p_Cat would be one.*list"):
        check_classes(config, model)


def test_an_output_below_a_file_is_the_users_mistake(work, pictures, tmp_path):
    """Where the folder of the table cannot be made, it is told as what it is."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        score_here(work("folder", pictures, tmp_path / "file" / "scores"))


def test_too_many_refused_rows_publish_nothing(work, pictures, tmp_path):
    """Above the bound nothing is published, the reasons are counted, and a higher bound reuses every unit."""
    one = work("folder", pictures, tmp_path / "scores", limits={"max_refused_share": 0.05}, units={"target_rows": 8})
    with pytest.raises(RefusedRowsError, match=r"3 of 30 rows were refused \(3 not_an_image\)"):
        score_here(one)
    assert current(one.table) is None
    assert storage.list_files(one.root) == []
    raised = dataclasses.replace(one, options={**one.options, "limits": {"max_refused_share": 0.1}})
    assert score_here(raised).units == {"planned": 4, "reused": 4}


def test_what_can_change_a_row_changes_its_unit(work, pictures, digits, tmp_path):
    """Units keep their names where nothing that can change a row does, and only there."""
    model = scoring_model(digits.manifest)

    def units(*, image: ImageConfig | None = None, model=model, **options) -> tuple[str, ...]:
        config = work("folder", pictures, tmp_path / "scores", **options).config
        given = open_input(config, str(pictures), image or ImageConfig(height=32, width=32))
        return tuple(unit.name for unit in given.plan(config, model).units)

    first = units()
    assert units() == units(limits={"max_refused_share": 0.5}) == units(history=3, mode="skip") == first
    others = {
        units(image=ImageConfig(height=32, width=32, resize="stretch")),
        units(image=ImageConfig(height=32, width=32, background=(1, 2, 3))),
        units(limits={"max_pixels": 1000, "max_refused_share": 1.0}),
        units(limits={"max_bytes": 1000, "max_refused_share": 1.0}),
        units(probabilities="columns"),
        units(model=scoring_model(digits.manifest, "e" * 64)),
    }
    assert len({first, *others}) == 7
    assert not set(first) & {name for other in others for name in other}


def test_small_files_share_a_unit_and_large_ones_do_not(work, tmp_path, digits):
    """Units are cut by rows and by bytes, whichever is reached first, and every row is in one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        size = 90 if number in (3, 4) else 8
        (folder / f"{number:02d}.png").write_bytes(encoded(pixels(1, size, size, 3, seed=number)[0]))
    config = work("folder", folder, tmp_path / "scores", units={"target_rows": 6, "target_bytes": 20_000}).config
    plan = open_input(config, str(folder), ImageConfig()).plan(config, scoring_model(digits.manifest))
    assert [unit.rows for unit in plan.units] == [3, 1, 1, 6, 6, 3]


def test_the_date_is_in_the_address(work, pictures, tmp_path):
    """`{date}` in the input's address is the date that is scored."""
    shutil.copytree(pictures, tmp_path / "2024-02-29")
    one = work("folder", str(tmp_path / "{date}"), tmp_path / "scores")
    assert score_here(one).rows == COUNT - COUNT // 10
    assert for_date("s3://lake/{date}/x/{date}.csv", one.table.date) == "s3://lake/2024-02-29/x/2024-02-29.csv"
