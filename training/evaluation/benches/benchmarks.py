"""The three benchmarks: tasks, questions, how a case's grades become the columns of the paper's table.

Criteria, scales, ways of showing the clips and formulas follow the publications as far as they could be found; the
words are ours. `docs/judged-benchmarks.md` says what was found where and what was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from training.evaluation.benches import published
from training.evaluation.judge.questions import Criterion, Question
from training.evaluation.judge.session import Effort

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Benchmark:
    """One published benchmark.

    judge: the model that graded the published rows. tasks: name to the table's heading. aliases: how case lists write
    the tasks; None for tasks that are left out. questions: of each task. columns: of the table. grade: a case's scores
    to the columns' figures. effort: how much is asked by default.
    """

    name: str
    title: str
    judge: str
    tasks: Mapping[str, str]
    aliases: Mapping[str, str | None]
    questions: Mapping[str, tuple[Question, ...]]
    columns: tuple[str, ...]
    grade: Callable[[Scores], tuple[float, ...]]
    published: published.Rows
    effort: Effort

    def task(self, written: str) -> str | None:
        """The task that a case list means, or None for one that is left out. Raises KeyError for an unknown one."""
        name = "_".join(written.lower().replace("/", " ").replace("-", " ").replace("_", " ").split())
        return name if name in self.tasks else self.aliases[name]


def _levels(high: int, good: str, fair: str, poor: str) -> tuple[tuple[str, str], ...]:
    return ((f"7-{high}", good), ("4-6", fair), ("1-3", poor))


_VIE_QUESTION = Question(
    "vie",
    (
        Criterion(
            "instruct_follow",
            "Does the edited video do precisely what the instruction says?",
            _levels(10, "all of it", "part of it", "none of it"),
        ),
        Criterion(
            "preservation",
            "Does the edited video stay coherent with the original where nothing was asked for?",
            _levels(10, "everywhere", "in part", "no"),
        ),
        Criterion(
            "quality",
            "Is the edited video seamless, natural and pleasant to look at?",
            _levels(10, "fully", "in part", "no"),
        ),
    ),
)
_VIE_TASKS = {
    "add": "Add",
    "swap": "Swap / Change",
    "remove": "Remove",
    "style": "Style / Tone Change",
    "hybrid": "Hybrid Edit",
}


def _vie_grade(scores: Scores) -> tuple[float, ...]:
    figures = [scores[criterion.name] for criterion in _VIE_QUESTION.criteria]
    return (*figures, fmean(figures))


VIE = Benchmark(
    name="vie",
    title="VIE-Bench",
    judge="GPT-4o",
    tasks=_VIE_TASKS,
    aliases={
        "object_swap": "swap", "replace": "swap", "swap_change": "swap", "change": "swap", "color_change": "swap",
        "colour_change": "swap", "removal": "remove", "style_change": "style", "tone_weather_change": "style",
        "style_tone_change": "style", "tone_change": "style", "weather_change": "style", "hybrid_edit": "hybrid",
        "reference_base_swap": None, "reference_base_add": None, "ref_base_swap": None, "ref_base_add": None,
    },
    questions=dict.fromkeys(_VIE_TASKS, (_VIE_QUESTION,)),
    columns=("Instruct follow", "Preservation", "Quality", "Avg."),
    grade=_vie_grade,
    published=published.VIE,
    effort=Effort(runs=1, frames=8),
)  # fmt: skip


_OPENVE_TASKS = {
    "style": "Global Style",
    "background": "Background Change",
    "change": "Local Change",
    "remove": "Local Remove",
    "add": "Local Add",
    "subtitle": "Subtitle Edit",
    "creative": "Creative Edit",
    "camera": "Camera Edit",
}
_OPENVE_MEANINGS = {
    # compliance, consistency, quality: what each looks at in this task
    "style": (
        "Is the asked style (palette, texture, brushwork, light) there, everywhere and all the time?",
        "Are objects, layout and motion of the original still all there, undistorted?",
        "Is the style stable in time, without flicker or boiling texture?",
    ),
    "background": (
        "Is the background the one that was asked for, and is the foreground untouched?",
        "Are the edges of the foreground clean and stable, without halos or a change of sharpness?",
        "Do light, scale, perspective and camera movement of the new background fit the foreground?",
    ),
    "change": (
        "Was the right thing changed into the right thing: kind, number, place, size, pose and details?",
        "Is the changed part joined without seams, and stable in time, in an unchanged scene?",
        "Do tracking, light, shadow and occlusion of the changed part fit the scene?",
    ),
    "remove": (
        "Is exactly the named thing gone, without remains, and nothing else?",
        "Is what lay behind it restored as it should be, moving with the scene?",
        "Is the place free of erasing marks, blur and flicker?",
    ),
    "add": (
        "Is the asked thing there, once and in the right place, with every attribute that was named?",
        "Do contact, shadow, reflection, occlusion and motion of the added thing obey the scene?",
        "Is it joined without paste marks, and stable in time?",
    ),
    "subtitle": (
        "Was the subtitle added, changed or removed with exactly the asked words?",
        "Is everything but the subtitle untouched?",
        "Do place, colour, size and style of the text fit what was asked, readable in every frame?",
    ),
    "creative": (
        "Was the idea of the instruction carried out, fully and through the whole video?",
        "Is what happens physically believable, with the other details of the scene kept?",
        "Is it stable in time and free of seams and artefacts?",
    ),
    "camera": (
        "Is the shot of the asked type and framing?",
        "Is it the same scene at the same moment, in continuity with the original?",
        "Is the picture clear, stable and free of distortion?",
    ),
}
_OPENVE_LEVELS = (
    ("5", "perfectly"),
    ("4", "with a minor flaw that takes a close look"),
    ("3", "mostly, with flaws that anyone notices"),
    ("2", "in part, or badly"),
    ("1", "not at all"),
)
_OPENVE_NAMES = ("instruction_compliance", "consistency_and_detail_fidelity", "visual_quality_and_stability")


def _openve_question(task: str) -> Question:
    criteria = zip(_OPENVE_NAMES, _OPENVE_MEANINGS[task], strict=True)
    return Question(
        f"openve-{task}",
        tuple(Criterion(name, meaning, _OPENVE_LEVELS) for name, meaning in criteria),
        low=1,
        high=5,
        rules=("Neither the second nor the third grade may be higher than the first.",),
    )


def _openve_grade(scores: Scores) -> tuple[float, ...]:
    """The mean grade, with none counted above the first one: the published rule, enforced also where a judge ignored
    it."""
    first = scores[_OPENVE_NAMES[0]]
    return (fmean(min(first, scores[name]) for name in _OPENVE_NAMES),)


OPENVE = Benchmark(
    name="openve",
    title="OpenVE-Bench",
    judge="Gemini 2.5 Pro",
    tasks=_OPENVE_TASKS,
    aliases={
        "global_style": "style", "background_change": "background", "local_change": "change",
        "local_remove": "remove", "local_add": "add", "subtitles_edit": "subtitle", "subtitle_edit": "subtitle",
        "subtitles": "subtitle", "creative_edit": "creative", "camera_edit": "camera",
        "camera_multi_shot_edit": "camera",
    },
    questions={task: (_openve_question(task),) for task in _OPENVE_TASKS},
    columns=("Score",),
    grade=_openve_grade,
    published=published.OPENVE,
    effort=Effort(runs=1, frames=16),
)  # fmt: skip


_RECO_GROUPS = {
    "S_EA": (
        ("SA", "semantic_accuracy", "Is what was added, removed, replaced or restyled the right thing?"),
        ("SP", "scope_precision", "Is the edit where the instruction wants it, no larger and no smaller?"),
        (
            "CP",
            "content_preservation",
            "Is everything outside the edit as it was? For a change of style: are objects and motion kept?",
        ),
    ),
    "S_VN": (
        (
            "AN",
            "appearance_naturalness",
            "Do light, shadow, reflection and texture of the edited parts blend with the scene?",
        ),
        ("SN", "scale_naturalness", "Are size and proportions of the edited parts believable in the scene?"),
        ("MN", "motion_naturalness", "Do the edited parts move as physics and the rest of the scene demand?"),
    ),
    "S_VQ": (
        ("VF", "visual_fidelity", "Are the edited frames sharp and free of blur, distortion and other artefacts?"),
        ("TS", "temporal_stability", "Is the picture stable from frame to frame, without flicker or boiling?"),
        ("ES", "edit_stability", "Does the edit hold from the first frame to the last, never vanishing or reverting?"),
    ),
}
_RECO_TASKS = {"add": "Add", "replace": "Replace", "remove": "Remove", "style": "Style"}
_RECO_QUESTION = Question(
    "reco",
    tuple(
        Criterion(name, meaning, (("10", "entirely"), ("1", "not at all")))
        for group in _RECO_GROUPS.values()
        for _, name, meaning in group
    ),
    show="side by side",
    rules=("If the edited version is identical to the original, nothing was edited: grade all nine criteria 0.",),
    zero_if_unchanged=True,
)


def _reco_grade(scores: Scores) -> tuple[float, ...]:
    """The figures from nine criteria: the geometric mean of each group of three, and the mean of those."""
    groups = [[scores[name] for _, name, _ in group] for group in _RECO_GROUPS.values()]
    means = [math.prod(group) ** (1 / len(group)) for group in groups]
    return (*(score for group in groups for score in group), *means, fmean(means))


RECO = Benchmark(
    name="reco",
    title="ReCo-Bench",
    judge="Gemini 2.5 Flash Thinking",
    tasks=_RECO_TASKS,
    aliases={"addition": "add", "removal": "remove", "replacement": "replace", "stylization": "style"},
    questions=dict.fromkeys(_RECO_TASKS, (_RECO_QUESTION,)),
    columns=(*(short for group in _RECO_GROUPS.values() for short, _, _ in group), *_RECO_GROUPS, "S"),
    grade=_reco_grade,
    published=published.RECO,
    effort=Effort(runs=1, frames=11, side=640),
)

BENCHMARKS = {benchmark.name: benchmark for benchmark in (VIE, OPENVE, RECO)}
