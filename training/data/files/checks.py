"""Decides which samples of the manifests can be used: opens every clip once and records every drop with its reason.

The result is a catalogue, a .jsonl with a line for each sample kept and each row dropped, that later sessions and other
processes read instead of opening the clips again. It holds as long as the manifests and the settings of the checks stay
the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.distributed as dist

from sama.files import whole_file
from training.config import ManifestConfig, SetConfig
from training.data.files.adapters import adapter
from training.data.files.clips import ClipError, ClipFacts, look
from training.data.files.manifest import Dropped, Media, Record, RowError, complete, manifest_files, rows

logger = logging.getLogger(__name__)

ASPECT_TOLERANCE = 0.06
"""Largest difference of a pair's aspect ratios, as a logarithm: sides rounded to 16 make 832x480 of 16:9 (0.026)."""

_FORM = 1
_AT_ONCE = 4096
_REPORT_EVERY = 20_000

Match = Literal["frames", "time"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample that can be used.

    match: whether frame i of the source belongs to frame i of the target ("frames"), or to the frame shown at the same
    time ("time": their rates differ, and so do their counts).
    """

    record: Record
    source: ClipFacts | None
    target: ClipFacts
    match: Match


def read_set(number: int, chosen: SetConfig) -> Iterator[Record | Dropped]:
    """The rows of one set, each as a record, or as dropped with the reason."""
    read = adapter(chosen.adapter).read
    for file in manifest_files(chosen.manifest):
        root = Path(chosen.root) if chosen.root else file.parent
        for origin, row in rows(file):
            try:
                if isinstance(row, RowError):
                    raise row
                yield complete(read(row), root, origin, number)
            except RowError as error:
                yield Dropped(number, origin, error.reason, str(error))


def checked(record: Record, length_tolerance: float) -> Sample | Dropped:
    """Open a record's clips and compare them."""
    try:
        if record.source is not None and not record.prompt:
            raise RowError("empty prompt", "an edit needs an instruction")
        source = None if record.source is None else _looked(record.source, "source")
        target = _looked(record.target, "target")
        if source is None:
            if target.frames == 1:
                raise RowError("a picture where a clip must be", f"{record.target} has one frame: nothing moves in it")
            return Sample(record, None, target, "frames")
        return Sample(record, source, target, pair_match(source, target, record.offset, length_tolerance))
    except RowError as error:
        return Dropped(record.number, record.origin, error.reason, str(error))


def pair_match(source: ClipFacts, target: ClipFacts, offset: int, length_tolerance: float) -> Match:
    """How the frames of two clips belong together. Raises RowError for clips that make no pair."""
    if source.digest == target.digest:
        raise RowError("source equals target", "both files hold the same: the loss would fall to zero unseen")
    if (source.frames == 1) != (target.frames == 1):
        raise RowError("a picture with a clip", f"{source.frames} and {target.frames} frames")
    turned = abs(math.log(source.width / source.height) - math.log(target.width / target.height))
    if turned > ASPECT_TOLERANCE:
        sizes = f"{source.width}x{source.height} and {target.width}x{target.height}"
        raise RowError("aspect ratios differ", f"{sizes}: one cut cannot serve both")
    if min(source.frames, target.frames) <= offset:
        raise RowError("too short", f"{source.frames} and {target.frames} frames, {offset} of them to be dropped")
    counts = (source.frames - offset, target.frames - offset)
    if counts[0] == counts[1]:
        return "frames"  # a model that repaints frame by frame often writes them at a rate of its own
    rates = ""
    if source.fps and target.fps and source.fps != target.fps:
        if _near(float(counts[0] / source.fps), float(counts[1] / target.fps), length_tolerance):
            return "time"
        rates = f" at {float(source.fps):.4g} and {float(target.fps):.4g} frames a second"
    if _near(*counts, length_tolerance):
        return "frames"
    raise RowError("lengths differ", f"{source.frames} and {target.frames} frames{rates}")


class Catalogue:
    """The samples that can be used, read from the catalogue's file one at a time: a set of millions costs a process
    a few bytes for each.

    numbers: (N,) the set of each sample. pictures, edits: (N,) bool, whether it is one frame, and whether it is a pair.
    sizes: (N, 2) width and height of the target. frames: (N,) those of the target, after the offset, that the source
    has too. gaps: (N,) seconds from one frame of the target to the next, 0 where frames have no times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped: list[Dropped] = []
        self.rows: Counter[int] = Counter()
        """Rows of each set, dropped ones too."""
        self._file: tuple[int, Any] | None = None
        columns = [array("q") for _ in range(7)]  # millions of Python's numbers would fill the memory
        gaps = array("d")
        with path.open("rb") as file:
            self.key = json.loads(file.readline())["key"]
            place = file.tell()
            for line in file:
                value = json.loads(line)
                self.rows[value["number"]] += 1
                if "reason" in value:
                    self.dropped.append(Dropped(**value))
                else:
                    frames, fps, width, height, *_ = value["target"][1]
                    facts = (place, value["number"], frames == 1, "source" in value, width, height, _left(value))
                    for column, fact in zip(columns, facts, strict=True):
                        column.append(fact)
                    gaps.append(float(1 / _rate(fps)) if fps != "0" else 0.0)
                place += len(line)
        places, numbers, pictures, edits, widths, heights, left = (np.frombuffer(c, dtype=np.int64) for c in columns)
        self._places, self.numbers = places, numbers.astype(np.int32)
        self.pictures, self.edits = pictures.astype(bool), edits.astype(bool)
        self.sizes = np.stack([widths, heights], axis=1).astype(np.int32)
        self.gaps = np.frombuffer(gaps, dtype=np.float64)
        self.frames = left.astype(np.int32)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        if self._file is None or self._file[0] != os.getpid():  # a worker that was forked needs a position of its own
            self._file = os.getpid(), self.path.open("rb")
        file = self._file[1]
        file.seek(int(self._places[index]))
        return _from_json(json.loads(file.readline()))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


def catalogue_key(config: ManifestConfig) -> str:
    """A key of everything that a catalogue depends on: the manifests' files, how they are read, the checks'
    settings."""
    parts: list[Any] = [_FORM, ASPECT_TOLERANCE]
    for chosen in config.sets:
        found = [(str(file), file.stat()) for file in manifest_files(chosen.manifest)]
        files = [(name, state.st_size, state.st_mtime_ns) for name, state in found]
        parts.append((files, chosen.adapter, chosen.root, chosen.length_tolerance))
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def find_catalogue(config: ManifestConfig, folder: Path, fresh: bool = False, threads: int = 8) -> Catalogue:
    """The catalogue of a configuration's sets: from `folder` if it is there, else made by opening every clip.

    fresh: make it anew. threads: clips that are opened at a time. Raises ConfigError for a manifest that is not there.
    """
    key = catalogue_key(config)
    path = folder / f"catalogue-{key}.jsonl"
    if fresh or not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
            file.write(json.dumps({"key": key}) + "\n")
            for number, result in enumerate(_checked_sets(config, threads), 1):
                file.write(json.dumps(_to_json(result), ensure_ascii=False) + "\n")
                if number % _REPORT_EVERY == 0:
                    logger.info("checked %d rows", number)
    return Catalogue(path)


def shared_catalogue(config: ManifestConfig, folder: Path, fresh: bool = False, threads: int = 8) -> Catalogue:
    """`find_catalogue` for several processes, all of which call it: the first one opens the clips and the others wait.
    A process that cannot see the first one's folder makes its own."""
    if not dist.is_initialized():
        return find_catalogue(config, folder, fresh, threads)
    found = find_catalogue(config, folder, fresh, threads) if dist.get_rank() == 0 else None
    dist.barrier()
    return found or find_catalogue(config, folder, False, threads)


def usage_report(dropped: Iterable[Dropped], config: ManifestConfig, rows_of: Counter[int]) -> list[str]:
    """How many rows of each set are used and why others are not, as lines."""
    reasons: dict[int, Counter[str]] = {number: Counter() for number in range(len(config.sets))}
    for drop in dropped:
        reasons[drop.number][drop.reason] += 1
    lines = []
    for number, chosen in enumerate(config.sets):
        total, gone = rows_of[number], reasons[number].total()
        lines.append(f"{chosen.manifest} ({chosen.adapter}): {total - gone} of {total} rows used")
        lines += [f"  dropped {count}: {reason}" for reason, count in reasons[number].most_common()]
    return lines


def write_dropped(dropped: Iterable[Dropped], path: Path) -> None:
    """The list of everything dropped, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        for drop in dropped:
            file.write(json.dumps(asdict(drop), ensure_ascii=False) + "\n")


def _checked_sets(config: ManifestConfig, threads: int) -> Iterator[Sample | Dropped]:
    """Every row of every set, in order, its clips opened by several threads."""
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for number, chosen in enumerate(config.sets):
            tolerance = chosen.length_tolerance

            def check(row: Record | Dropped, tolerance: float = tolerance) -> Sample | Dropped:
                return checked(row, tolerance) if isinstance(row, Record) else row

            for some in _chunks(read_set(number, chosen), _AT_ONCE):
                yield from pool.map(check, some)


def _chunks(items: Iterator[Record | Dropped], size: int) -> Iterator[list[Record | Dropped]]:
    while some := list(itertools.islice(items, size)):
        yield some


def _looked(media: Media, role: str) -> ClipFacts:
    try:
        return look(media)
    except ClipError as error:
        raise RowError("unreadable", f"{role}: {error}") from error


def _near(one: float, other: float, tolerance: float) -> bool:
    return abs(one - other) <= tolerance * max(one, other)


def common_frames(sample: Sample) -> int:
    """Frames of the target, after the offset, for which there are frames of the source."""
    offset = sample.record.offset
    left = sample.target.frames - offset
    if sample.source is None:
        return left
    if sample.match == "frames":
        return min(left, sample.source.frames - offset)
    span = Fraction(sample.source.frames - offset - 1) / sample.source.fps
    return min(left, int(span * sample.target.fps) + 1)


def _left(value: dict[str, Any]) -> int:
    """`common_frames` of a line of the catalogue."""
    if value["match"] == "time":
        return common_frames(_from_json(value))
    return min(value[role][1][0] for role in ("source", "target") if role in value) - int(value["offset"])


@lru_cache(maxsize=4096)
def _rate(text: str) -> Fraction:
    return Fraction(text)


def _to_json(result: Sample | Dropped) -> dict[str, Any]:
    if isinstance(result, Dropped):
        return asdict(result)
    record, places = result.record, {}
    for role, media, facts in (("source", record.source, result.source), ("target", record.target, result.target)):
        if media is not None and facts is not None:
            places[role] = [*asdict(media).values()], [*(asdict(facts) | {"fps": str(facts.fps)}).values()]
    return {
        "number": record.number,
        "origin": record.origin,
        "prompt": record.prompt,
        "offset": record.offset,
        "match": result.match,
        **places,
    }


def _from_json(value: dict[str, Any]) -> Sample:
    found: dict[str, tuple[Media, ClipFacts]] = {}
    for role in ("source", "target"):
        if role in value:
            media, (frames, fps, *rest) = value[role]
            found[role] = Media(*media), ClipFacts(frames, _rate(fps), *rest)
    target = found["target"]
    source = found.get("source", (None, None))
    record = Record(source[0], target[0], value["prompt"], value["offset"], value["origin"], value["number"])
    return Sample(record, source[1], target[1], value["match"])
