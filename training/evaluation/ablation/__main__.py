"""The ablation from the command line.

    python -m training.evaluation.ablation run --config training/configs/tiny_sft.yaml --steps 600 --device cuda
    python -m training.evaluation.ablation run ... --share 0/4        # of 4 GPUs: a part of the runs on each
    python -m training.evaluation.ablation run ... --list             # show the commands that it starts, and end
    python -m training.evaluation.ablation collect --out runs/ablation      # the results, as one small file
    python -m training.evaluation.ablation report --page docs/ablation.md --notes docs/ablation/notes.md  # the page

What is finished is not repeated: the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from training.config import load_config
from training.errors import CaseError, ConfigError, PackError
from training.evaluation.ablation.page import write_page
from training.evaluation.ablation.results import collect_record, read_record, write_record
from training.evaluation.ablation.runs import (
    VARIANTS,
    AblationPlan,
    read_plan,
    require_parts,
    scoring,
    train_and_score,
    trainings,
    write_plan,
)
from training.evaluation.held_out.cases import PUBLISHED
from training.evaluation.shard import WHOLE, Shard
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import require_pack
from training.values import Count, NonNegative, argument

logger = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Train and score what is not finished."""
    config = load_config(options.config, options.overrides)
    require_parts(config)
    command = (str(options.config), *(word for change in options.overrides for word in ("--set", change)))
    plan = AblationPlan(options.steps, options.seeds, tuple(options.variants), options.groups, options.per_task,
                tuple(options.tasks), str(options.cases), command)  # fmt: skip
    plan.lines()
    pack, part = config.data.rendered.pack, options.share.of(plan.runs())
    judging = ("--pack", pack, "--device", options.device, "--workers", str(options.workers))
    if options.list:
        for one in part:
            for words in [*(words for _, words in trainings(one, plan, options.out)),
                          scoring(one, plan, options.out, judging)]:  # fmt: skip
                print(f"python -m {shlex.join(words)}")
        return
    require_pack(pack)
    write_plan(plan, options.out)
    end, longest = time.monotonic() + options.budget_minutes * 60, 0.0
    for number, one in enumerate(part):
        start = time.monotonic()
        if options.budget_minutes and longest and start + longest > end:
            logger.info("the budget is over with %d of %d runs to do", len(part) - number, len(part))
            return
        train_and_score(one, plan, options.out, judging)
        longest = max(longest, time.monotonic() - start)
        logger.info("%s is finished, %d of %d", one.name, number + 1, len(part))


def collect(options: argparse.Namespace) -> None:
    """Write the raw results of the runs whose cases are all scored into one small file."""
    record = collect_record(read_plan(options.out), options.out)
    write_record(record, options.record)
    for name, reason in record.left_out.items():
        logger.warning("left out: %s, %s", name, reason)
    logger.info("%d runs in %s", sum(map(len, record.outcomes.values())), options.record)


def report(options: argparse.Namespace) -> None:
    """Write the page with tables and plots from that file."""
    write_page(read_record(options.record), options.page, options.notes)
    logger.info("%s", options.page)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.ablation", description="What each part of SAMA adds."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making, collecting, reporting = (
        commands.add_parser(call.__name__, help=call.__doc__) for call in (run, collect, report)
    )
    making.set_defaults(call=run)
    making.add_argument("--config", type=Path, required=True, help="the configuration that all variants start from")
    making.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    making.add_argument("--steps", type=argument(Count), default=600, help="of each run")
    making.add_argument("--seeds", type=argument(Count), default=3)
    making.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=VARIANTS)
    making.add_argument("--groups", type=argument(Count), default=1500, help="scenes that are encoded for a seed")
    making.add_argument("--cases", type=Path, default=PUBLISHED)
    making.add_argument("--tasks", nargs="+", default=[], choices=TASKS)
    making.add_argument("--per-task", type=argument(Count), default=4, help="held-out cases of each task")
    making.add_argument("--share", type=Shard.parse, default=WHOLE, help="i/n: part i of n, from 0, for one of n GPUs")
    making.add_argument(
        "--budget-minutes", type=argument(NonNegative), default=0.0, help="begin no run that would end later"
    )
    making.add_argument("--list", action="store_true", help="show the commands that are started, and end")
    making.add_argument("--device", default="cpu", help="of the scoring: cpu, cuda (all GPUs in turn) or cuda:N")
    making.add_argument("--workers", type=argument(Count), default=4, help="processes that make and score results")
    collecting.set_defaults(call=collect)
    reporting.set_defaults(call=report)
    reporting.add_argument("--page", type=Path, default=Path("docs/ablation.md"))
    reporting.add_argument("--notes", type=Path, help="Markdown to stand before the figures: what you make of them")
    for one in (making, collecting):
        one.add_argument("--out", type=Path, default=Path("runs/ablation"))
    for one in (collecting, reporting):
        one.add_argument("--record", type=Path, default=Path("docs/ablation/results.json"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        options.call(options)
    except (ConfigError, CaseError, PackError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
