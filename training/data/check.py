"""Look at a run's manifests without training: `python -m training.data.check --config run.yaml`.

Opens every clip, writes the catalogue that the run will read and the list of what was dropped, and shows the buckets.
With `--encode` it also fills the cache. Large sets are worth a run of this before the processes start, because they
would wait for the first of them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from training.config import load_config
from training.data.encoders import Encoders
from training.data.files.feed import CHECK_THREADS, ManifestData, ManifestFeed
from training.errors import ConfigError
from training.parallel.processes import DataRank
from training.values import Count, Number, argument

logger = logging.getLogger(__name__)

_REPORT_EVERY = 500


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for settings that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m training.data.check", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the YAML")
    parser.add_argument("--places", type=argument(Count), default=1, help="processes that will see different samples")
    parser.add_argument(
        "--threads", type=argument(Count), default=CHECK_THREADS, help="clips that are opened at a time"
    )
    parser.add_argument("--fresh", action="store_true", help="open all clips again, whatever is known of them")
    parser.add_argument("--encode", action="store_true", help="fill data.manifest.cache")
    parser.add_argument("--part", type=argument(Number), default=0, metavar="K", help="with --encode: part K ...")
    parser.add_argument(
        "--parts", type=argument(Count), default=1, metavar="N", help="... of N, one for each GPU or machine"
    )
    given = parser.parse_args(arguments)
    if given.part >= given.parts:
        parser.error(f"--part {given.part}: counted from 0, there is no such part of {given.parts}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(given.config, given.set)
        data = ManifestData(config, 0, given.places, given.fresh, given.threads)
        sys.stdout.write("\n".join(data.summary()) + "\n")
        if given.encode:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            encoders = Encoders(config.base, config.tower, device, config.precision)
            made = ManifestFeed(config, encoders, DataRank(given.part, given.parts, device)).fill_cache(_told)
            sys.stdout.write(", ".join(f"{count} {what}" for what, count in made.items()) or "nothing was missing")
            sys.stdout.write("\n")
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _told(done: int, total: int) -> None:
    if done % _REPORT_EVERY == 0:
        logger.info("encoded %d of %d samples", done, total)


if __name__ == "__main__":
    sys.exit(main())
