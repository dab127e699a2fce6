"""The errors that cnnjob raises on purpose, and what each means for the person who meets it.

::

    CnnjobError
    ├── UserError              exit code 2: the input is wrong, nothing was written
    │   ├── ConfigError        a config's mistakes, all of them at once
    │   ├── DatasetError       a data set or a source that is missing, damaged or unfit
    │   ├── ModelError         a model that does not exist or does not fit
    │   ├── FormatVersionError a file written by another version of the format
    │   └── ResourceError      the job asks for more than the machine or cluster has
    └── JobError               exit code 1: the world failed, nothing is lost
        ├── OvertakenError     another command is at the same work, or has done it
        ├── StorageError       a disk, a network or an object store failed
        ├── IntegrityError     bytes are not what their digest says
        │   └── LostPartsError parts of a published table were removed
        ├── RefusedRowsError   more rows were refused than the config allows
        ├── ExportError        the exported graph and the trained module disagree
        ├── TrainingError      training ended before its last epoch
        ├── TrackingError      the MLflow server did not answer, or refused
        └── ClusterError       a Ray cluster or a submitted job failed

Every message is one short paragraph: what, where, the value, what to do. A traceback that a user's mistake
causes is a bug.
"""

from collections.abc import Sequence
from dataclasses import dataclass

TOLD_MISTAKES = 50
"""Mistakes of a config that a message has: a file that is no config has one for each of its keys."""


class CnnjobError(Exception):
    """Base of the family.

    Attributes:
        exit_code: What the command line ends with.
        of_one_date: Whether it is about what one date of a table of scores alone has, so that a range of dates goes on.
    """

    exit_code = 1
    of_one_date = False


class UserError(CnnjobError):
    """The input is wrong; the same command will fail again until it is changed."""

    exit_code = 2


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong in a config.

    Attributes:
        key: Dotted key, such as ``model.preset``.
        problem: What is wrong, with the value, and what would be right.
    """

    key: str
    problem: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


class ConfigError(UserError):
    """All mistakes of one config.

    Attributes:
        where: The file, or what else was read.
        mistakes: At least one: those of ``--set``, then by key in the order of the documentation, then those that
            concern several keys.
    """

    def __init__(self, where: str, mistakes: Sequence[Mistake]) -> None:
        self.where = where
        self.mistakes = tuple(mistakes)
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        lines = [f"  {mistake}" for mistake in self.mistakes[:TOLD_MISTAKES]]
        if (more := len(self.mistakes) - len(lines)) > 0:
            lines.append(f"  and {more:,} more")
        super().__init__("\n".join([f"{where} has {count}:", *lines]))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, tuple[Mistake, ...]]]:
        return ConfigError, (self.where, self.mistakes)


class DatasetError(UserError):
    """A data set or a source is missing, damaged or unfit for the job."""


class ModelError(UserError):
    """A model does not exist, or does not fit what it is asked to do."""


class FormatVersionError(UserError):
    """A file was written by another version of its format."""

    @classmethod
    def of(cls, what: str, where: str, found: object, known: int) -> "FormatVersionError":
        """The error for ``what`` at ``where``, which says version ``found`` where ``known`` is read."""
        return cls(
            f"{where}: this {what} has format version {found!r}, and this cnnjob reads version {known}. "
            f"Write it again with this cnnjob, or use the cnnjob that wrote it."
        )


class ResourceError(UserError):
    """The job asks for more than the machine or the cluster has."""


class JobError(CnnjobError):
    """The work failed for a reason outside the input. What is done is kept; the message says how to go on."""


class OvertakenError(JobError):
    """Another command is at the same work, or has done it; its result counts."""


class StorageError(JobError):
    """A disk, a network or an object store failed; nothing is lost."""


class IntegrityError(JobError):
    """Bytes are not what their digest says."""


class LostPartsError(IntegrityError):
    """Parts of what is published are gone; only scoring the date again brings them back."""


class RefusedRowsError(JobError):
    """More rows were refused than ``limits.max_refused_share`` allows."""


class ExportError(JobError):
    """The exported graph and the trained module differ by more than the bound."""


class TrainingError(JobError):
    """Training ended before its last epoch."""


class TrackingError(JobError):
    """The tracking server did not answer, or refused."""


class ClusterError(JobError):
    """A Ray cluster could not be reached, or a submitted job failed."""
