"""Many edits with one loaded model: jobs from a table or a folder, each row an `EditRequest` of its own.

A row that cannot be done is told and the others go on; a result that is there already is left alone, so that a batch
that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama.edit.editor import edit_video
from sama.edit.events import EditEvent
from sama.edit.request import EditRequest, check_request, is_settings
from sama.errors import EditError
from sama.loading import load_pipeline
from sama.video.codecs import usual_suffix

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

_TEXTS = ("negative_prompt", "keep_source", "detail", "quality", "scheduler", "codec")
_WHOLE = ("seed", "steps", "start", "frames")
_NUMBERS = ("guidance", "source_guidance", "cache")
_PATHS = ("mask",)
COLUMNS = ("clip", "instruction", "output", *_TEXTS, *_WHOLE, *_NUMBERS, *_PATHS)
"""Columns of a table of jobs; the first two are needed."""

_CLIPS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mts", ".ts", ".gif")


@dataclass(frozen=True)
class Row:
    """A job of a batch.

    place: where it stands, for messages. request: the edit, or the sentence that refuses it.
    """

    place: str
    request: EditRequest | str


@dataclass(frozen=True)
class RowEvent:
    """What happens to a row: an event of its edit, or that it was left alone, or why it failed.

    error: EditError for what the user can put right, anything else is a failure.
    """

    row: Row
    event: EditEvent | None = None
    skipped: bool = False
    error: Exception | None = None


def read_jobs(
    source: str | os.PathLike[str],
    common: Mapping[str, Any],
    instruction: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> list[Row]:
    """The jobs of a table (.csv, with a line of column names) or of a folder of clips.

    common: fields of `EditRequest` for every row; a table's own values come first.
    instruction: for clips of a folder, and for rows that name none.
    out: folder of the results; None puts them beside their clips. A clip's result is called `<name>-edited`, the second
        one of a clip `<name>-edited-2`, and so on, where no output is named.
    Other paths in a table start at the table. Raises EditError for a source without jobs, or with unknown columns.
    """
    path = Path(source)
    if path.is_dir():
        clips = (file for file in path.iterdir() if file.suffix.lower() in _CLIPS)
        files = sorted(file for file in clips if not is_settings(file.with_suffix(".json")))  # no results
        table = [(file.name, {"clip": file.name}) for file in files]
        folder = path
    else:
        table, folder = _table(path), path.parent
    if not table:
        raise EditError(f"There are no jobs in {path.name or path}: give a .csv with rows, or a folder of clips.")
    if out is not None and not Path(out).is_dir():
        raise EditError(f"The folder {str(out)!r} for the results does not exist; create it first.")
    rows: list[Row] = []
    counts: Counter[str] = Counter()
    taken: dict[Path, str] = {}
    for place, values in table:
        try:
            request = _request(values, folder, common, instruction, None if out is None else Path(out), counts)
            output = Path(request.output).resolve()
            if output in taken:
                raise EditError(f"{output.name} is the result of {taken[output]} already; give another output.")
            taken[output] = place
            rows.append(Row(place, request))
        except EditError as error:
            rows.append(Row(place, str(error)))
    return rows


def run_batch(rows: Sequence[Row], overwrite: bool = False) -> Generator[RowEvent, None, None]:
    """Does the jobs one after the other on one loaded model; closing the generator cancels as `edit_video` does.

    All rows are checked first, so that a mistake in the last one is told at once. The rows' preset, model, device,
    memory, compile and LoRA must be the same. A result that is there already is skipped, and refused where it is of
    another instruction; `overwrite` does it again.
    """
    todo: list[Row] = []
    for row in rows:
        try:
            if isinstance(row.request, str):
                raise EditError(row.request)
            if not overwrite and _is_done(row.request):
                yield RowEvent(row, skipped=True)
                continue
            check_request(row.request)
            todo.append(row)
        except EditError as error:
            yield RowEvent(row, error=error)
    pipeline: SamaPipeline | None = None
    for row in todo:
        assert isinstance(row.request, EditRequest)
        try:
            if pipeline is None:
                yield RowEvent(row, EditEvent("planning", message="Loading the model"))
                pipeline = _loaded(row.request)
            with closing(edit_video(row.request, pipeline)) as events:
                for event in events:
                    yield RowEvent(row, event)
        except Exception as error:
            if pipeline is None:  # no row can be done
                raise
            yield RowEvent(row, error=error)


def _table(path: Path) -> list[tuple[str, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = [(name or "").strip() for name in reader.fieldnames or ()]
            unknown = [name for name in names if name not in COLUMNS]
            if unknown or "clip" not in names:
                what = f"no column {unknown[0]!r} can be used" if unknown else "the column 'clip' is missing"
                raise EditError(f"In {path.name} {what}; columns are {', '.join(COLUMNS)}.")
            reader.fieldnames = names
            rows = [(f"line {reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not a table of text"
        raise EditError(f"{path.name or path} cannot be read as a table of jobs: {reason}.") from error
    return [(place, {name: (value or "").strip() for name, value in row.items() if name}) for place, row in rows]


def _request(
    values: Mapping[str, str],
    folder: Path,
    common: Mapping[str, Any],
    instruction: str | None,
    out: Path | None,
    counts: Counter[str],
) -> EditRequest:
    given = {name: _value(name, text) for name, text in values.items() if text}
    clip = given.pop("clip", "")
    if not clip:
        raise EditError("The row names no clip.")
    said = given.pop("instruction", None) or instruction
    if said is None:
        raise EditError("The row has no instruction; put one into its column, or behind the jobs for all of them.")
    for name in _PATHS:
        if name in given:
            given[name] = folder / given[name]
    video = folder / clip
    request = EditRequest(**dict(common) | given | {"video": video, "instruction": said, "output": ""})
    if "output" in given:
        return replace(request, output=(folder if out is None else out) / given["output"])
    counts[str(video)] += 1
    number = "" if counts[str(video)] == 1 else f"-{counts[str(video)]}"
    name = f"{video.stem}-edited{number}{usual_suffix(request.codec)}"
    return replace(request, output=(video.parent if out is None else out) / name)


def _value(name: str, text: str) -> Any:
    try:
        return int(text) if name in _WHOLE else float(text) if name in _NUMBERS else text
    except ValueError:
        raise EditError(f"The {name} cannot be {text!r}; give a {'whole ' * (name in _WHOLE)}number.") from None


def _is_done(request: EditRequest) -> bool:
    """Whether the result is there. Raises EditError where it is of another instruction."""
    output = Path(request.output)
    if not output.is_file():
        return False
    try:
        stored = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
        said = stored["instruction"]
    except (OSError, ValueError, KeyError, TypeError):
        raise EditError(f"{output.name} is there already and is no result; give another output.") from None
    if said != request.instruction:
        raise EditError(f"{output.name} is there, of {said!r}; give another output, or --overwrite.")
    return True


def _loaded(request: EditRequest) -> SamaPipeline:
    return load_pipeline(request.preset, request.device, request.lora, request.model, request.memory, request.compile)
