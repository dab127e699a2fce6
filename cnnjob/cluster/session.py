"""The Ray that a job runs on: the cluster it was submitted to, or one of our own on this machine.

A cluster is used where Ray says so (``RAY_ADDRESS``, which the jobs API sets). Otherwise a local Ray is started
for the job and ended with it: ``address="local"``, never a stranger's cluster whose address file lies about.
What the job needs is compared with what there is before any work, node by node: what fits on none would be waited for
without a word.
"""

import logging
import math
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import ray

from cnnjob import interrupt
from cnnjob.cluster.processes import Process, descendants, end_all, is_of_ray
from cnnjob.cluster.starting import signals_left_alone, what_a_job_needs
from cnnjob.errors import ClusterError, ResourceError
from cnnjob.progress import Progress

CLUSTER_ENV = "RAY_ADDRESS"
VISIBLE_GPUS_ENV = "CUDA_VISIBLE_DEVICES"
_NO_DEVICE = ("", "-1", "NoDevFiles")

KNOCK_TIMEOUT_S = 20
"""How long a cluster may take to answer at all."""

WORKER_ENVIRONMENT = {
    # glibc hands large blocks back to the kernel at each step; keeping them spares large batches
    # the page faults of getting them again.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    # cuBLAS sums in a fixed order only with a workspace of a fixed size (torch.use_deterministic_algorithms).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

NO_DASHBOARD = "http://127.0.0.1:9"
"""The discard port: nothing listens. Ray Train asks the dashboard whether its controller lives, and at the end of a
training waits 12 s for a Ray without one; refused at once it goes on. Our own Ray ends with the job anyway."""

_OWN_RAY_ENVIRONMENT = {
    "RAY_API_SERVER_ADDRESS": NO_DASHBOARD,
    # What nobody can look at without a dashboard: every process would report its tasks each second, and every worker of
    # a training its metrics.
    "RAY_task_events_report_interval_ms": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # It watches for nodes that a cloud takes back.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

_DRIVER_ENVIRONMENT = {
    # How soon the end of a training, or of a worker, is seen: 2 s by default. A look takes 3 ms of a worker's CPU.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A hung worker is noticed after 600 s by default, and its group takes as long to be torn down.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "20",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Needs:
    """What a job reserves.

    Attributes:
        processes: Its worker processes.
        cpus_per_process: CPUs that each of them reserves.
        data_cpus: CPUs for data tasks beside them; without one, reading would wait for workers to end.
        gpus: GPUs in all, one for each process, or none.
        key: The config's key that sets the number of processes, for messages.
    """

    processes: int = 0
    cpus_per_process: float = 1
    data_cpus: int = 0
    gpus: int = 0
    key: str = "num_workers"

    @property
    def cpus(self) -> float:
        """CPUs of the worker processes."""
        return self.processes * self.cpus_per_process


@dataclass(frozen=True)
class Node:
    """What a machine of a cluster offers.

    Attributes:
        cpus: Its CPUs.
        gpus: Its GPUs.
    """

    cpus: float
    gpus: float = 0


def fitting(needs: Needs, nodes: Sequence[Node]) -> int:
    """How many processes of the size that ``needs`` says fit, each whole on one node, beside its data tasks.

    A data task takes a CPU where that costs the fewest processes.
    """
    left = list(nodes)
    for _ in range(needs.data_cpus):
        costs = {i: _on(node, needs) - _on(_one_less(node), needs) for i, node in enumerate(left) if node.cpus >= 1}
        if not costs:
            return 0
        cheapest = min(costs, key=costs.__getitem__)
        left[cheapest] = _one_less(left[cheapest])
    return sum(_on(node, needs) for node in left)


def _on(node: Node, needs: Needs) -> int:
    """How many processes one node holds."""
    # A quotient such as 0.3 / 0.1 falls just short of the whole number.
    by_cpus = math.floor(node.cpus / needs.cpus_per_process + 1e-9)
    return min(by_cpus, int(node.gpus)) if needs.gpus else by_cpus


def _one_less(node: Node) -> Node:
    return replace(node, cpus=node.cpus - 1)


def machine_cpus() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0))


_BOUNDS_OF_A_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of its memory, as it sees them itself: version 2 and version 1 of cgroups."""


def own_memory() -> int | None:
    """Bytes of memory, without swap, that the job's processes share where they all run here; None on a cluster."""
    if not is_own():
        return None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for bound in _BOUNDS_OF_A_CONTAINER:
        # There is none of the other version, and without a bound it is a word.
        with suppress(OSError, ValueError):
            memory = min(memory, int(Path(bound).read_text()))
    return memory


def cpus_available() -> int:
    """CPUs of the Ray the job would run on, if it is open, else of this machine."""
    return int(ray.cluster_resources().get("CPU", 0)) if ray.is_initialized() else machine_cpus()


def machine_gpus() -> int:
    """NVIDIA GPUs of this machine that ``CUDA_VISIBLE_DEVICES`` leaves."""
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get(VISIBLE_GPUS_ENV)
    return there if visible is None else min(there, num_visible(visible))


def num_visible(devices: str) -> int:
    """How many GPUs a value of ``CUDA_VISIBLE_DEVICES`` names: CUDA reads it up to the first that there cannot be.

    Ray counts ``-1`` as one.
    """
    return len(list(takewhile(lambda name: name.strip() not in _NO_DEVICE, devices.split(","))))


def gpus_available() -> int:
    """GPUs of the Ray the job would run on, if it is open, else of this machine."""
    return int(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else machine_gpus()


def apply_environment() -> None:
    """Set what Ray reads from the environment when it starts; what the user has set stays."""
    _set(_DRIVER_ENVIRONMENT | WORKER_ENVIRONMENT)


def _set(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        os.environ.setdefault(name, value)


_shared = False
_others: frozenset[Process] | None = None
"""What this process had started before its own Ray; None where it has none."""


def worker_environment() -> dict[str, str]:
    """What worker processes of this job need in their environment.

    Those of a Ray of our own inherit it, and are there already; a cluster's are started anew with it.
    """
    return {} if is_own() else WORKER_ENVIRONMENT


def is_own() -> bool:
    """Whether this job's Ray is, or will be, one of its own, which ends with it."""
    return _cluster_address() is None


def _cluster_address() -> str | None:
    """The cluster that Ray names; None where the job has a Ray of its own."""
    address = os.environ.get(CLUSTER_ENV, "")
    return None if address in ("", "local") else address


@contextmanager
def shared_session() -> Iterator[None]:
    """Sessions opened inside stay open until the end: several jobs in one process, one start of Ray."""
    global _shared  # noqa: PLW0603 - Ray itself is one per process
    _shared = True
    opened_before = ray.is_initialized()
    try:
        yield
    finally:
        _shared = False
        if not opened_before:
            _close()


@contextmanager
def session(needs: Needs, progress: Progress) -> Iterator[None]:
    """Open Ray for a job and close it after; an already open one is used and left open.

    Raises:
        ResourceError: The machine or the cluster has less than the job needs; nothing was started.
        ClusterError: The cluster that Ray names cannot be reached.
    """
    apply_environment()
    if ray.is_initialized():
        check_open(needs)
        yield
        return
    address = _cluster_address()
    if not address:
        check_machine(needs)
    try:
        with interrupt.watched(), signals_left_alone():
            if address:
                _connect(address)
            else:
                _start_local(needs)
        # Also our own: which GPUs there are, Ray knows better than the device files.
        check_open(needs)
        if address:
            progress.note(f"Ray cluster at {address}: {int(ray.cluster_resources().get('CPU', 0))} CPUs")
        yield
    finally:
        if not _shared:
            _close()


def _close() -> None:
    """End Ray, and of our own every process: one that hangs as it ends would stay, since nobody is left to see it.

    Ray itself leaves all of them where it has not started whole.
    """
    global _others
    before, _others = _others, None
    if before is None:
        ray.shutdown()
        return

    def ours() -> set[Process]:
        return {process for process in descendants() - before if is_of_ray(process)}

    # Those of a process that has ended are descendants of ours no more.
    known = ours()
    ray.shutdown()
    end_all(lambda: known | ours())


def check_machine(needs: Needs) -> None:
    """Compare a job's needs with this machine.

    Raises:
        ResourceError: With the arithmetic.
    """
    # Data tasks have CPUs beside those of the machine: our own Ray is started with as many more.
    _check(replace(needs, data_cpus=0), [Node(machine_cpus(), machine_gpus())], "this machine has")


def _start_local(needs: Needs) -> None:
    # Ray's ports listen on every interface, and it asks for a token by default. Ours is of this process alone;
    # without one Ray would write a lasting one into the home folder.
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    _set(_OWN_RAY_ENVIRONMENT)
    global _others  # noqa: PLW0603 - Ray itself is one per process
    _others = descendants()
    # The logical CPUs of our own Ray: what workers reserve plus what data tasks need, so neither starves.
    logical = max(machine_cpus(), math.ceil(needs.cpus) + needs.data_cpus)
    with what_a_job_needs():
        ray.init(
            address="local",
            num_cpus=logical,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
        )


def _connect(address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"the Ray cluster at {address} cannot be reached: {error}. "
            f"Unset {CLUSTER_ENV} to run on this machine, or start the cluster."
        ) from error


def _knock(address: str) -> None:
    """Raises where nothing listens: Ray would try for a quarter of an hour, and hear no Ctrl-C meanwhile."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT_S).close()
    except ConnectionRefusedError:
        if host not in ("127.0.0.1", "localhost"):
            raise
        # For this machine Ray asks by the address that others know it by.
        socket.create_connection((ray.util.get_node_ip_address(), int(port)), timeout=KNOCK_TIMEOUT_S).close()


def check_open(needs: Needs) -> None:
    """Compare a job's needs with the nodes of the Ray that is open.

    Raises:
        ResourceError: With the arithmetic.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive]
    _check(needs, nodes, "the cluster has" if _cluster_address() else "the Ray of this process has")


def _check(needs: Needs, nodes: Sequence[Node], who: str) -> None:
    gpus = int(sum(node.gpus for node in nodes))
    if needs.gpus > gpus:
        raise ResourceError(_too_few_gpus(needs, gpus, who))
    if needs.processes > fitting(needs, nodes) or needs.data_cpus > sum(int(node.cpus) for node in nodes):
        raise ResourceError(_too_few(needs, nodes, who))


def _too_few_gpus(needs: Needs, have: int, who: str) -> str:
    advice = f"lower {needs.key}" if have else "set use_gpu: false"
    return f"use_gpu asks for {needs.gpus} GPU{'s' if needs.gpus > 1 else ''}, and {who} {have or 'none'}; {advice}."


def _too_few(needs: Needs, nodes: Sequence[Node], who: str) -> str:
    have = f"{who} {sum(node.cpus for node in nodes):g}"
    if not needs.processes:
        return f"{needs.data_cpus} CPU for data tasks, and {have}; start a node that has more."
    each = f"{needs.cpus_per_process:g} CPU" + (" and a GPU" if needs.gpus else "")
    data = f" + {needs.data_cpus} for data tasks" if needs.data_cpus else ""
    fit = fitting(needs, nodes)
    if len(nodes) > 1:
        have += f" on {len(nodes)} nodes of at most {max(node.cpus for node in nodes):g}. Each must fit on one node"
        have += f", and {fit or 'none'} will"
    advice = f"set {needs.key} to at most {fit}, or give each fewer CPUs" if fit else "give each fewer CPUs"
    asked = f"{needs.key} {needs.processes} x {each} each{data} = {needs.cpus + needs.data_cpus:g} CPUs"
    return f"{asked}, and {have}; {advice}."
