"""The web app: `python app.py`, and the entry of a Hugging Face Space."""

from __future__ import annotations

import argparse
import os

import ui  # first: on a Space it prepares the GPU before torch is imported
from sama.device.memory import COMPILE, MEMORY_MODES
from ui.loras import named_by_environment
from ui.settings import PRESETS, Settings


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line; SAMA_PRESET and SAMA_LORA name model and LoRA where no option does."""
    parser = argparse.ArgumentParser(description=ui.__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), default=os.environ.get("SAMA_PRESET", "tiny"))
    parser.add_argument(
        "--lora", action="append", metavar="FILE[@SCALE]", help="a LoRA to offer; may be given several times"
    )
    parser.add_argument("--host", help="interface to listen on; this machine only if left out")
    parser.add_argument("--port", type=int, help="the first free one from 7860 if left out")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps; the best there is if left out")
    parser.add_argument(
        "--memory", choices=MEMORY_MODES, default="auto", help="where weights wait on a GPU; what fits if left out"
    )
    parser.add_argument("--compile", choices=COMPILE, default="auto", help="compile the blocks on a GPU, where it pays")
    parser.add_argument("--share", action="store_true", help="make a public link through gradio's servers")
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share every edit (1), or processes with --device cpu",
    )
    parser.add_argument("--time-limit", type=float, metavar="MINUTES", help="of one edit; none if left out")
    parser.add_argument(
        "--tower",
        metavar="FOLDER",
        help="SigLIP model (folder or Hub name) that reads plans of a model without a tower; the preset's if left out",
    )
    parser.add_argument(
        "--proxies", type=int, metavar="N", help="trusted proxies in front, which set X-Forwarded-For; none if left out"
    )
    options = parser.parse_args(arguments)
    lora = tuple(options.lora or named_by_environment())
    try:
        return Settings(
            preset=options.preset, host=options.host, port=options.port, share=options.share, device=options.device,
            lora=lora, proxies=options.proxies, memory=options.memory, compile=options.compile, gpus=options.gpus,
            tower=options.tower, time_limit=None if options.time_limit is None else 60 * options.time_limit,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))


def main() -> None:
    settings = parse()
    from ui.server import launch  # after the options, so that --help is quick

    launch(settings)


if __name__ == "__main__":
    main()
