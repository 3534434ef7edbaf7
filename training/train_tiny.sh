#!/usr/bin/env bash
# The embedded model from nothing: material, text encoder, VAE, tower, editor, assembly. Runs on all GPUs it finds.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT_FOLDER:-runs/sama-tiny}
launch=(accelerate launch -m training.train)

python -m training.procedural.ingredients --out data/pack
python -m training.text_encoder --pack data/pack --out "$out"
"${launch[@]}" --config training/configs/tiny_vae.yaml --set "base=$out"
python -m training.train --config training/configs/tiny_tower.yaml --set "base=$out"
cp -r runs/tiny_vae/vae runs/tiny_tower/semantic_tower "$out"
"${launch[@]}" --config training/configs/tiny_sft.yaml --set "base=$out"
python -m training.assemble --out "$out" --parts runs/tiny_vae runs/tiny_tower runs/tiny_sft
echo "The model is in $out. Score it: python -m training.evaluate --model $out"
