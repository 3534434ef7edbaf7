"""Trains the naming probe of the embedded model: which name each anchor of its tower stands for.

    python -m training.tiny.naming --pack data/pack --base assets/sama-tiny

The tower learned to tell the names of the 64 cells of drawn scenes (`training.tiny.tower`), and the probe of that
training was thrown away. This one is fitted on the finished, frozen tower: what a cell shows, and its look (a colour,
style or weather). How sure it must be to say a name is set on scenes that were not seen; how often it is right is then
measured on others, of the same drawings and of drawings that no training shows. Both go into the file, which
`sama.model.naming` reads. A CPU takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import SiglipVisionModel

from sama.files import whole_file
from sama.model.named import NAMING_FILE
from sama.model.naming import FOOTAGE, LinearNames, NamingTable, probe_logits, unit_tokens
from sama.model.semantics import NUM_LOCAL_TOKENS, anchor_tokens
from training.core.randomness import derived_seed
from training.data.drawn.scenes import anchor_picture, cell_labels
from training.data.sizes import tiny_buckets
from training.errors import PackError
from training.synth.edits.styles import STYLES
from training.synth.edits.tasks import COLOURS
from training.synth.material.pack import Pack, Split
from training.synth.scenes.backgrounds import BACKGROUNDS
from training.synth.scenes.render import render_group
from training.values import Count, argument

TEXT = "text"
WEATHERS = ("snowy", "rainy", "foggy")
LOOKS = ("", *dict.fromkeys((*COLOURS, "gray", *STYLES, *WEATHERS)))
CELLS_PER_PICTURE = 24
"""Cells of each training picture; a picture's ground fills most of them, so each label counts at most three times."""
JITTER = 0.3
"""Length of the noise that is added to unit tokens in training: planned tokens agree with the tower's to a cosine of
about 0.95."""
WANTED = 0.8
"""How often what is said must be right on scenes that were not seen: it decides how sure the probe must be."""
LEAST = 0.5
"""A name with a smaller share of the probability is never said."""
HIDDEN, BATCH, EPOCHS, RATE = 320, 2048, 8, 4e-3
SCENES = {"train": 1200, "limits": 60, "same": 100, "other": 100}
"""Groups of scenes by their use: to train, to set the limits, and to measure on scenes of the same drawings and of
others."""


@dataclass
class Labelled:
    """Tokens (N, C) with the indices of their names and looks (N,)."""

    tokens: Tensor
    names: Tensor
    looks: Tensor


class Labels:
    """The names of the probe: drawings, backgrounds, text, and one for films and photographs, whose parts have no
    labels."""

    def __init__(self, pack: Pack) -> None:
        drawn = sorted({sprite.name for sprite in pack.sprites("train")})
        self.names = list(dict.fromkeys([FOOTAGE, TEXT, *BACKGROUNDS, *drawn]))
        kinds = {sprite.name: sprite.category for sprite in pack.sprites("train")}
        self.kinds = [kinds.get(name, "") for name in self.names]
        self._index = {name: number for number, name in enumerate(self.names)}
        self._recorded = {shot.caption for shot in pack.all_shots} | {still.caption for still in pack.all_stills}

    def of(self, label: str) -> tuple[int, int] | None:
        """Name and look of a scene's label ("pencil sketch road", "green tomato"), by index; None for a drawing whose
        name no training scene has."""
        if label.startswith('text "'):
            return self._index[TEXT], 0
        for look in ("", *sorted(LOOKS[1:], key=len, reverse=True)):
            rest = label if not look else label.removeprefix(f"{look} ")
            if look and rest == label:
                continue
            name = FOOTAGE if rest in self._recorded else rest
            if name in self._index:
                return self._index[name], LOOKS.index(look)
        return None


@torch.inference_mode()
def labelled_tokens(
    pack: Pack, tower: SiglipVisionModel, labels: Labels, groups: int, split: Split, seed: int, all_cells: bool
) -> Labelled:
    """Tokens of the first frames of `groups` drawn groups, with what their cells show.

    all_cells: all of every frame, for measuring; else a few of each, in which no label is frequent.
    """
    buckets = tiny_buckets()
    tokens, known = [], []
    for number in range(groups):
        rng = np.random.default_rng(derived_seed(f"naming {split}", seed, number))
        group = render_group(pack, int(rng.integers(2**31)), buckets[number % len(buckets)], 1, split)
        pixels = torch.stack([anchor_picture(clip) for clip in group.clips]).float() / 255
        found = anchor_tokens(tower, pixels)[:, :NUM_LOCAL_TOKENS]
        named = [labels.of(name) for name in group.names]
        for local, marks in zip(found, group.labels, strict=True):
            cells = cell_labels(marks)
            usable = [cell for cell, label in enumerate(cells) if named[label] is not None]
            chosen = usable if all_cells else _spread(usable, cells, rng)
            tokens.append(local[chosen].half())
            known += [named[cells[cell]] for cell in chosen]
    names, looks = torch.tensor(known).T
    return Labelled(torch.cat(tokens), names, looks)


