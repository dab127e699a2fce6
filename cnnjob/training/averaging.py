"""Gradients averaged over the ranks on CPUs: every number is the sum in the order of the ranks, whatever carries it.

Ranks of one machine put their gradients into memory that all of them map, and tell each other through sockets when they
have. gloo, which goes through TCP and threads of its own, takes 3.6 ms for the 0.5 MB of the default net, this 0.2.
Ranks of several machines exchange the same sums through gloo. Each number is added up in the same order either way:
where ranks run changes no bit of the weights, nor does how DDP puts gradients together. A question of a rank travels
along, at no cost, and is answered alike on all of them.
"""

import mmap
import secrets
import shutil
import socket
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from cnnjob.training.feed import Place

CHUNK = 1 << 20
"""float32 numbers that each rank has room for in the memory they share: 4 MB, since containers have 64 MB of it by
default. More are averaged a chunk at a time."""

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_SHARED, _TOKEN = "gradients", "token"
_WAIT_S = 1800
"""For another rank, as gloo does: one that lives and computes nothing would be waited for without end."""


class Averaging(Protocol):
    """Averages over the group: called by every rank, as often, with as many numbers.

    Attributes:
        asks: What this rank asks along with its next numbers.
        asked: Whether any rank asked along with the last ones; the same on all.
    """

    asks: bool
    asked: bool

    def average(self, values: torch.Tensor) -> None:
        """Replace float32 values by the mean over the ranks."""


def make_averaging(place: Place, most: int) -> Averaging:
    """How gradients of up to ``most`` numbers at once are averaged; every rank calls it, and all get the same kind.

    torch's process group must be set up.
    """
    return SharedMemory.of_one_machine(place, min(most, CHUNK)) or Messages(place)


