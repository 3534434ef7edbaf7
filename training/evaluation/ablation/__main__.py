"""The ablation from the command line.

    python -m training.evaluation.ablation run --config training/configs/tiny_sft.yaml --budget-minutes 22 --out
    runs/ablation
    python -m training.evaluation.ablation encode --config training/configs/tiny_sft.yaml --share 0/4  # of 4 GPUs
    python -m training.evaluation.ablation run ... --steps 800 --share 0/4      # then a part of the runs on each
    python -m training.evaluation.ablation read --out runs/ablation  # subtitles: where there was no OCR
    python -m training.evaluation.ablation collect --out runs/ablation          # the results, as one small file
    python -m training.evaluation.ablation report --page docs/ablation.md --notes docs/ablation/notes.md  # the page

Runs that are finished are not repeated: the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from training.config import load_config
from training.errors import CaseError, ConfigError, PackError
from training.evaluation.ablation.plan import (
    CASES_FOLDER,
    REFERENCES,
    VARIANTS,
    Plan,
    common_config,
    is_finished,
    read_plan,
    read_share,
    require_same_plan,
    share_of,
    write_plan,
)
from training.evaluation.held_out.cases import PUBLISHED, CaseLine, read_cases
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import require_pack
from training.values import Count, NonNegative, Number, argument

logger = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Train and score what is not finished yet."""
    config = load_config(options.config, options.overrides)
    lines = _lines(options.cases, options.tasks, options.per_task)
    fingerprint = common_config(config, options.groups).fingerprint()
    plan = Plan(
        fingerprint, options.steps, options.seeds, tuple(options.variants), options.groups, options.per_task,
        tuple(options.tasks or ()), _digest(lines),
        (str(options.config), *(word for change in options.overrides for word in ("--set", change))),
    )  # fmt: skip
    begun = read_plan(options.out)
    if begun is not None:
        require_same_plan(begun, plan, options.out)
        plan = begun
    elif not plan.steps and not options.budget_minutes:
        raise ConfigError("say how long the runs are: --steps, or --budget-minutes for all of them")
    elif not plan.steps and options.share != "0/1":
        raise ConfigError("with --share the steps must be given: each GPU would measure its own")
    runs = share_of(plan.runs(), options.share)
    if all(is_finished(options.out, one) for one in runs):
        logger.info("all %d runs are finished", len(runs))
        return
    from training.evaluation.ablation.session import Session

    require_pack(config.data.rendered.pack)
    session = Session(config, options.groups, lines, options.out, options.judges)
    if plan.steps:
        write_plan(plan, options.out)
    else:
        plan = session.fix_steps(plan, len(runs), options.budget_minutes)
    left = session.run_all(plan, runs, options.budget_minutes)
    logger.info("%d of %d runs are finished in %s", len(runs) - left, len(runs), options.out)


def encode(options: argparse.Namespace) -> None:
    """Encode a part of the scenes into `data.rendered.cache`, so that the parts of a `run` need not do it each."""
    from accelerate import Accelerator

    from training.core.precision import choose_kernels
    from training.data.encoders import Encoders
    from training.evaluation.ablation.feed import fill_cache
    from training.parallel.processes import DataRank

    config = common_config(load_config(options.config, options.overrides), options.groups)
    require_pack(config.data.rendered.pack)
    choose_kernels()
    place = DataRank(0, 1, Accelerator().device)
    encoders = Encoders(config.base, config.tower, place.device, config.precision)
    count = fill_cache(config, encoders, place, read_share(options.share))
    logger.info("encoded %d scenes into %s", count, config.data.rendered.cache)


def read(options: argparse.Namespace) -> None:
    """Read the subtitles that the runs' machine could not."""
    from training.evaluation.held_out.runner import read_later
    from training.synth.material.pack import Pack

    plan = _begun(options.out)
    lines, pack = _lines(options.cases, plan.tasks, plan.per_task), Pack.load(options.pack)
    count = 0
    for name in (*(one.name for one in plan.runs()), *REFERENCES):
        count += read_later(lines, options.out / name / CASES_FOLDER, pack)
    logger.info("read %d subtitles", count)


