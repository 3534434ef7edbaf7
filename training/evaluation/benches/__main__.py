"""Judge an editor's results on a published benchmark, or produce them with our own editor.

python -m training.evaluation.benches reco --cases ReCo-Bench/configs --videos ReCo-Bench/ori_videos --results
runs/reco \
    --url http://127.0.0.1:8000/v1 --model NAME
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from sama.edit.request import MAX_SEED, MAX_STEPS
from sama.files import whole_file
from training.data.files.manifest import Media
from training.errors import JudgeError
from training.evaluation.benches.benchmarks import BENCHMARKS, Benchmark
from training.evaluation.benches.cases import Case, Found, find_results, read_case_list, result_of
from training.evaluation.benches.tables import Graded, as_dict, grade, grades_table
from training.evaluation.judge.answers import read_answers
from training.evaluation.judge.arguments import add_judge_options, effort_of, exit_status, server_of
from training.evaluation.judge.client import Server
from training.evaluation.judge.session import Effort, Subject, judge
from training.evaluation.shard import WHOLE, Shard
from training.values import Count, argument

logger = logging.getLogger("training.evaluation.benches")


def graded(benchmark: Benchmark, found: Sequence[Found], out: Path, server: Server, effort: Effort) -> Graded:
    """Ask what is still open and grade all. Raises JudgeError."""
    questions = list({question.name: question for asked in benchmark.questions.values() for question in asked}.values())
    subjects = [
        Subject(key, Media(str(case.source)), Media(str(result)), case.instruction, benchmark.questions[case.task])
        for case, result, key in found
        if result is not None
    ]
    judge(server, effort, questions, subjects, out / "answers")
    return grade(benchmark, found, read_answers(out / "answers", None), effort.runs, effort.attempts)


def _edit_cases(options: argparse.Namespace, cases: Sequence[Case], shard: Shard) -> int:
    """Produce what results are missing in this part; returns how many could not be produced. Raises EditError."""
    from sama.edit import load_pipeline
    from training.evaluation.benches.editing import produce

    mine = shard.of(cases)
    if all(result_of(case, options.results) for case in mine):
        return 0
    pipeline = load_pipeline(options.preset, options.device, options.lora, options.weights)
    chosen = {"seed": options.seed, "steps": options.steps, "frames": options.edit_frames}
    failed = produce(mine, options.results, pipeline, options.preset, **chosen)
    for case, reason in failed:
        print(f"{case.id}: {reason}", file=sys.stderr)
    return len(failed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 when the judge stayed away, a case could not be edited or an option is bad; 130 when stopped."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return exit_status(lambda: _judge_results(options))


def _judge_results(options: argparse.Namespace) -> int:
    """Edit what is wanted, and judge what there is. Raises JudgeError, EditError, OSError."""
    benchmark: Benchmark = BENCHMARKS[options.benchmark]
    out = options.out or options.results / f"judged-{benchmark.name}"
    effort, shard = effort_of(options), options.shard
    server = server_of(options) if options.url or not options.edit else None
    if shard != WHOLE and not options.edit:
        raise JudgeError("--shard divides the editing (--edit); a benchmark is judged by one process.")
    listed = read_case_list(options.cases, benchmark, options.videos)
    for task, count in listed.left_out.items():
        print(f"{count} cases of {task} need a reference picture, which this editor does not take: left out.")
    failed = _edit_cases(options, listed.cases, shard) if options.edit else 0
    if server is None or shard != WHOLE:
        return min(failed, 1)
    found = find_results(listed.cases, options.results)
    if all(result is None for _, result, _ in found):
        raise JudgeError(f"{options.results} holds no result of {benchmark.title}; see docs/judged-benchmarks.md.")
    grades = graded(benchmark, found, out, server, effort)
    if grades.waiting:
        raise JudgeError(f"{len(grades.waiting)} cases still lack answers; run the same command again.")
    _write(benchmark, grades, out, options.name or options.results.resolve().name, server.model)
    return min(failed, 1)


def _write(benchmark: Benchmark, grades: Graded, out: Path, name: str, model: str) -> None:
    table = grades_table(benchmark, grades, name, model)
    scores = json.dumps(as_dict(benchmark, grades, name, model), indent=2, ensure_ascii=False) + "\n"
    for file, text in (("scores.json", scores), ("scores.md", table)):
        with whole_file(out / file) as path:
            path.write_text(text, encoding="utf-8")
    print(table)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.benches", description=__doc__)
    benchmarks = parser.add_subparsers(dest="benchmark", required=True)
    for benchmark in BENCHMARKS.values():
        options = benchmarks.add_parser(benchmark.name, help=benchmark.title)
        options.add_argument("--cases", required=True, type=Path, help="the benchmark's list, or one of our form")
        options.add_argument("--videos", type=Path, help="folder of the source clips (default: the list's own)")
        options.add_argument("--results", required=True, type=Path, help="folder of <task>/<id>.mp4 or <id>.mp4")
        options.add_argument("--out", type=Path, help="folder for answers and tables (default: in the results')")
        options.add_argument("--name", default="", help="the editor's name in the tables")
        add_judge_options(options, benchmark.effort)
        editor = options.add_argument_group("our own editor, to produce the results")
        editor.add_argument("--edit", action="store_true", help="edit the cases that have no result yet")
        editor.add_argument("--preset", default="tiny")
        editor.add_argument("--weights", help="folder of a saved pipeline in place of the preset's weights")
        editor.add_argument("--lora", action="append", default=[], help="LoRA file, optionally with @scale")
        editor.add_argument("--device")
        editor.add_argument("--seed", type=argument(Annotated[int, Field(ge=0, le=MAX_SEED)]), default=0)
        editor.add_argument("--steps", type=argument(Annotated[int, Field(ge=1, le=MAX_STEPS)]))
        editor.add_argument("--edit-frames", type=argument(Count), help="edit the first frames of each clip only")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