class SharedMemory:
    """Averages in memory that the ranks of one machine share.

    Each rank writes its numbers, adds up its own slice over all ranks, and reads the slices of the others. They wait
    for each other by bytes through sockets, to ranks at distances of powers of two (the dissemination barrier of
    Hensgen, Finkel and Manber, 1988): a rank that dies closes its own, and nobody waits for it.
    """

    def __init__(self, place: Place, memory: torch.Tensor, links: list[tuple[socket.socket, socket.socket]]) -> None:
        self._place = place
        self._given, self._sums = memory[:-1], memory[-1]
        self._links = links
        self.asks = self.asked = False

    @classmethod
    def of_one_machine(cls, place: Place, numbers: int) -> "SharedMemory | None":
        """Set up by all ranks; None, on each, where they do not all reach the same folder."""
        # A folder that machines share holds the word below, but neither memory nor sockets that they share.
        if len(set(gathered(_machine(), place))) > 1:
            return None
        with ExitStack() as undo:
            told: list[Any] = [_made(numbers * 4 * (place.world_size + 1)) if place.rank == 0 else None]
            if told[0]:
                # What is mapped and connected stays so; nothing is left when this returns or raises.
                undo.callback(shutil.rmtree, told[0][0], ignore_errors=True)
            dist.broadcast_object_list(told, src=0)
            folder, token = (Path(told[0][0]), told[0][1]) if told[0] else (None, None)
            memory, listener = None, None
            if folder:
                with suppress(OSError):
                    # Containers of one machine may each have a folder of this name.
                    if (folder / _TOKEN).read_text() == token:
                        memory = _mapped(folder / _SHARED, place.world_size, numbers)
                        listener = _listening(folder / str(place.rank), undo)
            ready = gathered(memory is not None and listener is not None, place)
            if memory is None or listener is None or folder is None or not all(ready):
                return None
            found = cls(place, memory, _connected(place, folder, listener))
            found._meet()  # All are connected: the folder may go.
            return found

    def average(self, values: torch.Tensor) -> None:
        """See ``Averaging``.

        Raises:
            ConnectionError: Another rank has ended.
            TimeoutError: Another rank has not come for half an hour.
        """
        for start in range(0, len(values), len(self._sums)):
            self._average(values[start : start + len(self._sums)])

    def _average(self, values: torch.Tensor) -> None:
        count, (rank, ranks) = len(values), (self._place.rank, self._place.world_size)
        self._given[rank, :count] = values
        self.asked = self._meet(asks=self.asks)
        mine = slice(count * rank // ranks, count * (rank + 1) // ranks)
        _mean(self._given[:, mine], self._sums[mine])
        self._meet()
        # Written to again only after all have met once more, so after all have read it.
        values.copy_(self._sums[:count])

    def _meet(self, *, asks: bool = False) -> bool:
        """Wait until every rank is here, and return whether any of them asks: what one has heard, it passes on."""
        for onward, backward in self._links:
            onward.send(bytes([asks]))
            heard = backward.recv(1)
            if not heard:
                raise ConnectionError("another worker of this training has ended")
            asks = asks or heard != b"\0"
        return asks


class Messages:
    """Averages through gloo, for ranks of several machines."""

    def __init__(self, place: Place) -> None:
        self._ranks = place.world_size
        self.asks = self.asked = False

    def average(self, values: torch.Tensor) -> None:
        """See ``Averaging``."""
        size = -(-len(values) // self._ranks)
        padded = torch.zeros(size * self._ranks)
        padded[: len(values)] = values
        # A slice for each rank, and beside it what this one asks.
        given = torch.full((self._ranks, size + 1), float(self.asks))
        given[:, :size] = padded.view(self._ranks, size)
        slices = torch.empty_like(given)
        dist.all_to_all_single(slices, given)
        self.asked = bool(slices[:, size].any())
        mine = torch.empty(size)
        _mean(slices[:, :size], mine)
        dist.all_gather_into_tensor(padded, mine)
        values.copy_(padded[: len(values)])


def average_bucket(
    state: Averaging,
    bucket: dist.GradBucket,  # type: ignore[name-defined] # not in torch's stubs
) -> torch.futures.Future[torch.Tensor]:
    """DDP's communication hook (https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html)."""
    values = bucket.buffer()
    state.average(values)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(values)
    return done


def _mean(given: torch.Tensor, out: torch.Tensor) -> None:
    """The mean of the rows of ``given``, added up in their order."""
    out.copy_(given[0])
    for row in given[1:]:
        out.add_(row)
    out.div_(len(given))


def gathered(value: Any, place: Place) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    found: list[Any] = [None] * place.world_size
    dist.all_gather_object(found, value)
    return found


def _made(size: int) -> tuple[str, str] | None:
    """A folder of our own with a file of ``size`` bytes, in memory where there is room; and a word that is in it."""
    for parent in (_MEMORY, None):
        with suppress(OSError), ExitStack() as undo:
            folder = Path(tempfile.mkdtemp(prefix="cnnjob-", dir=parent))
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            # Room is taken now: where there is none, a write to mapped memory would end the process.
            (folder / _SHARED).write_bytes(bytes(size))
            token = secrets.token_hex(16)
            (folder / _TOKEN).write_text(token)
            made = str(folder), token
            undo.pop_all()
            return made
    return None


def _machine() -> str:
    """What all processes of a machine since its start have in common, and no other machine's."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()


def _listening(path: Path, undo: ExitStack) -> socket.socket:
    listener = undo.enter_context(socket.socket(socket.AF_UNIX))
    listener.settimeout(_WAIT_S)
    listener.bind(str(path))
    listener.listen()
    return listener


def _mapped(path: Path, ranks: int, numbers: int) -> torch.Tensor:
    """float32, a row for each rank and one for the sums."""
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), (ranks + 1) * numbers * 4)
    return torch.frombuffer(shared, dtype=torch.float32).view(ranks + 1, numbers)


def _connected(place: Place, folder: Path, listener: socket.socket) -> list[tuple[socket.socket, socket.socket]]:
    """A socket to the rank that is 1, 2, 4, ... further on, and one from the rank that far back, for each distance."""
    distances = [1 << power for power in range((place.world_size - 1).bit_length())]
    onward = []
    for number, distance in enumerate(distances):
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(_WAIT_S)
        link.connect(str(folder / str((place.rank + distance) % place.world_size)))
        link.send(bytes([number]))
        onward.append(link)
    backward = {}
    for _ in distances:
        link, _ = listener.accept()
        link.settimeout(_WAIT_S)
        backward[int.from_bytes(link.recv(1))] = link
    return [(link, backward[number]) for number, link in enumerate(onward)]
