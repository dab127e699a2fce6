"""A folder of images, a sub-folder for each class: every file below it is a row, named by its path.

The class is the first level; with the split method `given`, the first level is the split and the second the class.
A file that lies beside the class folders has no class and is refused as ``label_unknown``. A folder whose name begins
with a dot is no class; where there are no classes, as in scoring, files below it are rows like all others.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cnnjob import storage
from cnnjob.config.prepare import PrepareConfig
from cnnjob.data.sources.base import Listing, listing_table, table_digest
from cnnjob.data.sources.files import MTIME, PATH, SIZE, FileReader, root_of
from cnnjob.data.sources.walk import (
    HIDDEN,
    LITTER,
    LITTER_FOLDERS,
    Found,
    Walk,
    is_hidden,
    is_litter,
    text_of,
)
from cnnjob.errors import DatasetError
from cnnjob.schema import ID, SPLITS

_FLUSH_ROWS = 65_536
GIVEN_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""How people spell the splits."""

_FILES = pa.schema([(ID, pa.string()), (PATH, pa.binary()), (SIZE, pa.int64()), (MTIME, pa.int64())])


class FolderSource:
    """Class folders on a local disk or an object store."""

    def __init__(self, config: PrepareConfig, *, labelled: bool = False) -> None:
        self._uri = str(config.source.uri)
        self._labelled = labelled
        self._given = config.split.method == "given"
        self._max_bytes = config.limits.max_bytes
        self._passed_over: Counter[str] = Counter()

    def digest(self) -> str:
        """Of all names, sizes and times of change."""
        return table_digest(self._files)

    def listing(self, scratch: str) -> Listing:
        """Every file with its class."""
        del scratch
        files = self._files
        ids = files.column(ID)
        given, rest = self._splits(ids) if self._given else (None, ids)
        parts = pc.split_pattern(rest, "/", max_splits=1)
        in_folder = pc.greater(pc.list_value_length(parts), 1)
        names = pc.if_else(in_folder, pc.list_element(parts, 0), pa.scalar(None, pa.string()))
        class_names = sorted(name for name in pc.unique(names).to_pylist() if name is not None)
        labels = pc.index_in(names, pa.array(class_names, pa.string()))
        own = {name: files.column(name) for name in (PATH, SIZE, MTIME)}
        table = listing_table(ids, labels, given, own)
        return Listing(
            table,
            tuple(class_names),
            FileReader(root_of(self._uri), self._max_bytes),
            passed_over=dict(self._passed_over),
        )

    @cached_property
    def _files(self) -> pa.Table:
        """Sorted by id: the order of the listing is none of the file system's."""
        table = _table(self._found())
        if not len(table):
            raise DatasetError(f"{self._uri} has no files; there is nothing to do.")
        return table.sort_by(ID).combine_chunks()

    def _found(self) -> Iterator[Found]:
        if not storage.is_local(self._uri):
            yield from self._objects()
            return
        root = storage.local_path(self._uri)
        with storage.told(self._uri):
            is_folder, is_there = root.is_dir(), root.exists()
        if not is_folder:
            problem = "is a file" if is_there else "does not exist"
            wanted = "a folder of images, and for `prepare` of folders, one for each class"
            raise DatasetError(f"{self._uri} {problem}; it should be {wanted}.")
        walk = Walk(os.fsencode(root), with_hidden=not self._labelled)
        yield from walk.files()
        self._passed_over = +walk.passed_over

    def _objects(self) -> Iterator[Found]:
        hidden: set[bytes] = set()
        with storage.told(self._uri):
            for entry in storage.entries(self._uri):
                *folders, name = os.fsencode(entry.path).split(b"/")
                first = next((at for at, folder in enumerate(folders, 1) if self._labelled and is_hidden(folder)), None)
                if is_litter(name) or LITTER_FOLDERS & set(folders):
                    self._passed_over[LITTER] += 1
                elif first is not None:
                    hidden.add(b"/".join(folders[:first]))
                    self._passed_over[HIDDEN] = len(hidden)
                else:
                    yield Found(os.fsencode(entry.path), entry.size, entry.mtime_ns)

    def _splits(self, ids: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
        """The given split of each file, and its path below the split's folder."""
        parts = pc.split_pattern(ids, "/", max_splits=1)
        first = pc.list_element(parts, 0)
        # A file that lies beside the splits is in none, even where it is called `train`.
        first = pc.if_else(
            pc.equal(pc.list_value_length(parts), 1), pc.binary_join_element_wise(".", first, "/"), first
        )
        unknown = sorted(set(pc.unique(first).to_pylist()) - set(GIVEN_NAMES))
        if unknown:
            raise DatasetError(
                f"{self._uri}: split.method is given, so its first level should be train, val and test, and it has "
                f"{', '.join(repr(name) for name in unknown[:5])}. Use another method, or correct the folder."
            )
        codes = {name: SPLITS.index(split) for name, split in GIVEN_NAMES.items()}
        positions = pc.index_in(first, pa.array(list(codes))).to_numpy(zero_copy_only=False)
        given = pa.array(np.array(list(codes.values()), dtype=np.int8)[positions])
        return given, pc.list_element(parts, 1)


def too_few_classes(uri: str, class_names: Sequence[str], *, is_given: bool) -> str:
    """What is wrong with a folder whose files have fewer than two classes, and how it should be.

    Args:
        uri: The folder.
        class_names: Of the one class, or none.
        is_given: Whether its first level are the splits.
    """
    where = f"the folders of the splits in {uri}" if is_given else uri
    needed = "each class needs a sub-folder of its own there, and a classifier needs at least two classes."
    if not class_names:
        return f"the pictures lie directly in {where}; {needed}"
    (name,) = class_names
    below = "" if is_given else f" Where the classes lie below it, set source.uri to {storage.join(uri, name)}."
    return f"{name!r} is the only sub-folder with pictures in {where}; {needed}{below}"


def _table(found: Iterable[Found]) -> pa.Table:
    """The files as a table, built a piece at a time: a Python object for each of a million files is a gigabyte."""
    pieces = [pa.table([[], [], [], []], schema=_FILES)]
    rows: list[Found] = []
    for file in found:
        rows.append(file)
        if len(rows) == _FLUSH_ROWS:
            pieces.append(_piece(rows))
            rows = []
    return pa.concat_tables([*pieces, _piece(rows)])


def _piece(rows: list[Found]) -> pa.Table:
    names = [text_of(file.path) for file in rows]
    # A name that is UTF-8 is its own path; another one needs its bytes.
    paths = [None if name.encode("utf-8") == file.path else file.path for name, file in zip(names, rows, strict=True)]
    return pa.table([names, paths, [f.size for f in rows], [f.mtime_ns for f in rows]], schema=_FILES)
