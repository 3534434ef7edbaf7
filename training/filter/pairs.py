"""The pairs of a manifest, each with the row that it came from, so that what is kept is a manifest again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.closed_yaml import ConfigError
from training.data.adapters import ADAPTERS
from training.data.manifest import Record, RowError, manifest_files, rows, to_record
from training.judge.client import JudgeError


@dataclass(frozen=True)
class ListedPair:
    """One row. record: what it says, with whole paths. row: all its columns as they were. error: why it is no pair."""

    key: str
    origin: str
    row: dict[str, Any]
    record: Record | None
    error: str = ""


class Manifest:
    """A manifest's pairs, read anew each time it is walked through.

    manifest: .jsonl, .json or .csv, or several by `*` and `{000..127}`. adapter: a name in `training.data.adapters`.
    root: folder that paths are relative to (default: the manifest's own). Raises JudgeError for what cannot be used.
    """

    def __init__(self, manifest: str, adapter: str = "pairs", root: str = "") -> None:
        if adapter not in ADAPTERS or not ADAPTERS[adapter].edits:
            names = ", ".join(name for name, known in ADAPTERS.items() if known.edits)
            raise JudgeError(f"There is no adapter {adapter!r} for pairs; choose one of {names}.")
        try:
            self._files = manifest_files(manifest)
        except ConfigError as error:
            raise JudgeError(str(error)) from error
        packed = next((path for path in self._files if path.suffix.lower() == ".tar"), None)
        if packed:
            raise JudgeError(f"{packed} is a packed shard; unpack it and list its pairs in a .jsonl to filter them.")
        self.root = Path(root) if root else self._files[0].parent
        self.adapter = adapter

    def __iter__(self) -> Iterator[ListedPair]:
        try:
            for path in self._files:
                for origin, row in rows(path):
                    yield self._pair(origin, row)
        except ConfigError as error:
            raise JudgeError(str(error)) from error

    def _pair(self, origin: str, row: Any) -> ListedPair:
        if isinstance(row, RowError):
            return ListedPair("", origin, {}, None, f"{row.reason}: {row}")
        try:
            fields = ADAPTERS[self.adapter].read(row)
            record = to_record(fields, self.root, origin, 0)
        except RowError as error:
            return ListedPair("", origin, dict(row), None, f"{error.reason}: {error}")
        # By the paths as written: moving the data set, or sorting its manifest, asks nothing again.
        said = json.dumps([str(fields.source), str(fields.target), record.prompt, record.offset])
        return ListedPair(
            hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:24], origin, dict(row), record
        )
