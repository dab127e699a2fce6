"""Fixtures that several folders share; loaded by ``tests/conftest.py``."""

import logging
import os
import secrets
from collections.abc import Iterator

import pytest

NUM_CPUS, NUM_GPUS = 4, 1
"""Logical CPUs and GPUs of the shared Ray: fixed, so that tests do not depend on the machine. Ray hands out a GPU also
where there is none; what has it in the tests calculates on a CPU."""


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """One Ray for the whole run of the tests; its address. Commands in processes of their own join it."""
    import ray

    from cnnjob.cluster.session import NO_DASHBOARD, apply_environment

    apply_environment()
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_API_SERVER_ADDRESS", NO_DASHBOARD)
    ray.init(
        address="local",
        num_cpus=NUM_CPUS,
        num_gpus=NUM_GPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
