"""What is to happen to a process that gets to one of the product's named instants (``cnnjob.phases``)."""

from pathlib import Path
from typing import Any


def kill(phase: str, marks: Path, **where: int | str) -> dict[str, Any]:
    """A fault: SIGKILL at a named instant."""
    return _fault("SIGKILL", phase, marks, where)


def sign(phase: str, marks: Path, **where: int | str) -> dict[str, Any]:
    """A fault that harms nobody and leaves its mark."""
    return _fault("SIGCONT", phase, marks, where)


def _fault(signal: str, phase: str, marks: Path, where: dict[str, int | str]) -> dict[str, Any]:
    name = "-".join([phase, *(f"{key}{value}" for key, value in where.items())]).replace(" ", "-")
    return {"phase": phase, "signal": signal, "mark": str(marks / name), "where": where}
