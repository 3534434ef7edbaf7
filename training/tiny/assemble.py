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
from training.data.prompts import TEXT_LENGTH
from training.values import Count, NonNegative, Positive, argument

PARTS = ("vae", "semantic_tower", "transformer")


def assemble(out: Path, runs: list[Path], steps: int, guidance: float, shift: float) -> None:
    """Copy the parts and write the pipeline's index. Raises FileNotFoundError naming a part that no run holds."""
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
        max_sequence_length=TEXT_LENGTH,
        spell_quotes="first",
        shift=shift,
        default_steps=steps,
        default_guidance=guidance,
    )
    pipeline.scheduler.save_pretrained(out / "scheduler")
    pipeline.save_config(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a pipeline together from trained parts.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=Path, nargs="+", required=True, help="run folders")
    parser.add_argument("--steps", type=argument(Count), default=10)
    parser.add_argument("--guidance", type=argument(NonNegative), default=2.0)
    parser.add_argument("--shift", type=argument(Positive), default=3.0)
    arguments = parser.parse_args()
    assemble(arguments.out, arguments.parts, arguments.steps, arguments.guidance, arguments.shift)


if __name__ == "__main__":
    main()