def _spread(usable: Sequence[int], cells: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Up to `CELLS_PER_PICTURE` of the usable cells, each label at most three times until all have had their turn."""
    order = [usable[place] for place in rng.permutation(len(usable))]
    taken: dict[int, int] = {}
    turns = []
    for cell in order:
        taken[cells[cell]] = taken.get(cells[cell], 0) + 1
        turns.append((taken[cells[cell]] - 1) // 3)
    ranked = sorted(range(len(order)), key=lambda place: turns[place])
    return [order[place] for place in ranked[:CELLS_PER_PICTURE]]


def draw(pack: Pack, tower: SiglipVisionModel, labels: Labels, scale: float = 1.0) -> dict[str, Labelled]:
    """The tokens for each use of `SCENES`, of as many scenes times `scale`."""
    seeds: dict[str, tuple[Split, int]] = {"train": ("train", 0), "limits": ("train", 2), "same": ("train", 1)}
    found = {}
    for use, count in SCENES.items():
        split, seed = seeds.get(use, ("test", 1))
        found[use] = labelled_tokens(pack, tower, labels, max(1, round(scale * count)), split, seed, use != "train")
    return found


def fit(data: Labelled, names: int, looks: int, seed: int, epochs: int = EPOCHS) -> dict[str, Tensor]:
    """The weights of the probe, by cross entropy over unit tokens with noise."""
    random = torch.Generator().manual_seed(seed)
    width = data.tokens.shape[1]

    def layer(rows: int, columns: int) -> Tensor:
        return nn.Parameter(torch.randn(rows, columns, generator=random) / columns**0.5)

    weights = {
        "hidden.weight": layer(HIDDEN, width),
        "name.weight": layer(names, HIDDEN),
        "look.weight": layer(looks, HIDDEN),
        "norm.weight": nn.Parameter(torch.ones(HIDDEN)),
    }
    sizes = {"hidden": HIDDEN, "norm": HIDDEN, "name": names, "look": looks}
    weights |= {f"{name}.bias": nn.Parameter(torch.zeros(size)) for name, size in sizes.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=RATE, weight_decay=1e-2)
    steps = epochs * math.ceil(len(data.tokens) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(data.tokens), generator=random).split(BATCH):
            unit = unit_tokens(data.tokens[part])
            unit = unit_tokens(unit + JITTER * torch.randn(unit.shape, generator=random))
            name, look = probe_logits(weights, unit)
            loss = F.cross_entropy(name, data.names[part]) + F.cross_entropy(look, data.looks[part])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return {name: weight.detach().half() for name, weight in weights.items()}


def limit(right: Tensor, score: Tensor) -> float:
    """The least score, `LEAST` or more, from which on what is said is right as often as `WANTED`; 1.01, which nothing
    reaches, where no score is."""
    order = score.argsort(descending=True)
    share = right[order].float().cumsum(0) / torch.arange(1, len(order) + 1)
    enough = (share >= WANTED).nonzero()
    return max(LEAST, float(score[order][enough[-1, 0]])) if len(enough) else 1.01


def limits(probe: LinearNames, data: Labelled) -> dict[str, float]:
    """How sure the probe must be to say the name of a drawing, of a place, a kind, and a look."""
    names, looks = probe.probabilities(data.tokens)
    drawn = torch.tensor([bool(kind) for kind in probe.table.kinds])
    kinds = sorted({kind for kind in probe.table.kinds if kind})
    kind_of = torch.tensor([kinds.index(kind) if kind else -1 for kind in probe.table.kinds])
    mass = torch.stack([names[:, kind_of == number].sum(-1) for number in range(len(kinds))], dim=-1)
    (score, said), (kind_score, kind), (look_score, look) = (part.max(dim=-1) for part in (names, mass, looks))
    right = said == data.names
    some = look > 0
    return {
        "name": limit(right[drawn[said]], score[drawn[said]]),
        "place": limit(right[~drawn[said]], score[~drawn[said]]),
        "kind": limit(kind == kind_of[data.names], kind_score),
        "look": limit((look == data.looks)[some], look_score[some]),
    }


@dataclass(frozen=True)
class Accuracy:
    """How a probe does on scenes. cells: how many were asked. nearest: share whose nearest name is right, sure or not.
    said: share that gets a name or a kind. right: share of those where that is right, without the look. drawn_said,
    drawn_right: the same for the cells of drawn things."""

    cells: int
    nearest: float
    said: float
    right: float
    drawn_said: float
    drawn_right: float


def measure(probe: LinearNames, data: Labelled) -> Accuracy:
    """The accuracy of what a page would show for these tokens."""
    table = probe.table
    said = probe(data.tokens)
    plain = [_without_look(word, table) for word in said.words]
    nearest = [plain[place] for place in said.indices[:, 0]]
    wanted = data.names.tolist()
    right = np.array(
        [word in (table.names[want], table.kinds[want]) for word, want in zip(nearest, wanted, strict=True)]
    )
    names, _ = probe.probabilities(data.tokens)
    drawn = np.array([bool(table.kinds[want]) for want in wanted])

    def share(of: np.ndarray) -> float:
        return round(float(of.mean()), 3) if len(of) else 0.0

    exact = (names.argmax(-1) == data.names).numpy()
    return Accuracy(
        len(wanted), share(exact), share(said.sure), share(right[said.sure]), share(said.sure[drawn]),
        share(right[drawn & said.sure]),
    )  # fmt: skip


def _without_look(word: str, table: NamingTable) -> str:
    for look in sorted(table.looks[1:], key=len, reverse=True):
        rest = word.removeprefix(f"{look} ")
        if rest != word and (rest in table.names or rest in table.kinds):
            return rest
    return word


def note(found: Mapping[str, Accuracy]) -> str:
    """The sentence about a probe that its users read."""
    same, other = found["same"], found["other"]
    return (
        f"On drawn scenes that it had not seen, {same.said:.0%} of the cells get a name and {same.right:.0%} of these "
        f"names are right; of cells that show a drawn thing {same.drawn_said:.0%} get one, {same.drawn_right:.0%} "
        f"right ({other.drawn_said:.0%} and {other.drawn_right:.0%} for other drawings). What is filmed or "
        f"photographed is only called “{FOOTAGE}”."
    )


def make(
    data: Mapping[str, Labelled], labels: Labels, seed: int, epochs: int = EPOCHS
) -> tuple[LinearNames, dict[str, Accuracy]]:
    """A probe with its limits and note, and its accuracy by use of scenes."""
    weights = fit(data["train"], len(labels.names), len(LOOKS), seed, epochs)
    open_limits = dict.fromkeys(("name", "place", "kind", "look"), 0.0)
    table = NamingTable(tuple(labels.names), tuple(labels.kinds), LOOKS, open_limits)
    probe = LinearNames(weights, table)
    probe = LinearNames(weights, replace(table, limits=limits(probe, data["limits"])))
    found = {use: measure(probe, data[use]) for use in ("same", "other")}
    return LinearNames(weights, replace(probe.table, note=note(found))), found


def save(probe: LinearNames, found: Mapping[str, Accuracy], file: Path) -> None:
    """Write the probe, float16, whole or not at all."""
    table = {**asdict(probe.table), "accuracy": {use: asdict(accuracy) for use, accuracy in found.items()}}
    weights = {name: weight.half().contiguous() for name, weight in probe.weights.items()}
    with whole_file(file) as part:
        save_file(weights, part, metadata={"format": "pt", "naming": json.dumps(table, ensure_ascii=False)})
        part.chmod(0o644)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the naming probe of the embedded model.")
    parser.add_argument("--pack", default="data/pack", help="the pair generator's pack")
    parser.add_argument("--base", type=Path, default=Path("assets/sama-tiny"), help="the pipeline with the tower")
    parser.add_argument("--seed", type=argument(Count), default=1)
    parser.add_argument("--cells", type=Path, help="a file that keeps what was drawn, or holds it already")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    folder = options.base / "semantic_tower"
    try:
        pack = Pack.load(options.pack)
    except PackError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    labels = Labels(pack)
    if options.cells and options.cells.is_file():
        kept = torch.load(options.cells, weights_only=True)
        data = {use: Labelled(**fields) for use, fields in kept.items()}
    else:
        data = draw(pack, SiglipVisionModel.from_pretrained(folder, dtype=torch.float32).eval(), labels)
        if options.cells:
            torch.save({use: vars(part) for use, part in data.items()}, options.cells)
    probe, found = make(data, labels, options.seed)
    save(probe, found, folder / NAMING_FILE)
    sys.stdout.write(json.dumps({"limits": dict(probe.table.limits)} | {k: asdict(v) for k, v in found.items()}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
