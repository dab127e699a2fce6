"""Where a place in a config leads in its model: the section there, its keys, and what a key may hold.

A place is what pydantic calls a ``loc``: keys from the outermost to the innermost, and numbers of entries of lists.
"""

import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def section_at(model: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    """The model of the section at a place; None where there is another value, or none."""
    current: type[BaseModel] | None = model
    for part in loc:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part) if current else None
        current = section(field.annotation) if field else None
    return current


def field_at(model: type[BaseModel], loc: Sequence[Any]) -> FieldInfo | None:
    """The field at a place; None where there is no such key."""
    owner = section_at(model, loc[:-1])
    return owner.model_fields.get(loc[-1]) if owner else None


def keys_beside(model: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """The keys of the section that a place lies in."""
    owner = section_at(model, loc[:-1])
    return list(owner.model_fields) if owner else []


def keys_of(model: type[BaseModel], loc: Sequence[Any]) -> Iterator[Any]:
    """A place without the name of a type, which pydantic puts behind the key of a value that may be of several."""
    current: type[BaseModel] | None = model
    for number, part in enumerate(loc):
        if current is not None or isinstance(part, int):
            yield part
        current = section_at(model, loc[: number + 1])


def section(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as ``Model``, ``Model | None`` or ``tuple[Model, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple):
        return next((found for each in typing.get_args(annotation) if (found := section(each))), None)
    return None


def choices(annotation: Any) -> list[str]:
    """The words that a key may have as its value; none where it may have others."""
    if typing.get_origin(annotation) is typing.Literal:
        return [str(word) for word in typing.get_args(annotation)]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        return choices(parts[0]) if len(parts) == 1 else []
    return []


def length(annotation: Any) -> int | None:
    """How many values a list holds; None where it may hold any number."""
    for each in (annotation, *typing.get_args(annotation)):
        if typing.get_origin(each) is tuple and ... not in typing.get_args(each):
            return len(typing.get_args(each))
    return None
