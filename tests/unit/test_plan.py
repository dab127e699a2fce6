from pathlib import Path

import pytest

from cnnjob.config.score import EngineConfig, InputConfig, UnitsConfig
from cnnjob.scoring.plan import ScoringModel, plan_dataset, rows_of_encoded, rows_of_packed
from tests.helpers import manifest_of, score_config, scoring_model

MANIFEST = manifest_of([50, 7, 7, 130])


def plan(tmp_path, manifest=MANIFEST, digest="d" * 64, **values):
    return plan_dataset(score_config("data", tmp_path, **values), manifest, scoring_model(manifest, digest))


def names(plan) -> set[str]:
    return {unit.name for unit in plan.units}


def test_plan_is_a_function_of_its_inputs(tmp_path):
    """The same listing, config and model give the same plan, wherever the output lies and whoever does it."""
    first = plan(tmp_path / "a")
    assert plan(tmp_path / "b") == first
    assert plan(tmp_path / "a", engine=EngineConfig(num_processes=7, batch_size_per_process=3)) == first


def test_a_gpus_precision_changes_every_unit(tmp_path):
    """What a CPU scored, a GPU in float32 and one in bfloat16 are units of different names."""
    engines = [EngineConfig(), *(EngineConfig(use_gpu=True, precision=kind) for kind in ("fp32", "bf16"))]
    found = [name for engine in engines for name in names(plan(tmp_path, engine=engine))]
    assert len(set(found)) == len(found)


def test_images_that_travel_to_a_gpu_are_bounded():
    """Where CPUs decode for a GPU, a unit has no more decoded images than ``target_bytes`` holds, and one at least."""
    config = score_config("data", Path("scores"), target_rows=100, engine=EngineConfig(use_gpu=True))
    narrow = config.model_copy(update={"units": UnitsConfig(target_rows=100, target_bytes=50)})
    assert rows_of_encoded(config, (3, 32, 32)) == 100
    assert rows_of_encoded(narrow, (1, 2, 5)) == 5
    assert rows_of_encoded(narrow, (3, 32, 32)) == 1


@pytest.mark.parametrize(
    ("megaflops", "classes", "rows"),
    [(0.1, 10, 65_536), (4, 10, 62_500), (10, 10, 25_000), (800, 10, 16_384), (0.1, 500, 33_554), (0.1, 5000, 16_384)],
)
def test_a_unit_is_a_second_or_two_of_work(megaflops, classes, rows):
    """A unit has fewer rows, within bounds, the more a model does for each, and the more classes it has."""
    names = tuple(f"class {number}" for number in range(classes))
    model = ScoringModel("net", "1", "d" * 64, names, (3, 32, 32), flops=int(megaflops * 1e6))
    config = score_config("data", Path("scores"), target_rows=None)
    assert rows_of_packed(config, model) == rows
    assert rows_of_packed(score_config("data", Path("scores"), target_rows=7), model) == 7


@pytest.mark.parametrize("gpu", [False, True])
def test_a_gpu_has_large_units_whatever_a_row_takes(gpu):
    """The work of a model bounds a core's units, not a GPU's; images that are decoded are the least on a core."""
    model = ScoringModel("net", "1", "d" * 64, ("cat", "dog"), (3, 32, 32), flops=10**9)
    config = score_config("data", Path("scores"), target_rows=None, engine=EngineConfig(use_gpu=gpu))
    assert rows_of_packed(config, model) == (65_536 if gpu else 16_384)
    assert rows_of_encoded(config, model.shape) == (65_536 if gpu else 16_384)


def test_another_model_changes_every_unit(tmp_path):
    """With another model's digest no unit keeps its name; the listing keeps its digest."""
    first, other = plan(tmp_path), plan(tmp_path, digest="e" * 64)
    assert not names(first) & names(other)
    assert first.digest != other.digest
    assert first.listing_digest == other.listing_digest


def test_another_layout_changes_every_unit(tmp_path):
    """With another layout of the probabilities no unit keeps its name."""
    assert not names(plan(tmp_path)) & names(plan(tmp_path, probabilities="columns"))


def test_a_changed_shard_changes_its_units_alone(tmp_path):
    """Another digest of a shard changes the names of the units that read it, and of no other."""
    split = MANIFEST.splits["test"]
    shards = [split.shards[0].model_copy(update={"sha256": "f" * 64}), *split.shards[1:]]
    changed = MANIFEST.model_copy(
        update={"splits": {**MANIFEST.splits, "test": split.model_copy(update={"shards": tuple(shards)})}}
    )
    first, other = plan(tmp_path), plan(tmp_path, changed)
    touched = {unit.name for unit in first.units if any(span.shard.path == shards[0].path for span in unit.spans)}
    assert names(first) - names(other) == touched
    assert 0 < len(touched) < len(first.units)
    assert first.listing_digest != other.listing_digest


def test_small_shards_share_a_unit_and_large_ones_are_cut(tmp_path):
    """Units are filled to the target: small shards together, large ones in pieces."""
    cut = [[(span.start, span.stop) for span in unit.spans] for unit in plan(tmp_path).units]
    assert cut == [
        [(0, 50), (0, 7), (0, 7)],
        [(0, 64)],
        [(64, 128)],
        [(128, 130)],
    ]


def test_all_takes_every_split(tmp_path):
    """The split `all` plans the rows of train, val and test."""
    full = MANIFEST.splits["test"]
    manifest = MANIFEST.model_copy(update={"splits": dict.fromkeys(("train", "val", "test"), full)})
    config = score_config("data", tmp_path).model_copy(
        update={"input": InputConfig(kind="dataset", uri="data", split="all")}
    )
    assert plan_dataset(config, manifest, scoring_model(manifest)).rows == 3 * full.rows


def test_no_rows_are_no_units(tmp_path):
    """An empty split has a plan without units."""
    found = plan(tmp_path, manifest_of([]))
    assert (found.units, found.rows) == ((), 0)
