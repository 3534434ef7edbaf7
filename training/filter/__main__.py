"""Score the pairs of a manifest with a vision model and keep the good ones.

python -m training.filter --manifest pairs.jsonl --out scored --url http://127.0.0.1:8000/v1 --model NAME
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.errors import JudgeError
from training.evaluation.judge.answers import AnswerLog, read_answers
from training.evaluation.judge.arguments import add_judge_options, effort_of, server_of, settings_of
from training.evaluation.judge.client import JudgeClient, Server
from training.evaluation.judge.session import Effort, Session, Subject
from training.evaluation.shard import WHOLE, Shard
from training.filter.criteria import ABOUT_PICTURES, ABOUT_VIDEOS
from training.filter.merge import merge
from training.filter.pairs import Manifest

logger = logging.getLogger("training.filter")


def subjects(manifest: Manifest, shard: Shard) -> Iterator[Subject]:
    """What there is to judge in one part of a manifest."""
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


def score(manifest: Manifest, out: Path, server: Server, effort: Effort, shard: Shard) -> None:
    """Ask for every score that is still missing in this part. Raises JudgeError."""
    settings = settings_of(server, effort, ABOUT_VIDEOS)
    known = read_answers(out / "answers", settings, shard)
    with AnswerLog(out / "answers", shard, settings) as log:
        tally = Session(JudgeClient(server), log, effort).judge(subjects(manifest, shard), known)
    logger.info(
        "part %d of %d: %d pairs judged, requests %s, %d + %d tokens",
        *(shard.index, shard.count, tally.subjects, tally.outcomes, tally.prompt_tokens, tally.answer_tokens),
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
    try:
        effort, shard = effort_of(options), options.shard
        manifest = Manifest(options.manifest, options.adapter, options.root)
        if not options.merge:
            score(manifest, options.out, server_of(options), effort, shard)
            if shard != WHOLE:
                print(f"Part {shard.index}/{shard.count} is done; when all parts are, merge them with --merge.")
                return 0
        standings = read_answers(options.out / "answers", None)
        summary = merge(manifest, standings, options.out, effort.runs, effort.attempts, options.partial)
    except (JudgeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    print(summary.as_markdown())
    kept = options.out / ("kept/*.tar" if manifest.packed else "kept.jsonl")
    print(f"To train on what was kept: manifest: {kept}, adapter: {manifest.adapter}, root: {manifest.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
