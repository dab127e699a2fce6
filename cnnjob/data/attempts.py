"""How often a task may take its process with it: Ray Data itself starts it again without end."""

from cnnjob import storage
from cnnjob.errors import JobError

MAX_ATTEMPTS = 3
"""Tries of one task in one run; what a crash leaves to chance, such as memory, has passed by the third."""


def count_attempt(folder: str, what: str) -> None:
    """Leave a mark for a try, and refuse the task that has killed its process too often.

    Args:
        folder: URI of a folder of this task in this run.
        what: The task, for people: what it was to do, and with which input.

    Raises:
        JobError: It was tried ``MAX_ATTEMPTS`` times and ended none of them.
    """
    before = len(storage.list_files(folder))
    if before >= MAX_ATTEMPTS:
        raise JobError(
            f"{what} killed its process {before} times. What the other tasks did is kept; look at this input, "
            f"then run the command again."
        )
    storage.write_bytes(storage.join(folder, str(before)), b"")
