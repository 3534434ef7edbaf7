"""The benchmark's cases as data: one line of JSON each, from which the pair is drawn again.

Scenes, film shots, photographs, pairings of words, wordings and the drawings that are removed or recoloured are held
out; the names of what is added or replaced are known ones, since no model can draw what it never saw. A line has the
seed that the scene hangs on, the wording that the scores are about, further wordings of the same edit, and the mean
colours of both clips, by which a renderer that draws another scene is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np

from sama.files import whole_file
from sama.shapes import Bucket, is_valid_frame_count
from training.data.sizes import tiny_buckets
from training.errors import CaseError
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack
from training.synth.scenes.render import DrawnCase, render_case
from training.synth.words.language import instruction

FIRST_SEED = 700_000
PUBLISHED = Path("docs/benchmark/cases.jsonl")
_TOLERANCE = 0.5  # of 255: what another version of OpenCV may change in a clip's mean colour
_TRIES = 40


@dataclass(frozen=True)
class CaseLine:
    """One case.

    bucket: width and height in pixels. instruction: the wording that is scored. paraphrases: other wordings of the
    same edit, all held out. source_mean, target_mean: mean red, green and blue of the clips, 0 to 255.
    """

    task: str
    seed: int
    bucket: tuple[int, int]
    frames: int
    split: str
    instruction: str
    paraphrases: tuple[str, ...] = ()
    source_mean: tuple[float, ...] = ()
    target_mean: tuple[float, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.task}-{self.seed}"


def make_cases(
    pack: Pack,
    tasks: Sequence[str] = TASKS,
    per_task: int = 16,
    frames: Sequence[int] = (17,),
    paraphrases: int = 3,
) -> list[CaseLine]:
    """`per_task` cases of each task, with sizes and frame counts in turn; a task that the pack cannot show is left out
    by `render_case`'s ValueError."""
    if not 1 <= per_task <= 1000:
        raise CaseError(f"a task has 1 to 1000 cases, not {per_task}")
    for count in frames:
        if not is_valid_frame_count(count):
            raise CaseError(f"a case has 4k+1 frames, not {count}")
    lines = []
    for task in tasks:
        for number in range(per_task):
            seed = FIRST_SEED + 1000 * TASKS.index(task) + number
            lines.append(_make(pack, task, seed, frames[number % len(frames)], paraphrases))
    return lines


def _make(pack: Pack, task: str, seed: int, frames: int, paraphrases: int) -> CaseLine:
    buckets = tiny_buckets()
    bucket = buckets[seed % len(buckets)]
    case = render_case(pack, seed, bucket, frames, "test", task)
    rng = np.random.default_rng((seed, 3))
    words = [instruction(case.edit, rng, split="test")]
    for _ in range(_TRIES):
        if len(words) > paraphrases:
            break
        other = instruction(case.edit, rng, split="test")
        if other.rstrip(".?!").lower() not in {known.rstrip(".?!").lower() for known in words}:
            words.append(other)
    return CaseLine(
        task, seed, (bucket.width, bucket.height), frames, "test", words[0], tuple(words[1:]),
        mean_colour(case.source), mean_colour(case.target),
    )  # fmt: skip


def mean_colour(clip: np.ndarray) -> tuple[float, ...]:
    """Mean red, green and blue of a clip (T, H, W, 3) uint8, to two decimals."""
    return tuple(round(float(value), 2) for value in clip.mean(axis=(0, 1, 2), dtype=np.float64))


def draw(pack: Pack, line: CaseLine) -> DrawnCase:
    """The pair of a line. Raises CaseError where this pack and renderer draw another one than was published."""
    bucket = Bucket(*line.bucket)
    case = render_case(pack, line.seed, bucket, line.frames, cast(Literal["train", "test"], line.split), line.task)
    for what, clip, published in (("source", case.source, line.source_mean), ("truth", case.target, line.target_mean)):
        off = max((abs(a - b) for a, b in zip(mean_colour(clip), published, strict=False)), default=0.0)
        if off > _TOLERANCE:
            raise CaseError(
                f"{line.id}: the {what} drawn here differs from the published one (mean colour off by {off:.1f} of "
                "255); use the pack and the version of this repository that the case list belongs to, or make a new "
                "list with: python -m training.evaluate cases"
            )
    return case


def write_cases(lines: Sequence[CaseLine], path: Path) -> None:
    """Write a case list, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines), encoding="utf-8")


def read_cases(path: Path, tasks: Sequence[str] | None = None, per_task: int | None = None) -> list[CaseLine]:
    """The cases of a list, those of `tasks` alone if given, the first `per_task` of each. Raises CaseError."""
    if not path.is_file():
        raise CaseError(f"there is no case list {path}; make one with: python -m training.evaluate cases --out {path}")
    lines: list[CaseLine] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            lines.append(_parsed(json.loads(text)))
        except (ValueError, TypeError, KeyError) as error:
            raise CaseError(f"{path}, line {number} is not a case: {error}") from error
    if tasks is not None:
        missing = set(tasks) - {line.task for line in lines}
        if missing:
            raise CaseError(f"{path} has no cases of {', '.join(sorted(missing))}")
        lines = [line for line in lines if line.task in tasks]
    if per_task is None:
        return lines
    seen: dict[str, int] = {}
    kept = []
    for line in lines:
        seen[line.task] = seen.get(line.task, 0) + 1
        if seen[line.task] <= per_task:
            kept.append(line)
    return kept


def _parsed(values: dict[str, object]) -> CaseLine:
    for name in ("bucket", "paraphrases", "source_mean", "target_mean"):
        values[name] = tuple(cast(Sequence[object], values.get(name, ())))
    return CaseLine(**values)  # type: ignore[arg-type]
