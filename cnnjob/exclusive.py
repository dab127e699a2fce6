"""A file that exactly one of several writers creates: what a commit rests on. No lock, and no clock.

Local disks: the content is written beside, flushed, and linked to its name, which link(2) refuses where there is one.
S3: a conditional put, see ``conditional``.
"""

import os
from pathlib import Path

from cnnjob import conditional, local_disk, storage
from cnnjob.phases import reached


def create(uri: str, content: bytes) -> bool:
    """Create a file, whole or not at all, unless there is one.

    Args:
        uri: Where; a local path or ``s3://``.
        content: Must differ from what any other writer would write there: after an answer that got lost, the file is
            read back to see whose it is.

    Returns:
        Whether it is this writer's.

    Raises:
        UserError: The store has no conditional writes, or access was refused.
        StorageError: The store failed. The file may have been created; the same call again finds out.
    """
    if storage.is_local(uri):
        with storage.told(uri):
            return _link(storage.local_path(uri), content)
    reached("create", file=storage.name(uri))
    return conditional.put_where_nothing_is(uri, content)


def _link(path: Path, content: bytes) -> bool:
    try:
        with local_disk.beside(path, content) as temporary:
            reached("create", file=path.name)
            os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):
        # Who has lost may find its own file cleaned away by who has won.
        return path.read_bytes() == content
    local_disk.sync_folder(path.parent)
    return True
