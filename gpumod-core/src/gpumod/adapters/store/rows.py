"""Between rows and domain values: what is read is checked, and an error names table, row and field."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from gpumod.domain.errors import Failed
from gpumod.domain.words import field_of, said

M = TypeVar("M", bound=BaseModel)

_REPAIR = {
    "services": "`gpumod preset load --update` writes presets anew; `gpumod service remove {row} --cascade --stop`"
    " takes it away, out of the modes that name it too",
    "modes": "`gpumod mode delete {row}` takes it away, `gpumod preset load --update` writes presets anew",
    "settings": "`gpumod settings set {row} VALUE`, or --default; until then the default is in force",
}
_JSON: TypeAdapter[Any] = TypeAdapter(Any)
_RESTORE = "put the field right in the database, or restore a backup of it"


def bad_row(table: str, row: object, field: str, problem: str) -> Failed:
    """The error for a row that no longer says something valid."""
    name = str(row).encode("utf-8", "backslashreplace").decode()
    repair = _REPAIR.get(table, _RESTORE) if name == str(row) else _RESTORE  # no command can say what is no text
    return Failed(
        "bad-row",
        f"table {table}, row {row!r}: field {field} {problem}",
        why="the database was edited by something other than gpumod",
        hint=repair.format(row=shlex.quote(name)),
        table=table,
        row=name,
        field=field,
    )


def parse(table: str, row: object, column: str, text: str) -> Any:
    """The JSON in a column. Raises Failed(`bad-row`)."""
    try:
        return _JSON.validate_json(text)  # not json.loads: its depth is that of Python's own calls
    except ValidationError as error:
        raise bad_row(table, row, column, f"is not JSON: {error.errors()[0]['msg']}") from error


def parse_strings(table: str, row: object, column: str, text: str) -> tuple[str, ...]:
    """A JSON list of strings in a column. Raises Failed(`bad-row`)."""
    value = parse(table, row, column, text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_row(table, row, column, "is not a list of strings")
    return tuple(value)


def load(model: type[M], table: str, row: object, definition: str, columns: Mapping[str, Any]) -> M:
    """The value of a row: what stands in `definition`, and the columns. Raises Failed(`bad-row`)."""
    rest = parse(table, row, "definition", definition)
    if not isinstance(rest, dict):
        raise bad_row(table, row, "definition", "is not a JSON object")
    try:
        return model.model_validate({**rest, **columns})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise bad_row(table, row, field_of(first) or "definition", f"is wrong: {said(first)}") from error


def dump(value: BaseModel, columns: Mapping[str, Any] | frozenset[str] = frozenset()) -> str:
    """The JSON of `value` without the fields that are `columns`."""
    return value.model_dump_json(exclude=set(columns))


def dump_optional(value: BaseModel | None) -> str | None:
    return None if value is None else value.model_dump_json()
