"""The weights of a checkpoint, written as a run writes them at its end: of a run that goes on, or was lost.

    python -m training.export runs/my exported                                # of the newest checkpoint, averaged
    python -m training.export runs/my/checkpoints/step-00001000 exported --raw
    python -m sama edit in.mp4 "Make it snowy" --model exported

What is written: `training.stages.export`. Exit status 2: something has to be put right first, and one sentence says
what.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from sama.files import disk_full, whole_folder
from training.core.checkpoint import find_checkpoint
from training.data.encoders import FrozenSizes
from training.errors import ConfigError
from training.stages.export import write_weights
from training.stages.model import checkpoint_config, checkpoint_transformer

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the weights of a checkpoint as a run writes them at its end.")
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a run's folder: its newest one")
    parser.add_argument("folder", type=Path, help="where to write; must not be there yet")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--raw", dest="averaged", action="store_false", default=None, help="the weights themselves")
    which.add_argument("--averaged", action="store_true", default=None, help="their average (the default)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        export_checkpoint(options.checkpoint, options.folder, options.averaged)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception as error:
        if not disk_full(error):
            raise
        sys.stderr.write(f"{options.folder} was not written, since the disk is full: make room, or choose another\n")
        return 2
    sys.stdout.write(f"{options.folder}\n")
    return 0


def export_checkpoint(checkpoint: Path, folder: Path, averaged: bool | None = None) -> None:
    """Write the weights of a checkpoint, or of a run's newest one, to a new folder. averaged: see `read_weights`.
    Raises ConfigError where there is no such checkpoint, or the folder exists."""
    path = find_checkpoint(checkpoint)
    if path is None:
        raise ConfigError(f"{checkpoint} is no checkpoint, and no run's folder that holds one: give one of these")
    if folder.exists():
        raise ConfigError(f"{folder} exists already: choose another name")
    config = checkpoint_config(path)
    sizes = FrozenSizes.read(config.base, config.tower)
    transformer, are_averages = checkpoint_transformer(path, config, sizes, averaged)
    logger.info("writing the %s of %s", "averaged weights" if are_averages else "weights", path)
    with whole_folder(folder) as part:
        write_weights(transformer, config, part, are_averages)


if __name__ == "__main__":
    raise SystemExit(main())
