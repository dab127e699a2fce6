"""Before anything is published: is what lies there what the input asks for? Receipts are not believed.

Every part is read back from storage and compared with its hash; the ids in the parts and in the quarantine together
must be those of the input, unit by unit: in its order, or, where some were refused, each as often.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cnnjob.errors import IntegrityError
from cnnjob.phases import reached
from cnnjob.schema import ID
from cnnjob.scoring.inputs import Input
from cnnjob.scoring.ledger import Ledger
from cnnjob.scoring.plan import Plan, Unit
from cnnjob.scoring.work import Receipt, staged_part, undo


def verify(staging: str, plan: Plan, ledger: Ledger, given: Input) -> None:
    """Compare the staged parts with the plan and the input.

    Args:
        staging: Folder of the plan's parts.
        plan: What was to be done.
        ledger: A receipt for each unit.
        given: The input, which says what its ids are.

    Raises:
        IntegrityError: Rows, hashes or ids are not what they should be, or the input is another one by now; nothing is
            published. A unit that is to blame is no longer finished: the same command does it anew.
    """
    missing = [unit.number for unit in plan.units if ledger.of(unit.name) is None]
    if missing:
        raise IntegrityError(f"units {missing[:10]} of the plan were not finished; run the same command again")
    for unit in plan.units:
        reached("verify", unit=unit.number)
        receipt = ledger.of(unit.name)
        assert receipt is not None, "none is missing"
        found = _read_ids(staging, unit, receipt)
        refused = [row[ID] for row in receipt.refused]
        if len(found) != receipt.rows or not _is_all(found, refused, list(given.ids(unit))):
            undo(staging, unit.name)
            raise IntegrityError(
                f"unit {unit.number} has {len(found)} rows and {len(receipt.refused)} refused ones for {unit.rows} of "
                f"the input, or other ids; it was removed, and nothing was published. Run the same command again: "
                f"only this unit is done anew."
            )
    given.check_unchanged()


def _is_all(found: pa.ChunkedArray, refused: list[str], expected: list[pa.ChunkedArray]) -> bool:
    """Whether the ids of a part, and those that were refused, are those of the input, each as often."""
    wanted = pa.chunked_array([chunk for ids in expected for chunk in ids.chunks], pa.string())
    if not refused:
        return bool(found.equals(wanted))
    every = pa.chunked_array([*found.chunks, pa.array(refused, pa.string())], pa.string())
    return bool(_sorted(every).equals(_sorted(wanted)))


def _sorted(ids: pa.ChunkedArray) -> pa.Array:
    plain = ids.combine_chunks()
    return plain.take(pc.sort_indices(plain))


def _read_ids(staging: str, unit: Unit, receipt: Receipt) -> pa.ChunkedArray:
    """The ids of a part, whose bytes are those of its receipt."""
    try:
        content = staged_part(staging, unit.name, receipt.sha256)
    except FileNotFoundError:
        content = b""
    # Its length is what tells, later, whether the published file is whole.
    if content and len(content) == receipt.bytes:
        return pq.read_table(pa.BufferReader(content), columns=[ID], use_threads=False).column(ID)
    undo(staging, unit.name)
    raise IntegrityError(
        f"the part of unit {unit.number} is not what was written for its {unit.rows} rows; it was removed. "
        f"Run the same command again: only this unit is done anew."
    )
