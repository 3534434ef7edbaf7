"""Measures a clip against the truth of its case, by the same rules for results and references.

A result alone says little. Four references are measured by the same rules: the source (an editor that does nothing),
the truth itself (what the retrieval, the colour check and the OCR make of a perfect edit), the truth through the
model's autoencoder (the ceiling of what the model can show), and the result with the source's own pixels kept.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from sama.edit.composing.compose import changes_everything, compose, differences, edit_mask
from training.evaluation.held_out.cases import CaseLine
from training.evaluation.held_out.metrics import OpticalFlow, changed_mask, gmsd, named_colour_match, psnr, ssim
from training.evaluation.held_out.ocr import read_text, text_accuracy
from training.evaluation.held_out.retrieval import NearestSprite, SpritePlace
from training.synth.material.pack import Pack
from training.synth.scenes.render import DrawnCase

READABLE = 0.8
"""A subtitle counts as read when at least this share of its letters is right (1 - normalised edit distance)."""

UNCHANGED = 25.0
"""dB: a clip that was to stay as it is counts as left alone above this. A tenth of the picture repainted gives 20."""

KNOWN_DRAWINGS, ALL_DRAWINGS = ("add", "replace"), ("move", "resize")
READ_TASKS = ("subtitle_add", "subtitle_change")


@dataclass
class Measures:
    """The measures of one clip against the truth; None where a measure does not apply or could not be taken.

    inside, outside, overall: PSNR in dB in the edit's mask, out of it and everywhere. ssim_inside, ssim_outside, gmsd:
        see `training.evaluation.held_out.metrics`. tower_distance: see `TowerDistance`.
    flicker: difference along the truth's motion, 0 to 255; compare it with the truth's own.
    rank: of the right drawing among all. colour: whether the object has the named one. text: share of right letters;
        read: what OCR saw.
    followed: whether the instruction was followed, by the rule of `CaseScorer.followed`.
    """

    inside: float | None = None
    outside: float | None = None
    overall: float | None = None
    ssim_inside: float | None = None
    ssim_outside: float | None = None
    gmsd: float | None = None
    tower_distance: float | None = None
    flicker: float | None = None
    rank: int | None = None
    colour: bool | None = None
    text: float | None = None
    read: str | None = None
    followed: bool | None = None


@dataclass
class Wording:
    """The same case asked for in other words, with the same noise."""

    instruction: str
    result: Measures


@dataclass
class Score:
    """One case. `copy`, `truth`, `vae` are the references; `kept` is the result with the source kept.

    wordings: further wordings, if they were tried. agreement: mean PSNR in dB between the results of all wordings,
        inside the edit's mask, each pair of them once.
    """

    task: str
    seed: int
    instruction: str
    result: Measures
    copy: Measures = field(default_factory=Measures)
    truth: Measures = field(default_factory=Measures)
    vae: Measures | None = None
    kept: Measures | None = None
    wordings: list[Wording] = field(default_factory=list)
    agreement: float | None = None

    @property
    def id(self) -> str:
        return f"{self.task}-{self.seed}"


class ClipDistance(Protocol):
    """A distance between two clips (T, H, W, 3) uint8; 0 for equal ones."""

    def __call__(self, a: np.ndarray, b: np.ndarray) -> float: ...


class Scorer:
    """Measures clips of any case with what the cases share: the drawings, OCR, the tower.

    ocr: None reads subtitles where rapidocr is installed; what was not read can be read later from stored results.
    """

    def __init__(self, pack: Pack, distance: ClipDistance | None = None, ocr: bool | None = None) -> None:
        self.pack, self.distance = pack, distance
        self.ocr = importlib.util.find_spec("rapidocr") is not None if ocr is None else ocr
        self._banks: dict[bool, NearestSprite] = {}

    def drawings(self, known: bool) -> NearestSprite:
        """The drawings that a model learns to draw, or all there are."""
        if known not in self._banks:
            bank: dict[str, list[np.ndarray]] = {}
            for sprite in self.pack.sprites(target=True if known else None):
                bank.setdefault(sprite.name, []).append(sprite.frames[0])
            self._banks[known] = NearestSprite(bank)
        return self._banks[known]

    def case(self, case: DrawnCase) -> CaseScorer:
        return CaseScorer(self, case)


class CaseScorer:
    """Measures clips of one case with what they share: the mask, the truth's motion, the drawings in place."""

    def __init__(self, scorer: Scorer, case: DrawnCase) -> None:
        self.scorer, self.case = scorer, case
        self.mask = changed_mask(case.source, case.target)
        self.place, self.name = self._drawings_in_place()

    def _drawings_in_place(self) -> tuple[SpritePlace | None, str]:
        case, edit = self.case, self.case.edit
        name = edit.new_object or edit.object
        if edit.task not in (*KNOWN_DRAWINGS, *ALL_DRAWINGS) or case.box is None or case.without is None:
            return None, name
        drawings = self.scorer.drawings(known=edit.task in KNOWN_DRAWINGS)
        return (drawings.place(case.without, case.box, case.flip) if name in drawings.names else None), name

    @cached_property
    def motion(self) -> OpticalFlow:
        return OpticalFlow(self.case.target)

    def measure(self, clip: np.ndarray) -> Measures:
        """All measures of a clip (T, H, W, 3) uint8 of the case's size."""
        truth, measures = self.case.target, self.essentials(clip)
        measures.ssim_inside = _db(ssim(clip, truth, self.mask), 4)
        measures.ssim_outside = _db(ssim(clip, truth, ~self.mask), 4)
        measures.gmsd = _db(gmsd(clip, truth), 4)
        measures.flicker = _db(self.motion.warped_difference(clip))
        if self.scorer.distance is not None:
            measures.tower_distance = _db(self.scorer.distance(clip, truth), 4)
        return measures

    def essentials(self, clip: np.ndarray) -> Measures:
        """The measures that are quick: PSNR, and whether what was asked for is there."""
        truth, case = self.case.target, self.case
        measures = Measures(
            inside=_db(psnr(clip, truth, self.mask)),
            outside=_db(psnr(clip, truth, ~self.mask)),
            overall=_db(psnr(clip, truth)),
        )
        if self.place is not None:
            measures.rank = self.place.rank(self.name, clip[0])
        if case.edit.task == "recolour" and case.mask is not None and case.mask.any():
            measures.colour = named_colour_match(clip[:1], case.mask[None], case.edit.colour)
        self.read(measures, clip)
        return measures

    def read(self, measures: Measures, clip: np.ndarray) -> None:
        """Read the subtitle, if the case has a new one and OCR is there, and decide `followed` (again)."""
        edit = self.case.edit
        if edit.task in READ_TASKS and self.scorer.ocr:
            measures.read = read_text(clip, "top" if edit.position.startswith("top") else "bottom")
            measures.text = round(text_accuracy(measures.read, edit.text), 3)
        measures.followed = self.followed(measures, clip)

    def followed(self, measures: Measures, clip: np.ndarray) -> bool | None:
        """Whether the instruction was followed.

        add, replace: the drawing ranks first. recolour: the colour is the named one. New subtitles: `READABLE`.
        identity: above `UNCHANGED`. move, resize: the drawing ranks first at its new place, and inside the mask the
        clip is nearer to the truth than to the source. Everything else: the latter alone."""
        task = self.case.edit.task
        if task == "identity":
            return measures.overall is not None and measures.overall > UNCHANGED
        if task in READ_TASKS:
            return None if measures.text is None else measures.text >= READABLE
        if task == "recolour":
            return measures.colour
        nearer = _nearer(measures, psnr(clip, self.case.source, self.mask))
        if task in KNOWN_DRAWINGS:
            return None if measures.rank is None else measures.rank == 1
        if task in ALL_DRAWINGS and measures.rank is not None:
            return nearer and measures.rank == 1
        return nearer


