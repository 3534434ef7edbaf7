"""Train a part of the model.

python -m training.train --config training/configs/tiny_sft.yaml
accelerate launch -m training.train --config training/configs/tiny_sft.yaml --set max_minutes=10
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from accelerate import Accelerator

from training.config import ConfigError, load_config
from training.loop import Trainer
from training.stages import build_stage


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train a part of the model from one YAML file.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--resume", action="store_true", help="go on from state.pt of the output folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        config = load_config(options.config, options.overrides)
    except ConfigError as error:
        parser.error(str(error))
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    accelerator = Accelerator()  # precision is the loop's: see training.loop.autocast
    trainer = Trainer(config, build_stage(config, accelerator), accelerator)
    if options.resume:
        trainer.resume()
    trainer.run()
    accelerator.end_training()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