def collect(options: argparse.Namespace) -> None:
    """Write the raw results of the runs whose cases are all scored into one file."""
    from training.evaluation.ablation.record import collect, write_record

    plan = _begun(options.out)
    lines = _lines(options.cases, plan.tasks, plan.per_task)
    if _digest(lines) != plan.cases:
        raise ConfigError(f"{options.cases} does not hold the cases of {options.out}: name their file with --cases")
    record = collect(plan, options.out, {line.id for line in lines})
    write_record(record, options.record)
    for name, reason in record.left_out.items():
        logger.warning("left out: %s, %s", name, reason)
    logger.info("%d runs in %s", sum(map(len, record.outcomes.values())), options.record)


def report(options: argparse.Namespace) -> None:
    """Write the page with its plots from the raw results."""
    from training.evaluation.ablation.page import write_page
    from training.evaluation.ablation.record import read_record

    write_page(read_record(options.record), options.page, options.notes)
    logger.info("%s", options.page)


def _begun(folder: Path) -> Plan:
    plan = read_plan(folder)
    if plan is None:
        raise ConfigError(
            f"{folder} has no ablation: run one with: python -m training.evaluation.ablation run --out {folder}"
        )
    return plan


def _lines(cases: Path, tasks: Sequence[str] | None, per_task: int) -> list[CaseLine]:
    return read_cases(cases, tasks or None, per_task)


def _digest(lines: Sequence[CaseLine]) -> str:
    text = json.dumps([asdict(line) for line in lines], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.ablation", description="What each part of SAMA adds."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, required=True, help="the configuration that all variants start from")
    common.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    common.add_argument(
        "--groups", type=argument(Count), default=1500, help="scenes that are encoded, once, for all runs"
    )
    common.add_argument("--share", default="0/1", help="i/n: the i-th of n parts, counted from 0, for one of n GPUs")
    one = commands.add_parser("encode", parents=[common], help="encode the scenes that runs of several GPUs share")
    one.set_defaults(call=encode)
    one = commands.add_parser("run", parents=[common], help="train and score the runs that are not finished")
    one.add_argument(
        "--budget-minutes",
        type=argument(NonNegative),
        default=0.0,
        help="for everything, this session's start included",
    )
    one.add_argument("--steps", type=argument(Number), default=0, help="of each run (default: what the budget allows)")
    one.add_argument("--seeds", type=argument(Count), default=3)
    one.add_argument("--variants", nargs="+", default=[v.name for v in VARIANTS], choices=[v.name for v in VARIANTS])
    one.add_argument("--cases", type=Path, default=PUBLISHED)
    one.add_argument("--tasks", nargs="+", choices=TASKS)
    one.add_argument("--per-task", type=argument(Count), default=4, help="held-out cases of each task")
    one.add_argument("--judges", type=argument(Number), default=4, help="processes that score results meanwhile")
    one.set_defaults(call=run)
    one = commands.add_parser("read", help="read subtitles of stored results")
    one.add_argument("--pack", default="data/pack")
    one.add_argument("--cases", type=Path, default=PUBLISHED)
    one.set_defaults(call=read)
    one = commands.add_parser("collect", help="write the results of scored runs into one small file")
    one.add_argument("--cases", type=Path, default=PUBLISHED)
    one.set_defaults(call=collect)
    two = commands.add_parser("report", help="write the page with tables and plots from that file")
    two.add_argument("--page", type=Path, default=Path("docs/ablation.md"))
    two.add_argument("--notes", type=Path, help="Markdown to stand before the figures: what you make of them")
    two.set_defaults(call=report)
    for name in ("collect", "report"):
        commands.choices[name].add_argument("--record", type=Path, default=Path("docs/ablation/results.json"))
    for name in ("run", "read", "collect"):
        commands.choices[name].add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        options.call(options)
    except (ConfigError, CaseError, PackError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
