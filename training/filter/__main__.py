"""Score the pairs of a manifest with a vision model and keep the good ones.

python -m training.filter --manifest pairs.jsonl --out scored --url http://127.0.0.1:8000/v1 --model NAME
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.evaluation.judge.answers import read_answers
from training.evaluation.judge.arguments import add_judge_options, effort_of, exit_status, server_of
from training.evaluation.judge.session import Effort, Subject, judge
from training.evaluation.shard import WHOLE, Shard
from training.filter.criteria import ABOUT_PICTURES, ABOUT_VIDEOS
from training.filter.merge import merge
from training.filter.pairs import Manifest

logger = logging.getLogger("training.filter")


def subjects(manifest: Manifest, shard: Shard) -> Iterator[Subject]:
    """The pairs to judge in one part of a manifest."""
    for pair in manifest:
        if pair.record is not None and shard.has(pair.key):
            record = pair.record
            assert record.source is not None  # adapters of clips without an edit were refused
            yield Subject(
                key=pair.key,
                source=record.source,
                edited=record.target,
                instruction=record.prompt,
                questions=ABOUT_VIDEOS,
                about_pictures=ABOUT_PICTURES,
                offset=record.offset,
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0; 1 when the judge stayed away, pairs still lack answers or an option is bad; 130 when stopped."""
    parser = argparse.ArgumentParser(prog="python -m training.filter", description=__doc__)
    parser.add_argument(
        "--manifest", required=True, help="source_video, target_video, prompt: .jsonl, .json, .csv or .tar shards"
    )
    parser.add_argument("--adapter", default="pairs", help="how its rows are read: see training.data.files.adapters")
    parser.add_argument("--root", default="", help="folder that its paths are relative to (default: its own)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--merge", action="store_true", help="only merge what the shards have answered")
    parser.add_argument("--partial", action="store_true", help="drop pairs that lack answers instead of refusing")
    add_judge_options(parser, Effort())
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return exit_status(lambda: _filter(options))


def _filter(options: argparse.Namespace) -> int:
    """Score one part of the pairs and merge what there is. Raises JudgeError, OSError."""
    effort, shard = effort_of(options), options.shard
    manifest = Manifest(options.manifest, options.adapter, options.root)
    answers = options.out / "answers"
    if not options.merge:
        judge(server_of(options), effort, ABOUT_VIDEOS, subjects(manifest, shard), answers, shard)
        if shard != WHOLE:
            print(f"Part {shard.index}/{shard.count} is done; when all parts are, merge them with --merge.")
            return 0
    standings = read_answers(answers, None)
    summary = merge(manifest, standings, options.out, effort.runs, effort.attempts, options.partial)
    print(summary.as_markdown())
    kept = options.out / ("kept/*.tar" if manifest.packed else "kept.jsonl")
    print(f"To train on what was kept: manifest: {kept}, adapter: {manifest.adapter}, root: {manifest.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