def _nearer(measures: Measures, to_source: float) -> bool:
    return measures.inside is not None and measures.inside > to_source


def score_case(
    own: CaseScorer,
    line: CaseLine,
    results: Sequence[np.ndarray],
    source_again: np.ndarray | None = None,
    truth_again: np.ndarray | None = None,
    references: bool = True,
) -> Score:
    """The score of a case: its result, its references and its further wordings, measured.

    results: clips for the instruction and for as many of the paraphrases as were tried, (T, H, W, 3) uint8 each.
    source_again, truth_again: source and truth through the model's autoencoder; without them nothing can be kept of
        the source, and `vae` is None.
    references: whether source and truth are measured too, which no model changes.
    """
    score, source = Score(line.task, line.seed, line.instruction, own.measure(results[0])), own.case.source
    if references:
        score.copy, score.truth = own.measure(source), own.measure(own.case.target)
    if truth_again is not None:
        score.vae = own.measure(truth_again)
    if source_again is not None:
        score.kept = own.measure(source_kept(source, results[0], source_again))
    for words, clip in zip(line.paraphrases, results[1:], strict=False):
        score.wordings.append(Wording(words, own.measure(clip)))
    if len(results) > 1:
        score.agreement = agreement(results, own.mask)
    return score


def source_kept(source: np.ndarray, result: np.ndarray, source_again: np.ndarray) -> np.ndarray:
    """The result as the editor writes it: the source's own pixels where it agrees with the decoded source."""
    apart = differences(result, source_again)
    if changes_everything(apart):
        return result
    soft = edit_mask(apart)
    return np.stack([compose(*frame) for frame in zip(source, result, soft, strict=True)])


def agreement(results: Sequence[np.ndarray], mask: np.ndarray) -> float | None:
    """Mean PSNR in dB between all pairs of results, inside the mask (everywhere, if it is empty)."""
    where = mask if mask.any() else None
    return _db(float(np.mean([psnr(a, b, where) for a, b in itertools.combinations(results, 2)])))


def has_unread_subtitle(score: Score) -> bool:
    """Whether the case has a subtitle that nobody has read yet."""
    return score.task in READ_TASKS and score.result.text is None


def as_score(values: dict[str, Any]) -> Score:
    """A score from its JSON. The first published form, with one flat row a pair, is understood too."""
    if "result" not in values:
        return _from_first_form(values)
    values = dict(values)
    for name in ("result", "copy", "truth", "vae", "kept"):
        if values.get(name) is not None:
            values[name] = Measures(**values[name])
    values["wordings"] = [Wording(w["instruction"], Measures(**w["result"])) for w in values.get("wordings", ())]
    return Score(**values)


def _from_first_form(row: dict[str, Any]) -> Score:
    def number(name: str) -> float | None:
        value = row.get(name)
        return None if value is None else _db(value)

    result = Measures(
        number("inside"), number("outside"), number("overall"), rank=row.get("rank"), colour=row.get("colour"),
        text=number("text"), read=row.get("details", {}).get("read"),
    )  # fmt: skip
    if row["task"] in KNOWN_DRAWINGS and result.rank is not None:
        result.followed = result.rank == 1
    elif row["task"] in READ_TASKS and result.text is not None:
        result.followed = result.text >= READABLE
    elif row["task"] == "recolour":
        result.followed = result.colour
    return Score(
        row["task"], row["seed"], row["instruction"], result,
        copy=Measures(inside=number("copy_inside")),
        vae=Measures(overall=number("vae"), inside=number("vae_inside")),
        kept=Measures(inside=number("kept_inside"), outside=number("kept_outside")),
    )  # fmt: skip


def _db(value: float, digits: int = 3) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None
