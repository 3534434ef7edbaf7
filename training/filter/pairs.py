"""The pairs of a manifest, each with the row that it came from, so that what is kept is a manifest again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.files.adapters import ADAPTERS
from training.data.files.manifest import Media, Record, Row, RowError, complete, manifest_files, rows
from training.errors import ConfigError, JudgeError


@dataclass(frozen=True)
class ListedPair:
    """One row. record: what it says, with whole paths. row: all its columns but media in shards. error: why it is no
    pair. sample: its name within a shard."""

    key: str
    origin: str
    row: dict[str, Any]
    record: Record | None
    error: str = ""
    sample: str = ""


class Manifest:
    """A manifest's pairs, read anew each time it is walked through.

    manifest: .jsonl, .json, .csv or uncompressed .tar, or several by `*` and `{000..127}`. adapter: a name in
    `training.data.files.adapters`. root: folder that paths are relative to (default: the manifest's own). Raises
    JudgeError for what cannot be used.
    """

    def __init__(self, manifest: str, adapter: str = "pairs", root: str = "") -> None:
        if adapter not in ADAPTERS or not ADAPTERS[adapter].edits:
            names = ", ".join(name for name, known in ADAPTERS.items() if known.edits)
            raise JudgeError(f"There is no adapter {adapter!r} for pairs; choose one of {names}.")
        try:
            self._files = manifest_files(manifest)
        except ConfigError as error:
            raise JudgeError(str(error)) from error
        self.packed = self._files[0].suffix.lower() == ".tar"
        if self.packed and len({path.name for path in self._files}) < len(self._files):
            raise JudgeError(f"Two shards of {manifest} have the same name; filter their folders one by one.")
        self.root = Path(root) if root else self._files[0].parent
        self.adapter = adapter

    def __iter__(self) -> Iterator[ListedPair]:
        try:
            for path in self._files:
                for origin, row in rows(path):
                    yield self._pair(origin, row)
        except ConfigError as error:
            raise JudgeError(str(error)) from error

    def _pair(self, origin: str, row: Row | RowError) -> ListedPair:
        if isinstance(row, RowError):
            return ListedPair("", origin, {}, None, f"{row.reason}: {row}")
        columns = {name: value for name, value in row.items() if not isinstance(value, Media)}
        try:
            written = ADAPTERS[self.adapter].read(row)
            record = complete(written, self.root, origin, 0)
        except RowError as error:
            return ListedPair("", origin, columns, None, f"{error.reason}: {error}")
        # By the paths as written: moving the data set, or sorting its manifest, asks nothing again.
        places = [_as_written(place) for place in (written.source, written.target)]
        said = json.dumps([*places, record.prompt, record.offset]).encode()
        sample = origin[len(record.target.path) + 1 :] if record.target.member else ""
        return ListedPair(hashlib.sha256(said).hexdigest()[:24], origin, columns, record, sample=sample)


def _as_written(media: Media | None) -> str:
    if media is not None and media.member:
        return f"{Path(media.path).name}:{media.member}"
    return str(media)
