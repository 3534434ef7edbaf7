"""Puts a pipeline together from trained parts.

python -m training.tiny.assemble --out assets/sama-tiny --parts runs/tiny_vae runs/tiny_tower runs/tiny_refine

Each run folder holds some of `vae`, `semantic_tower` and `transformer`; they are copied as stored. The text encoder and
its tokenizer are already in `--out` (`training.tiny.text_encoder`).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, BertModel, SiglipVisionModel

from sama.model.transformer import SamaTransformer3DModel
from sama.pipeline import SamaPipeline
from training.stages.encoders import pipeline_settings
from training.values import Count, NonNegative, Positive, argument

PARTS = ("vae", "semantic_tower", "transformer")


def assemble_folder(out: Path, runs: list[Path], **settings: float) -> None:
    """Copy the parts and write the pipeline's index. Raises FileNotFoundError naming a part that no run holds.

    settings: of `SamaPipeline`, in place of those that `out` or else the embedded model was saved with.
    """
    for part in PARTS:
        for run in runs:
            if (run / part).is_dir():
                shutil.rmtree(out / part, ignore_errors=True)  # its files may be the run's own, linked
                shutil.copytree(run / part, out / part)
        if not (out / part).is_dir():
            raise FileNotFoundError(f"no run among {', '.join(map(str, runs))} holds {part}: train that stage first")
    pipeline = SamaPipeline(
        transformer=SamaTransformer3DModel.from_pretrained(out / "transformer"),
        vae=AutoencoderKLWan.from_pretrained(out / "vae"),
        text_encoder=BertModel.from_pretrained(out / "text_encoder"),
        tokenizer=AutoTokenizer.from_pretrained(out / "tokenizer"),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        semantic_tower=SiglipVisionModel.from_pretrained(out / "semantic_tower"),
        **(pipeline_settings(str(out), small=True) | settings),
    )
    pipeline.scheduler.save_pretrained(out / "scheduler")
    pipeline.save_config(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a pipeline together from trained parts.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=Path, nargs="+", required=True, help="run folders")
    parser.add_argument("--steps", dest="default_steps", type=argument(Count))
    parser.add_argument("--guidance", dest="default_guidance", type=argument(NonNegative))
    parser.add_argument("--shift", type=argument(Positive))
    given = vars(parser.parse_args())
    out, runs = given.pop("out"), given.pop("parts")
    assemble_folder(out, runs, **{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    main()
