"""Decides whether a pair is good enough to train on: the paper's four criteria and its thresholds (appendix B).

Criteria, grouping into three requests, scale, thresholds and the reversed order of the motion question (edited clip
first) are the paper's; the words are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.evaluation.judge.questions import Criterion, Question

INSTRUCTION_FOLLOWING = Criterion(
    "instruction_following",
    "Was the instruction carried out, all of it and nothing else in its place?",
    (
        ("10", "every part of it, exactly"),
        ("7-9", "the main part, with small deviations"),
        ("4-6", "some parts only"),
        ("1-3", "hardly or not at all"),
    ),
)
VISUAL_QUALITY = Criterion(
    "visual_quality",
    "Does the edited version look natural and of one piece, free of seams, smears and artefacts?",
    (
        ("10", "flawless; nobody would notice an edit"),
        ("7-9", "good, with small flaws"),
        ("4-6", "flaws that catch the eye"),
        ("1-3", "broken in many places"),
    ),
)
CONTENT_PRESERVATION = Criterion(
    "content_preservation",
    "Did everything that the instruction does not speak of stay as it was in the original? Judge this alone, whether "
    "or not the instruction was carried out well.",
    (
        ("10", "all of it stayed"),
        ("7-9", "nearly all, with small changes"),
        ("4-6", "several things changed without being asked for"),
        ("1-3", "most of it changed"),
    ),
)
MOTION_CONSISTENCY = Criterion(
    "motion_consistency",
    "Do subject, background and camera move in the edited video as they do in the original? A new style, object or "
    "look is fine; only movement counts that differs for no such reason.",
    (
        ("10", "every movement is the same, moment for moment"),
        ("7-9", "the same but for small deviations"),
        ("4-6", "clear deviations or delays, or a background whose texture crawls unnaturally"),
        ("1-3", "most movements differ, or the first moment does not fit those after it"),
    ),
)

FIDELITY = Question("fidelity", (INSTRUCTION_FOLLOWING, VISUAL_QUALITY))
PRESERVATION = Question("preservation", (CONTENT_PRESERVATION,))
MOTION = Question("motion", (MOTION_CONSISTENCY,), show="edited first")

ABOUT_VIDEOS = (FIDELITY, PRESERVATION, MOTION)
ABOUT_PICTURES = (FIDELITY, PRESERVATION)

VIDEO_THRESHOLDS: Mapping[str, float] = {
    "instruction_following": 8,
    "visual_quality": 9,
    "content_preservation": 8,
    "motion_consistency": 8,
}
PICTURE_THRESHOLDS: Mapping[str, float] = {
    "instruction_following": 9,
    "visual_quality": 9,
    "content_preservation": 9,
}


def shortcomings(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> list[str]:
    """The criteria whose average lies below its threshold; a pair without any is kept."""
    return [name for name, least in thresholds.items() if scores[name] < least]
