"""The held-out benchmark: what an editor does to pairs it has never seen.

    python -m training.evaluate --model assets/sama-tiny --out docs/benchmark --against docs/benchmark/scores.json
    python -m training.evaluate --model runs/sama-tiny --device cuda --workers 12 --wordings 3 --out runs/scores
    python -m training.evaluate cases --per-task 16                  # write the case list anew
    python -m training.evaluate read --work runs/benchmark/... --out runs/scores    # subtitles, where OCR is missing
    python -m training.evaluate export --out runs/cases              # clips and instructions for another editor ...
    python -m training.evaluate score --results folder --out runs/other             # ... and its scores
    python -m training.evaluate real --clips folder --model assets/sama-tiny --out runs/real.jpg

The cases are data (`docs/benchmark/cases.jsonl`); what is measured stands in `training.evaluation.held_out.scoring`.
A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from training.errors import CaseError, PackError
from training.evaluation.held_out.cases import PUBLISHED, CaseLine, make_cases, read_cases, write_cases
from training.evaluation.held_out.report import write_report
from training.evaluation.held_out.runner import (
    ABOUT_FILE,
    Examination,
    about_model,
    examine_model,
    finished,
    read_later,
    score_folder,
    write_sheets,
)
from training.evaluation.held_out.scoring import Score, Scorer, has_unread_subtitle
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack, require_pack
from training.values import Count, Frames, NonNegative, Number, argument

logger = logging.getLogger(__name__)

WORK = Path("runs/benchmark")
Quality = Annotated[int, Field(ge=0, le=101)]
"""Quality of WebP files; see `Examination.store`."""


def evaluate_model(options: argparse.Namespace) -> None:
    """Examine a model, and write its report and sheets."""
    require_pack(options.pack)
    lines = _lines(options)
    how = Examination(
        options.model, options.pack, options.device, options.steps, options.guidance, options.wordings, options.worded,
        options.store, options.tower,
    )  # fmt: skip
    about = about_model(how) | {"cases": _digest(lines)}
    work = options.work or WORK / f"{about['model']}-{_named(about)}"
    work.mkdir(parents=True, exist_ok=True)
    (work / ABOUT_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")
    _report(examine_model(lines, how, work, options.workers), lines, work, about, options)


def read(options: argparse.Namespace) -> None:
    """Read what a machine without OCR left unread, and write the report and sheets (again)."""
    lines = _lines(options)
    if not (options.work / ABOUT_FILE).is_file():
        raise CaseError(f"{options.work} is not the work folder of a run: it has no {ABOUT_FILE}")
    count = read_later(lines, options.work, Pack.load(options.pack))
    logger.info("read the subtitles of %d cases", count)
    scores = [score for line in lines if (score := finished(options.work, line)) is not None]
    about = json.loads((options.work / ABOUT_FILE).read_text(encoding="utf-8"))
    _report(scores, lines, options.work, about, options)


def _report(
    scores: list[Score], lines: Sequence[CaseLine], work: Path, about: dict[str, Any], options: argparse.Namespace
) -> None:
    if not scores:
        raise CaseError(f"none of the cases has a score in {work}")
    left = sum(map(has_unread_subtitle, scores))
    if left:
        logger.warning(
            "%d subtitles are not read: install rapidocr and onnxruntime, here or elsewhere, and run: "
            "python -m training.evaluate read --work %s", left, work,
        )  # fmt: skip
    write_report(scores, options.out, about, options.against)
    if options.sheets:
        write_sheets(lines, work, Pack.load(options.pack), options.out, options.sheets)
    logger.info("%s", (options.out / "scores.md").read_text(encoding="utf-8"))


def cases(options: argparse.Namespace) -> None:
    """Write the case list."""
    pack = Pack.load(options.pack)
    lines = make_cases(pack, options.tasks or TASKS, options.per_task or 16, options.frames, options.paraphrases)
    write_cases(lines, options.out)
    logger.info("%d cases of %d tasks in %s", len(lines), len({line.task for line in lines}), options.out)


def export(options: argparse.Namespace) -> None:
    """Write sources, truths and instructions for another editor."""
    from training.evaluation.held_out.clips import export_cases

    lines = _lines(options)
    export_cases(lines, Pack.load(options.pack), options.out, options.exact)
    logger.info("%d cases in %s; save results as <id>.mp4, then: %s", len(lines), options.out,
                "python -m training.evaluate score --results <folder> --out <folder>")  # fmt: skip


def score(options: argparse.Namespace) -> None:
    """Score results that were made elsewhere."""
    from training.evaluation.held_out.editor import load_tower

    require_pack(options.pack)
    lines = _lines(options)
    distance = None if options.tower == "none" else load_tower(options.tower)
    scores, missing = score_folder(lines, options.results, Scorer(Pack.load(options.pack), distance))
    if missing:
        logger.warning("%d of %d cases have no result: %s", len(missing), len(lines), ", ".join(missing[:5]))
    about = {"results": options.results.name, "missing": missing, "cases": _digest(lines)}
    write_report(scores, options.out, about, options.against)
    logger.info("%s", (options.out / "scores.md").read_text(encoding="utf-8"))


def real(options: argparse.Namespace) -> None:
    """Show edits of the whole picture on real clips."""
    from training.evaluation.held_out.real_clips import GLOBAL_EDITS, edit_real_clips

    clips = sorted(file for file in options.clips.iterdir() if file.suffix.lower() in (".mp4", ".mov", ".mkv", ".webm"))
    if not clips:
        raise CaseError(f"there is no clip in {options.clips}")
    edits = options.edits or GLOBAL_EDITS
    logger.info("%s", edit_real_clips(clips, edits, options.model, options.out, options.device, options.frames))


def _lines(options: argparse.Namespace) -> list[CaseLine]:
    return read_cases(options.cases, options.tasks, options.per_task)


def _digest(lines: Sequence[CaseLine]) -> str:
    """Which cases these are, whatever their paraphrases."""
    text = json.dumps([[replace(line, paraphrases=()).__dict__] for line in lines], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _named(about: dict[str, Any]) -> str:
    """A name for what decides a case's score but for the case: the weights and the sampler's settings."""
    parts = [str(about["weights"])]
    parts += [f"{name}{about[name]}" for name in ("steps", "guidance") if about[name] is not None]
    return "-".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return 0; bad input ends the process with status 2 after one sentence on stderr."""
    parser = _parser()
    given = list(arguments) if arguments is not None else sys.argv[1:]
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["run", *given]
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        options.call(options)
    except (CaseError, PackError, ValueError, OSError) as error:
        parser.exit(2, f"{error}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Score an editor on held-out pairs.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands.add_parser("run", help="examine a model (the default)"))

    one = commands.add_parser("read", help="read subtitles of stored results")
    _shared(one)
    _reported(one)
    one.add_argument("--work", type=Path, required=True)
    one.set_defaults(call=read)

    one = commands.add_parser("cases", help="write the case list")
    _shared(one, listed=False)
    one.add_argument("--out", type=Path, default=PUBLISHED)
    one.add_argument("--frames", type=argument(Frames), nargs="+", default=[17], help="frame counts, taken in turn")
    one.add_argument("--paraphrases", type=argument(Number), default=3)
    one.set_defaults(call=cases)

    one = commands.add_parser("export", help="write the cases for another editor")
    _shared(one)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--exact", action="store_true", help="PNG frames instead of H.264")
    one.set_defaults(call=export)

    one = commands.add_parser("score", help="score results made elsewhere")
    _shared(one)
    _reported(one)
    one.add_argument("--results", type=Path, required=True)
    one.add_argument("--tower", default="assets/sama-tiny", help="as of run; none for no distance")
    one.set_defaults(call=score)

    one = commands.add_parser("real", help="show global edits on real clips")
    one.add_argument("--clips", type=Path, required=True)
    one.add_argument("--model", default="assets/sama-tiny")
    one.add_argument("--device")
    one.add_argument("--edits", nargs="+")
    one.add_argument("--frames", type=argument(Frames), default=17)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(call=real)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    _shared(parser)
    _reported(parser)
    parser.add_argument("--model", default="assets/sama-tiny", help="folder of a saved pipeline")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (all GPUs in turn) or cuda:N")
    parser.add_argument(
        "--workers", type=argument(Count), default=1, help="processes, each with its own copy of the model"
    )
    parser.add_argument("--work", type=Path, help=f"folder of finished cases (default: {WORK}/<model and its hash>)")
    parser.add_argument("--steps", type=argument(Count))
    parser.add_argument("--guidance", type=argument(NonNegative))
    parser.add_argument(
        "--wordings", type=argument(Number), default=0, help="paraphrases tried for each case, with the same noise"
    )
    parser.add_argument(
        "--worded", type=argument(Number), default=1000, help="cases of each task that are asked for in all wordings"
    )
    parser.add_argument(
        "--store", type=argument(Quality), default=92, help="WebP quality of kept results; 101 is exact, 0 keeps none"
    )
    parser.add_argument("--tower", default="", help="pipeline whose tower measures distances (default: the model's)")
    parser.set_defaults(call=evaluate_model)


def _shared(parser: argparse.ArgumentParser, listed: bool = True) -> None:
    parser.add_argument("--pack", default="data/pack")
    parser.add_argument("--tasks", nargs="+", choices=TASKS)
    parser.add_argument("--per-task", type=argument(Count), help="the first so many cases of each task (default: all)")
    if listed:
        parser.add_argument("--cases", type=Path, default=PUBLISHED, help="the case list")


def _reported(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/scores"))
    parser.add_argument("--against", type=Path, help="another report, scores.json, to compare with")
    parser.add_argument("--sheets", type=argument(Number), default=6, help="pairs shown on each task's contact sheet")


if __name__ == "__main__":
    raise SystemExit(main())
