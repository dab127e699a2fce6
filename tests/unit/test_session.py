"""What a job needs against what there is, node by node, and the Ray that is closed again where it is not enough."""

import os
import signal
import socket
import sys
from contextlib import suppress
from itertools import product
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray._private import utils

from cnnjob import interrupt
from cnnjob.cluster import session as sessions
from cnnjob.cluster.session import Needs, Node, check_machine, fitting, machine_gpus, num_visible, session
from cnnjob.cluster.starting import signals_left_alone
from cnnjob.errors import ClusterError, ResourceError
from cnnjob.progress import Silent

WHOLE = st.integers(1, 4)
TENTHS = st.integers(1, 40).map(lambda tenths: tenths / 10)
NODES = st.lists(st.builds(Node, st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=3)


def room(node: Node, taken: int, needs: Needs) -> int:
    """Processes on one node of whose CPUs some are taken, counted one by one, in tenths of a CPU."""
    left, gpus, found = round(10 * (node.cpus - taken)), node.gpus, 0
    while left >= (size := round(10 * needs.cpus_per_process)) and (gpus > 0 or not needs.gpus):
        left, gpus, found = left - size, gpus - 1, found + 1
    return found


def best(needs: Needs, nodes: list[Node]) -> int:
    """The most processes over all ways to lay the data tasks out; none where they find no place."""
    ways = product(*(range(int(node.cpus) + 1) for node in nodes))
    laid_out = [way for way in ways if sum(way) == needs.data_cpus]
    found = [sum(room(*place, needs) for place in zip(nodes, way, strict=True)) for way in laid_out]
    return max(found, default=0)


@given(NODES, WHOLE, st.integers(0, 6), st.booleans())
def test_as_many_fit_as_in_the_best_of_all_layouts(nodes, size, data_cpus, gpus):
    """With whole CPUs, as many fit as where every place of the data tasks is tried."""
    needs = Needs(9, size, data_cpus=data_cpus, gpus=9 * gpus)
    assert fitting(needs, nodes) == best(needs, nodes)


@given(NODES, TENTHS, st.integers(0, 6), st.booleans())
def test_no_more_fit_than_in_the_best_of_all_layouts(nodes, size, data_cpus, gpus):
    """With parts of CPUs, never more fit than there is room for, and without data tasks exactly as many."""
    needs = Needs(9, size, data_cpus=data_cpus, gpus=9 * gpus)
    found, most = fitting(needs, nodes), best(needs, nodes)
    assert found == most if not data_cpus else found <= most


@pytest.mark.parametrize(
    ("size", "data_cpus", "gpus", "nodes", "expected"),
    [
        (4, 0, 0, [Node(2)] * 4, 0),
        (2, 0, 0, [Node(2)] * 4, 4),
        (2, 0, 0, [Node(3)] * 4, 4),
        (2, 4, 0, [Node(3)] * 4, 4),
        (2, 5, 0, [Node(3)] * 4, 3),
        (0.1, 0, 0, [Node(1)], 10),
        (1.5, 1, 0, [Node(2)] * 2, 1),
        (1, 0, 1, [Node(8), Node(2, 4)], 2),
        (4, 0, 1, [Node(8), Node(2, 4)], 0),
        (1, 1, 0, [Node(0)], 0),
    ],
)
def test_a_process_lies_on_one_node(size, data_cpus, gpus, nodes, expected):
    """What is left on two nodes holds no process, and one with a GPU takes its CPUs where the GPU is."""
    assert fitting(Needs(1, size, data_cpus=data_cpus, gpus=gpus), nodes) == expected


@pytest.mark.parametrize(
    ("devices", "expected"),
    [("", 0), ("-1", 0), ("NoDevFiles", 0), ("0", 1), ("2, 3", 2), ("GPU-8a, GPU-b1,GPU-c0", 3), ("0,-1,1", 1)],
)
def test_visible_gpus_are_those_before_the_first_that_is_none(devices, expected):
    """A list names as many GPUs as it has, up to an entry that names none."""
    assert num_visible(devices) == expected


@pytest.mark.parametrize(("devices", "expected"), [(None, 2), ("0,1,2,3", 2), ("1", 1), ("-1", 0)])
def test_gpus_of_the_machine_are_those_that_are_visible(tmp_path, monkeypatch, devices, expected):
    """A machine with two GPUs has as many as ``CUDA_VISIBLE_DEVICES`` leaves, and never more than two."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sessions, "Path", lambda _: tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if devices is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert machine_gpus() == expected


class FakeRay:
    """A Ray whose nodes have what a test says.

    Attributes:
        opened: How it was opened, each time.
        closed: How often it was closed.
    """

    def __init__(self, *nodes: dict[str, float], dead: dict[str, float] | None = None) -> None:
        self._nodes = [{"Alive": True, "Resources": resources} for resources in nodes]
        self._nodes += [{"Alive": False, "Resources": dead}] if dead else []
        self.opened: list[str] = []
        self.closed = 0

    def is_initialized(self) -> bool:
        """Whether it is open."""
        return len(self.opened) > self.closed

    def init(self, address: str, **_: object) -> None:
        """Open it."""
        self.opened.append(address)

    def nodes(self) -> list[dict[str, object]]:
        """As Ray lists them."""
        return self._nodes

    def cluster_resources(self) -> dict[str, float]:
        """What those that are alive have together."""
        return {"CPU": sum(node["Resources"].get("CPU", 0) for node in self._nodes if node["Alive"])}

    def shutdown(self) -> None:
        """Close it."""
        self.closed += 1


@pytest.fixture
def ray_of(monkeypatch):
    """Put a fake in the place of Ray, for a job on the cluster at ``address`` or on a Ray of its own."""

    def put(fake: FakeRay, address: str = "") -> FakeRay:
        monkeypatch.setattr(sessions, "ray", fake)
        os.environ["RAY_ADDRESS"] = address
        return fake

    with mock.patch.dict(os.environ):
        yield put


def refused(needs: Needs) -> str:
    """What a session says that refuses a job."""
    with pytest.raises(ResourceError) as error, session(needs, Silent()):
        pass
    return str(error.value)


def test_a_ray_of_our_own_without_the_gpus_is_refused_and_closed(ray_of, monkeypatch):
    """Where device files are there and Ray offers no GPU, the job is refused before any work, and Ray is closed."""
    fake = ray_of(FakeRay({"CPU": 2.0}))
    monkeypatch.setattr(sessions, "machine_gpus", lambda: 1)
    assert "use_gpu asks for 1 GPU, and the Ray of this process has none" in refused(Needs(1, gpus=1))
    assert (fake.opened, fake.closed) == (["local"], 1)


def test_a_cluster_whose_nodes_are_too_small_is_refused_with_the_arithmetic(ray_of):
    """A worker of 4 CPUs on four nodes of 2 is refused and not waited for, though they have 8 together."""
    fake = ray_of(FakeRay(*[{"CPU": 2.0}] * 4, dead={"CPU": 64.0}), "10.0.0.1:6379")
    assert refused(Needs(1, 4)) == (
        "num_workers 1 x 4 CPU each = 4 CPUs, and the cluster has 8 on 4 nodes of at most 2. "
        "Each must fit on one node, and none will; give each fewer CPUs."
    )
    assert (fake.opened, fake.closed) == (["10.0.0.1:6379"], 1)


def test_a_cluster_that_holds_some_says_how_many(ray_of):
    """Of workers of which a few fit beside the data tasks, their number is told as what to set."""
    ray_of(FakeRay(*[{"CPU": 3.0}] * 3), "10.0.0.1:6379")
    assert refused(Needs(4, 2, data_cpus=1)) == (
        "num_workers 4 x 2 CPU each + 1 for data tasks = 9 CPUs, and the cluster has 9 on 3 nodes of at most 3. "
        "Each must fit on one node, and 3 will; set num_workers to at most 3, or give each fewer CPUs."
    )


def test_cpus_beside_a_gpu_are_counted_where_it_is(ray_of):
    """CPUs of a node without a GPU are no use to a worker that has one."""
    ray_of(FakeRay({"CPU": 16.0}, {"CPU": 2.0, "GPU": 4.0}), "10.0.0.1:6379")
    assert "2 x 2 CPU and a GPU each = 4 CPUs, and the cluster has 18 on 2 nodes" in refused(Needs(2, 2, gpus=2))
    assert "use_gpu asks for 5 GPUs, and the cluster has 4; lower num_workers" in refused(Needs(5, 0.1, gpus=5))


@pytest.mark.parametrize(("handler", "taken"), [(interrupt._end, False), (signal.SIG_DFL, True)])
def test_ray_takes_sigterm_only_where_nobody_has_it(signals_installed, handler, taken):
    """Its handler, which raises wherever it is, takes the place of none; in a program without one it does its work."""

    def rays(*_: object) -> None:
        pass

    signal.signal(signal.SIGTERM, handler)
    with signals_left_alone():
        utils.set_sigterm_handler(rays)
        assert signal.getsignal(signal.SIGTERM) == (rays if taken else handler)
    utils.set_sigterm_handler(rays)
    assert signal.getsignal(signal.SIGTERM) == rays


class Terminated(FakeRay):
    """A Ray that takes SIGTERM all the same, and is sent one while it starts."""

    def init(self, address: str, **options: object) -> None:
        """Open it; the handler's exception is raised where it comes to nothing, as in a hook after a fork."""
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        with suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        super().init(address, **options)


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_a_sigterm_while_ray_starts_ends_the_job_also_where_its_exception_is_lost(ray_of, signals_installed, address):
    """A signal that Ray's own handler has, and something swallows, ends the job as any other, and Ray is closed."""
    fake = ray_of(Terminated({"CPU": 2.0}), address)
    with pytest.raises(interrupt.EndedBySignalError) as ended, session(Needs(), Silent()):
        pytest.fail("the job goes on")
    assert ended.value.code == 143
    assert fake.closed == len(fake.opened) == 1


def test_a_sigterm_whose_exception_ray_makes_a_failure_ends_the_job(ray_of, signals_installed, monkeypatch):
    """What Ray raises in place of the signal's exception is not what the job ends with."""
    fake = ray_of(Terminated({"CPU": 2.0}), "10.0.0.1:6379")
    monkeypatch.setattr(FakeRay, "init", mock.Mock(side_effect=ConnectionError("no answer")))
    with pytest.raises(interrupt.EndedBySignalError), session(Needs(), Silent()):
        pytest.fail("the job goes on")
    assert fake.closed == 1


def test_a_ray_that_did_not_start_is_closed(ray_of, monkeypatch):
    """Of a Ray that ends half started, what it has started is ended."""
    fake = ray_of(FakeRay({"CPU": 2.0}))
    monkeypatch.setattr(FakeRay, "init", mock.Mock(side_effect=OSError("no space")))
    with pytest.raises(OSError, match="no space"), session(Needs(), Silent()):
        pytest.fail("the job goes on")
    assert fake.closed == 1


def test_data_tasks_alone_need_a_cpu(ray_of):
    """A job of data tasks alone is refused by a cluster without a CPU, in its own words."""
    ray_of(FakeRay({"CPU": 0.0}), "10.0.0.1:6379")
    assert refused(Needs(data_cpus=1)) == "1 CPU for data tasks, and the cluster has 0; start a node that has more."


def test_what_fits_is_opened_and_closed(ray_of):
    """A job that fits has its cluster open inside, and closed after."""
    fake = ray_of(FakeRay({"CPU": 3.0}, {"CPU": 3.0}, {"CPU": 4.0}), "10.0.0.1:6379")
    with session(Needs(4, 2, data_cpus=2), Silent()):
        assert fake.is_initialized()
    assert not fake.is_initialized()


def test_a_machine_is_not_asked_for_the_cpus_of_data_tasks(monkeypatch):
    """A Ray of our own has CPUs for data tasks beside those of the machine; what it says to set would be taken."""
    monkeypatch.setattr(sessions, "machine_cpus", lambda: 2)
    check_machine(Needs(2, data_cpus=1))
    told = "num_workers 3 x 1 CPU each = 3 CPUs, and this machine has 2; set num_workers to at most 2"
    with pytest.raises(ResourceError, match=told):
        check_machine(Needs(3, data_cpus=1))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_cluster_that_does_not_listen_is_told_and_not_waited_for(monkeypatch, host):
    """Ray itself is not asked: it would try for a quarter of an hour, and no signal would end that."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"{host}:{port}")
    asked = mock.Mock()
    monkeypatch.setattr(sessions.ray, "init", asked)
    monkeypatch.setattr(sessions.ray, "is_initialized", lambda: False)
    with (
        pytest.raises(ClusterError, match=f"{port} cannot be reached: .*Unset RAY_ADDRESS"),
        session(Needs(), Silent()),
    ):
        pass
    asked.assert_not_called()
