"""Reads manifests, the lists of a data set's samples, row by row.

A manifest is a .jsonl, a .json list, a .csv, or WebDataset shards (uncompressed .tar files whose members share a key).
Only the manifest itself is opened here; `training.data.files.checks` opens the clips. A row that cannot be read is
named with file and line in the report.

Shards are read by `tarfile`: the sampler wants single members, at their offsets, in an order that can be resumed, and
the webdataset library streams whole shards.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ConfigError

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts"})
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LONG_FIELD = 16 * 2**20
"""Bytes of a csv field. The module's own limit of 128 KiB ends a whole file over one long caption."""

Row = Mapping[str, Any]
"""The columns of one row; members of a shard are `Media`."""


@dataclass(frozen=True, slots=True)
class Media:
    """The place of a clip: a video or image file, a folder of frames, or `size` bytes at `offset` in a tar shard."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = 0

    @property
    def suffix(self) -> str:
        """The lower-case ending of the file's name (".mp4"); empty for a folder."""
        return Path(self.member or self.path).suffix.lower()

    @property
    def is_image(self) -> bool:
        """Whether it is one picture: a clip of one frame."""
        return self.suffix in IMAGES

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path


@dataclass(frozen=True, slots=True)
class Record:
    """One sample as its manifest describes it.

    source: None for a clip that gets its source from a pretext task. offset: frames that are dropped at the beginning
    of both clips. origin: file and line, for messages. number: of the set in the configuration.
    """

    source: Media | None
    target: Media
    prompt: str
    offset: int = 0
    origin: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not used. `reason` is one of a few phrases that can be counted; `detail` says what was found."""

    number: int
    origin: str
    reason: str
    detail: str


class RowError(ValueError):
    """A row that cannot be used; `reason` is what the report counts, the message is the detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def manifest_files(manifest: str) -> list[Path]:
    """The files that a manifest stands for: itself, or shards by `{000..127}` and `*`. Raises
    ConfigError where one is missing."""
    names = _expanded(manifest)
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        anchor = Path(path.anchor)
        paths += sorted(anchor.glob(str(path.relative_to(anchor)))) if "*" in name else [path]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        named = str(missing[0]) if missing else manifest
        raise ConfigError(f"there is no manifest {named}: correct data.manifest.sets, or download the data set first")
    return paths


def rows(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    """(origin, row) for every row of a manifest file; for a row that cannot be read, the error in its place."""
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tar": _tar}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path} is no manifest: it must be .jsonl, .json, .csv or uncompressed .tar shards")
    return reader(path)


def complete(record: Record, root: Path, origin: str, number: int) -> Record:
    """The record of a row with its paths made whole, and where it comes from. Raises RowError for a path that is no
    local file name."""
    source = None if record.source is None else _located(record.source, root)
    return Record(source, _located(record.target, root), record.prompt.strip(), record.offset, origin, number)


def column(row: Row, names: tuple[str, ...], what: str) -> Any:
    """The value of the one column among `names` that the row fills. Raises RowError where none
    does, or two disagree."""
    filled = {name: row[name] for name in names if name in row and row[name] not in (None, "")}
    if not filled:
        if any(name in row for name in names):
            raise RowError(f"empty {what}", f"the column {next(n for n in names if n in row)} is empty")
        raise RowError("missing column", f"no column for the {what}: name it {names[0]}, or choose another adapter")
    values = list(filled.values())
    if any(value != values[0] for value in values[1:]):
        raise RowError("ambiguous columns", f"two columns for the {what}: {' and '.join(filled)}; keep one")
    return values[0]


def text_column(row: Row, names: tuple[str, ...], what: str) -> str:
    """`column` for a text. Raises RowError for another type."""
    value = column(row, names, what)
    if not isinstance(value, str):
        raise RowError("malformed row", f"the {what} must be a text, not {type(value).__name__}")
    return value


def media_column(row: Row, names: tuple[str, ...], what: str) -> Media:
    """`column` for a path or a shard's member. Raises RowError where it is neither."""
    value = column(row, names, what)
    if not isinstance(value, str | Media):
        raise RowError("malformed row", f"the {what} must be a path, not {type(value).__name__}")
    return value if isinstance(value, Media) else Media(value)


def _located(media: Media, root: Path) -> Media:
    if media.member:
        return media
    if "://" in media.path:
        raise RowError("not a local file", f"{media.path} is an address: download it first")
    return Media(str(root / media.path))


def _expanded(name: str) -> list[str]:
    found = _RANGE.search(name)
    if not found:
        return [name]
    first, last = found.groups()
    numbers = [str(value).zfill(len(first)) for value in range(int(first), int(last) + 1)]
    head, tail = name[: found.start()], name[found.end() :]
    return [head + number + rest for number in numbers for rest in _expanded(tail)]


def _jsonl(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            yield f"{path}:{line}", _parsed(raw)


def _parsed(raw: bytes) -> Row | RowError:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except ValueError as error:
        return RowError("malformed row", f"no JSON: {error}")
    return value if isinstance(value, dict) else RowError("malformed row", f"an object of columns, not {value!r:.60}")


def _json(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(values, list):
        raise ConfigError(f"{path} must hold a list of rows; for one row a line name it .jsonl")
    for index, value in enumerate(values):
        good = isinstance(value, dict)
        yield f"{path}[{index}]", value if good else RowError("malformed row", f"an object, not {value!r:.60}")


def _csv(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    csv.field_size_limit(_LONG_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or []
        if len(set(names)) < len(names):
            raise ConfigError(f"{path} names a column twice: {', '.join(names)}")
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as error:
                yield f"{path}:{reader.line_num}", RowError("malformed row", f"no csv: {error}")
                if isinstance(error, UnicodeDecodeError):
                    return  # where the next row begins is not known
                continue
            short = None in row or None in row.values()
            wrong = RowError("malformed row", f"not {len(names)} columns, as the first line has")
            yield f"{path}:{reader.line_num}", wrong if short else row


def _tar(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    """Samples of a WebDataset shard: neighbouring members with the same name up to the first dot.

    `0001.source.mp4` fills the columns `source.mp4` and `source`; `0001.json` gives columns of its own, `0001.txt` the
    column `txt`, `0001.prompt.txt` the column `prompt`. Media are noted with their place in the file, so that any
    sample can be read alone.
    """
    try:
        with tarfile.open(path, "r:") as shard:
            members = (member for member in shard if member.isfile())
            for key, group in itertools.groupby(members, key=lambda member: _key(member.name)[0]):
                yield f"{path}:{key}", _sample(path, shard, list(group))
    except tarfile.ReadError as error:
        raise ConfigError(f"{path} cannot be read as an uncompressed tar file: {error}") from error


def _key(name: str) -> tuple[str, str]:
    """(key, ending) of a member: "a/0001.source.mp4" is ("a/0001", "source.mp4")."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.lstrip(".").partition(".")
    return folder + slash + stem, ending


def _sample(path: Path, shard: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Row | RowError:
    row: dict[str, Any] = {}
    for member in members:
        ending = _key(member.name)[1]
        name, suffix = Path(ending).stem, Path(member.name).suffix.lower()
        if suffix in (".json", ".txt"):
            stream = shard.extractfile(member)
            assert stream is not None  # regular files only
            raw = stream.read()
            value = _parsed(raw) if suffix == ".json" else {name: raw.decode("utf-8", "replace").strip()}
            if isinstance(value, RowError):
                return value
            row.update(value)
        elif suffix in IMAGES | VIDEOS:
            media = Media(str(path), member.name, member.offset_data, member.size)
            row[ending] = media
            if name != ending:
                row[name] = media
    return row
