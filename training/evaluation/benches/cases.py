"""Case lists of the benchmarks, in their published forms and in ours, and the results that belong to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from training.data.files.adapters import PROMPT, SOURCE
from training.data.files.manifest import Row, RowError, column, rows, text_column
from training.errors import ConfigError, JudgeError
from training.evaluation.benches.benchmarks import Benchmark

ID = ("id", "case", "name")
TASK = ("task", "edited_type", "edit_type", "edit_task", "type", "category")
RESULT = ("result", "edited_result_path", "edited_video", "result_video")


@dataclass(frozen=True)
class Case:
    """One clip to edit. id: also the name of its result. task: a task of the benchmark. result: the path that
    the list gives, if any."""

    id: str
    task: str
    source: Path
    instruction: str
    result: str = ""


@dataclass(frozen=True)
class Cases:
    """The contents of a case list; `left_out` counts tasks that are not judged here, by their written names."""

    cases: tuple[Case, ...]
    left_out: dict[str, int]


def read_case_list(path: Path, benchmark: Benchmark, videos: Path | None = None) -> Cases:
    """Read a case list: .jsonl, .json or .csv with task, source_video and prompt; or ReCo-Bench's `<task>.txt` files,
    one of them or their folder.

    videos: folder of the source clips (default: the list's own). Raises JudgeError naming what is wrong.
    """
    if not path.exists():
        raise JudgeError(f"There is no case list {path}; download {benchmark.title} first, or correct --cases.")
    folder = videos or (path if path.is_dir() else path.parent)
    texts = sorted(path.glob("*.txt")) if path.is_dir() else [path] if path.suffix == ".txt" else []
    if path.is_dir() and not texts:
        raise JudgeError(f"The folder {path} holds no <task>.txt files; give the case list itself.")
    found: list[Case] = []
    left_out: dict[str, int] = {}
    for origin, written, row in _lines(texts) if texts else _table(path):
        try:
            task = benchmark.task(written)
        except KeyError:
            names = ", ".join(sorted({*benchmark.tasks, *benchmark.aliases}))
            raise JudgeError(f"{origin}: {benchmark.title} has no task {written!r}; it has {names}.") from None
        if task is None:
            left_out[written] = left_out.get(written, 0) + 1
            continue
        found.append(_case(origin, task, row, folder))
    seen: set[tuple[str, str]] = set()
    for case in found:
        if (case.task, case.id) in seen:
            raise JudgeError(f"{path} names the case {case.id!r} of task {case.task} twice; give each its own id.")
        seen.add((case.task, case.id))
    return Cases(tuple(found), left_out)


def result_of(case: Case, results: Path) -> Path | None:
    """The case's result: as the list names it, else `<task>/<id>.mp4` or `<id>.mp4` in the folder of results."""
    named = [results / case.result, Path(case.result)] if case.result else []
    for path in (*named, results / case.task / f"{case.id}.mp4", results / f"{case.id}.mp4"):
        if path.is_file():
            return path
    return None


class Found(NamedTuple):
    """A case with its result, if there is one. key: of both, so that a new result is judged anew; empty without one."""

    case: Case
    result: Path | None
    key: str


def find_results(cases: Sequence[Case], results: Path) -> list[Found]:
    """The cases with their results, as far as there are any."""
    found = [(case, result_of(case, results)) for case in cases]
    return [Found(case, result, "" if result is None else _key(case, result)) for case, result in found]


def _key(case: Case, result: Path) -> str:
    with result.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update("\n".join(("", case.task, case.id, case.instruction)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:24]


def _case(origin: str, task: str, row: Row, folder: Path) -> Case:
    try:
        source = text_column(row, (*SOURCE, "video"), "source")
        instruction = text_column(row, PROMPT, "prompt").strip()
        given = column(row, ID, "id") if any(row.get(name) not in (None, "") for name in ID) else Path(source).stem
        result = next((str(row[name]) for name in RESULT if row.get(name)), "")
    except RowError as error:
        raise JudgeError(f"{origin}: {error.reason}: {error}") from error
    name = str(given).replace("/", "_")
    return Case(name, task, folder / source, instruction, result)


def _table(path: Path) -> Iterator[tuple[str, str, Row]]:
    try:
        for origin, row in rows(path):
            if isinstance(row, RowError):
                raise JudgeError(f"{origin}: {row.reason}: {row}")
            try:
                yield origin, text_column(row, TASK, "task"), row
            except RowError as error:
                raise JudgeError(f"{origin}: {error.reason}: {error}") from error
    except ConfigError as error:
        raise JudgeError(str(error)) from error


def _lines(paths: list[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """ReCo-Bench's lists: `clip.mp4: instruction`, with `| reference.png` behind it where there is one."""
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            clip, colon, rest = line.partition(":")
            instruction = rest.partition("|")[0].strip()
            if not (colon and clip.strip() and instruction):
                raise JudgeError(f"{path}:{number} is not of the form `clip.mp4: instruction`.")
            row = {"source_video": clip.strip(), "prompt": instruction, "id": _reco_name(clip.strip(), instruction)}
            yield f"{path}:{number}", path.stem, row


def _reco_name(clip: str, instruction: str) -> str:
    """The name of a result in ReCo-Bench's own form, so that results published by others are found."""
    words = instruction.replace(" ", "_").translate(str.maketrans(":", " ", ".,"))
    return f"{clip.removesuffix('.mp4')}_{words[:80]}"
