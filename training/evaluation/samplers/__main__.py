"""Samplers compared on held-out pairs: how quick they are, and what they lose.

    python -m training.synth.ingredients --out data/pack
    python -m training.evaluation.samplers --out docs/samplers.md

Raw results go to `<out without suffix>/results.json` after every sampler, and the page is made from them. A run that
was stopped goes on where it was. With `--share i/n` a machine does its part of the pairs; `--add` joins the others'.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sama.files import whole_file
from sama.presets import own_few_steps
from training.errors import PackError
from training.evaluation.held_out.scoring import Scorer
from training.evaluation.samplers.page import page_text
from training.evaluation.samplers.results import Results, ResultsError, read_results, write_results
from training.evaluation.samplers.runs import CaseKey, Comparison, case_keys, draw_cases
from training.evaluation.samplers.variants import EXACT, VARIANTS, Variant
from training.evaluation.shard import WHOLE, Shard
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack, require_pack
from training.values import Count, Frames, argument

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 after one sentence on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    raw = options.out.with_suffix("") / "results.json"
    try:
        results = read_results(raw) if raw.is_file() else None
        if not options.page_only:
            results = _measured(options, results, raw)
        if results is None or EXACT not in results.measured:
            raise ResultsError(f"{raw} has no results of {EXACT.name} yet: run without --page-only")
        for other in options.add:
            results.join(read_results(other))
        write_results(results, raw)
        text = page_text(results, command_of(results))
    except (PackError, ResultsError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    with whole_file(options.out) as part:
        part.write_text(text, encoding="utf-8")
    return 0


def _measured(options: argparse.Namespace, known: Results | None, raw: Path) -> Results:
    """The results with everything that was asked for, written after each sampler."""
    from sama.device.placement import resolve_device
    from sama.presets import TINY_FOLDER
    from training.evaluation.held_out.editor import load_editor

    require_pack(options.pack)
    device = resolve_device(options.device)
    pipeline = load_editor(TINY_FOLDER, device).pipeline
    samplers = [variant for variant in options.samplers if options.few_steps or not variant.few_steps]
    if options.few_steps:
        pipeline.load_lora_weights(options.few_steps)
    scorer = Scorer(Pack.load(options.pack))
    results = Results(_about(device, scorer.ocr, options))
    if known is not None:
        results.join(known)
    keys = options.share.of(case_keys(options.per_task, options.frames, options.tasks))
    missing = [variant for variant in samplers if results.lacks(variant, (key.id for key in keys))]
    if not missing:
        return results
    comparison = Comparison(pipeline, options.batch or (16 if device.startswith("cuda") else 2), options.timed)
    _prepare(comparison, keys, scorer, options)
    if EXACT not in missing:
        comparison.remember_exact()
    for number, variant in enumerate(missing, 1):
        results.add(variant, comparison.measure(variant))
        write_results(results, raw)
        logger.info("%d of %d: %s, %.3f s a clip", number, len(missing), variant.name,
                    results.measured[variant].seconds)  # fmt: skip
    return results


def _prepare(comparison: Comparison, keys: Sequence[CaseKey], scorer: Scorer, options: argparse.Namespace) -> None:
    for key, (case, words) in zip(keys, draw_cases(keys, options.pack, options.workers), strict=True):
        comparison.add(key, case, words, scorer)
    logger.info("%d cases", len(keys))


def _about(device: str, ocr: bool, options: argparse.Namespace) -> dict[str, Any]:
    import diffusers
    import torch

    from sama import fingerprint
    from sama.presets import TINY_FOLDER

    return {
        "weights": fingerprint.of_folder(TINY_FOLDER),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU",
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "frames": options.frames,
        "timed": options.timed,
        "ocr": ocr,
    }


def command_of(results: Results) -> str:
    """The command that makes all of the results again."""
    largest = max((sum(name.rpartition("-")[0] == task for name in results.ids) for task in TASKS), default=0)
    device = "" if results.about["device"] == "CPU" else " --device cuda"
    return f"python -m training.evaluation.samplers --out docs/samplers.md{device} --per-task {largest}"


def _sampler(text: str) -> Variant:
    found = [variant for variant in VARIANTS if variant.name.lower() == text.strip().lower()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is none of: {'; '.join(v.name for v in VARIANTS)}")
    return found[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.samplers", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/samplers.md"), help="the page to write")
    parser.add_argument("--pack", type=Path, default=Path("data/pack"), help="the drawn material")
    parser.add_argument("--device", help="cpu, cuda, ...; the best there is if left out")
    parser.add_argument("--per-task", type=argument(Count), default=4, help="pairs of each kind of edit (4)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="kinds of edits; all if left out")
    parser.add_argument("--samplers", nargs="+", type=_sampler, default=VARIANTS, help='such as "Euler 10"')
    parser.add_argument(
        "--few-steps", type=Path, default=own_few_steps("tiny"), metavar="FILE",
        help="the LoRA for few steps; that of the embedded model if left out",
    )  # fmt: skip
    parser.add_argument("--frames", type=argument(Frames), default=17)
    parser.add_argument("--share", type=Shard.parse, default=WHOLE, help="part of the pairs, such as 0/4")
    parser.add_argument("--add", type=Path, nargs="+", default=[], help="results.json of other shares")
    parser.add_argument("--timed", type=argument(Count), default=3, help="runs of a clip whose median is its time (3)")
    parser.add_argument("--batch", type=argument(Count), help="pairs sampled together; 16 on a GPU")
    parser.add_argument("--workers", type=argument(Count), default=min(16, os.cpu_count() or 1), help="that draw")
    parser.add_argument("--page-only", action="store_true", help="make the page of the results that are there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
