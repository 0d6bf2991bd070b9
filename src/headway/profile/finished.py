"""Finished cells on disk, so that a measurement that was interrupted goes on where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from headway.errors import ProfileError
from headway.files import canonical_json, write_atomic
from headway.profile.profile import RecordedVisits, Row

SCHEMA = "headway.measurements/1"


class Finished:
    """Rows by cell and visits, each with a hash of what it was measured from; another hash makes it void.

    With a path every addition is written at once, whole or not at all. Raises ProfileError for a file that is not one
    of these.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else Path(path)
        self._cells: dict[str, dict[str, Any]] = {}
        self._visits: dict[str, Any] = {}
        if self._path is not None and self._path.exists():
            self._read(self._path)

    def row(self, key: str, made_from: str) -> Row | None:
        """Return the row of a cell that was measured from the same things, or None."""
        cell = self._cells.get(key)
        return Row(**cell["row"]) if cell is not None and cell["made_from"] == made_from else None

    def add(self, key: str, made_from: str, row: Row) -> None:
        """Keep a row."""
        self._cells[key] = {"made_from": made_from, "row": row.to_dict()}
        self._write()

    def visits(self, made_from: str) -> list[RecordedVisits] | None:
        """Return the visits that were recorded from the same things, or None."""
        if self._visits.get("made_from") != made_from:
            return None
        return [RecordedVisits.from_dict(record) for record in self._visits["records"]]

    def add_visits(self, made_from: str, records: list[RecordedVisits]) -> None:
        """Keep visits."""
        self._visits = {"made_from": made_from, "records": [record.to_dict() for record in records]}
        self._write()

    def _read(self, path: Path) -> None:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["schema"] != SCHEMA:
                raise ValueError(f"its schema is {value['schema']!r}, not {SCHEMA!r}")
            self._cells, self._visits = value["cells"], value["visits"]
            for key, cell in self._cells.items():
                self.row(key, cell["made_from"])
            self.visits(self._visits.get("made_from", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ProfileError) as error:
            raise ProfileError(
                f"{path}: not a file of finished measurements ({error}); name another file, or remove it to start anew"
            ) from None

    def _write(self) -> None:
        if self._path is not None:
            value = {"schema": SCHEMA, "cells": self._cells, "visits": self._visits}
            write_atomic(self._path, canonical_json(value))
