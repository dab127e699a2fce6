"""Shared by all tests: hypothesis' settings, the digits prepared once, and a model trained on them once."""

from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.shared", "tests.line", "tests.s3", "tests.faults", "tests.signals", "tests.unit.night"]

settings.register_profile("cnnjob", deadline=None, max_examples=50, database=None)
settings.load_profile("cnnjob")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory):
    """scikit-learn's digits as 3x32x32, in several shards and row groups."""
    from cnnjob.data.sources.digits import DigitsSource
    from tests.helpers import Dataset, prepare, prepare_config

    output = tmp_path_factory.mktemp("digits") / "dataset"
    config = prepare_config(output, rows_per_shard=500, rows_per_group=200)
    return Dataset(str(output), prepare(config, DigitsSource()))


@pytest.fixture(scope="session")
def digits_rows(digits):
    """The digits' test rows."""
    from tests.helpers import rows_of

    return rows_of(digits.path, digits.manifest, "test")


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory: pytest.TempPathFactory):
    """The default net after one epoch on the digits."""
    from tests.helpers import default_net
    from tests.workers import job_of, worker_of

    net, folder = default_net(digits.manifest), tmp_path_factory.mktemp("trained")
    worker = worker_of(job_of(digits, folder, net, num_workers=1, num_epochs=1, global_batch_size=32))
    worker.run()
    return worker.learner.module.eval()


@pytest.fixture(scope="session")
def bundle(digits, trained):
    """The trained net as a bundle."""
    from tests.helpers import bundle_of

    return bundle_of(trained, digits.manifest)


@pytest.fixture
def bundle_folder(bundle, tmp_path: Path) -> Path:
    """The bundle's three files in a folder of their own."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle.write(folder)
    return folder
