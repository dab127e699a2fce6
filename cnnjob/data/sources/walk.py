"""Every file below a local folder, each once: links are followed once; what is passed over is counted.

Works on bytes, as Linux does: a file name need not be text. Folders are real ones first, then links to folders that
no walk has been in yet; so a loop ends, and nothing is read under two names because of a link.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnjob.errors import DatasetError

LITTER_FILES = frozenset({b".DS_Store", b"Thumbs.db", b"ehthumbs.db", b"desktop.ini", b".directory", b".gitkeep"})
LITTER_FOLDERS = frozenset({b"__MACOSX", b".ipynb_checkpoints", b".git", b"@eaDir", b".Trashes", b".Spotlight-V100"})
_APPLE_DOUBLE = b"._"
LITTER = "litter"
SEEN = "link_to_seen_folder"
HIDDEN = "hidden_folder"
EMPTY = "empty_folder"


def is_litter(name: bytes) -> bool:
    """Whether a file of this name is something that a desktop left there."""
    return name in LITTER_FILES or name.startswith(_APPLE_DOUBLE)


def is_hidden(name: bytes) -> bool:
    """Whether a folder of this name is one that programs keep for themselves."""
    return name.startswith(b".")


@dataclass(frozen=True)
class Found:
    """A file.

    Attributes:
        path: Relative to the folder that is walked.
        size: Bytes; -1 where it cannot be looked at, such as a link that leads nowhere.
        mtime_ns: Time of its last change.
    """

    path: bytes
    size: int
    mtime_ns: int


@dataclass
class Walk:
    """One walk.

    Attributes:
        root: The folder.
        with_hidden: Whether folders whose names begin with a dot are walked too.
        passed_over: Counts of what is no row, by kind; complete when the walk has ended.
    """

    root: bytes
    with_hidden: bool = True
    passed_over: Counter[str] = field(default_factory=Counter)

    def files(self) -> Iterator[Found]:
        """The files, in no particular order.

        Raises:
            DatasetError: A folder cannot be listed: its files would be missing without a word.
        """
        seen: set[tuple[int, int]] = set()
        links: list[bytes] = []
        folders = [b""]
        while folders or links:
            if folders:
                relative = folders.pop()
                seen.add(self._identity(relative))
            else:
                relative = min(links)
                links.remove(relative)
                identity = self._identity(relative)
                if identity in seen:
                    self.passed_over[SEEN] += 1
                    continue
                seen.add(identity)
            yield from self._folder(relative, folders, links)

    def _folder(self, relative: bytes, folders: list[bytes], links: list[bytes]) -> Iterator[Found]:
        is_empty = True
        try:
            with os.scandir(os.path.join(self.root, relative)) as entries:  # noqa: PTH118
                for entry in entries:
                    path = os.path.join(relative, entry.name)  # noqa: PTH118
                    if _is_folder(entry):
                        if entry.name in LITTER_FOLDERS:
                            self.passed_over[LITTER] += 1
                        elif not self.with_hidden and is_hidden(entry.name):
                            self.passed_over[HIDDEN] += 1
                        else:
                            is_empty = False
                            (links if entry.is_symlink() else folders).append(path)
                    elif is_litter(entry.name):
                        self.passed_over[LITTER] += 1
                    else:
                        is_empty = False
                        yield _found(entry, path)
        except OSError as error:
            raise self._unlisted(relative, error) from error
        self.passed_over[EMPTY] += is_empty

    def _identity(self, relative: bytes) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(self.root, relative))  # noqa: PTH116, PTH118 - bytes
        except OSError as error:
            raise self._unlisted(relative, error) from error
        return status.st_dev, status.st_ino

    def _unlisted(self, relative: bytes, error: OSError) -> DatasetError:
        where = text_of(os.path.join(self.root, relative))  # noqa: PTH118 - bytes
        return DatasetError(f"{where[:300]} cannot be listed: {error.strerror}. Its files would be missing.")


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _found(entry: os.DirEntry[bytes], path: bytes) -> Found:
    try:
        status = entry.stat()
    except OSError:
        return Found(path, -1, 0)
    return Found(path, status.st_size if stat.S_ISREG(status.st_mode) else -1, status.st_mtime_ns)


def text_of(name: bytes) -> str:
    r"""A file name as text; bytes that are no UTF-8 are shown as ``\xNN``."""
    return name.decode("utf-8", "backslashreplace")
