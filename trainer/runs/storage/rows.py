"""Adds and changes rows; table and column names come from this program, never from input."""

import sqlite3
from collections.abc import Mapping
from typing import Any


def insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any], conflict: str = "") -> None:
    """Add a row."""
    columns, marks = ", ".join(values), ", ".join("?" for _ in values)
    query = f"INSERT INTO {table} ({columns}) VALUES ({marks}) {conflict}"  # noqa: S608 - own names
    db.execute(query, tuple(values.values()))


def update(db: sqlite3.Connection, run_id: str, **fields: Any) -> None:
    """Change columns of a run."""
    if fields:
        changes = ", ".join(f"{name} = ?" for name in fields)
        db.execute(f"UPDATE runs SET {changes} WHERE id = ?", (*fields.values(), run_id))  # noqa: S608 - own names
