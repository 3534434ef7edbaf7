#!/usr/bin/env bash
# The embedded model from nothing: material, text encoder, VAE, tower, editor (stage 0, stage 1, refined), assembly, naming. Runs
# on all GPUs it finds. Started again, it goes on where it was.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT_FOLDER:-runs/sama-tiny}
launch=(accelerate launch -m training.train --resume)

[ -f data/pack/pack.json ] || python -m training.synth.ingredients --out data/pack
[ -d "$out/tokenizer" ] || python -m training.tiny.text_encoder --pack data/pack --out "$out"
"${launch[@]}" --config training/configs/tiny_vae.yaml --set "base=$out"
python -m training.train --resume --config training/configs/tiny_tower.yaml --set "base=$out"
cp -r runs/tiny_vae/vae runs/tiny_tower/semantic_tower "$out"
"${launch[@]}" --config training/configs/tiny_pretrain.yaml --set "base=$out"
"${launch[@]}" --config training/configs/tiny_sft.yaml --set "base=$out" --set start_from=runs/tiny_pretrain
"${launch[@]}" --config training/configs/tiny_refine.yaml --set "base=$out" --set start_from=runs/tiny_sft
python -m training.tiny.assemble --out "$out" --parts runs/tiny_vae runs/tiny_tower runs/tiny_refine
python -m training.tiny.naming --pack data/pack --base "$out"
echo "The model is in $out. Score it: python -m training.evaluate --model $out"
