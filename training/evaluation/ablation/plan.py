"""What is compared, and the budget that all runs share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sama.files import whole_file
from training.config import TrainConfig
from training.errors import ConfigError

PLAN_FILE = "plan.json"
RESULT_FILE = "result.json"
STAGE0_FOLDER = "stage0"
CASES_FOLDER = "cases"
REFERENCES = ("source", "truth")
"""What is scored beside the runs: an editor that does nothing, and one that does all."""

LOGS = 100
LOOKS = 6
"""Figures and held-out losses of a run: as many points has its curve."""


@dataclass(frozen=True)
class Variant:
    """One way to train.

    title, meaning: for tables, and in a sentence.
    anchors: with semantic anchors (`objective.semantic_weight` as configured), or without any.
    restorations: with the configured share of pretext samples in place of edits, or with edits alone.
    positions: of the anchors; "" as configured.
    told_apart: source and target share positions and are marked by the type embedding (the method), or the source
        stands behind the target on the time axis and nothing is marked.
    stage: `sft` shows video edits; `pretrain` what stage 0 sees, image edits and restorations and no video edit.
    stage0_share: share of the steps that are trained as stage 0 before; the rest goes on from their averaged weights.
    """

    name: str
    title: str
    meaning: str
    anchors: bool = True
    restorations: bool = True
    positions: Literal["", "none", "grid"] = ""
    told_apart: Literal["types", "shifted"] = "types"
    stage: Literal["sft", "pretrain"] = "sft"
    stage0_share: float = 0.0

    def first_steps(self, steps: int) -> int:
        """How many of a run's steps are stage 0's, before the variant's own stage."""
        return round(steps * self.stage0_share)


VARIANTS = (
    Variant("baseline", "baseline", "no anchors, video edits alone", anchors=False, restorations=False),
    Variant(
        "anchoring", "+ semantic anchoring", "65 anchors denoised with the video, with an L1 loss of their own",
        restorations=False,
    ),
    Variant(
        "motion", "+ motion alignment",
        "no anchors; a share of the samples are clips to restore (cube, speed and tube shuffle, 2 : 3 : 4) in place of "
        "edits",
        anchors=False,
    ),
    Variant(
        "both", "both", "video edits with anchors, and the share of restorations: stage 1 alone, from random weights",
    ),
    Variant(
        "shifted", "both, shifted positions",
        "as both, but the source's positions follow the target's in time, and there is no type embedding",
        told_apart="shifted",
    ),
    Variant(
        "unplaced", "both, anchors without position",
        "as both, but the anchors have no position (the paper's; ours lie on the 8 x 8 grid)", positions="none",
    ),
    Variant(
        "stage0", "stage 0 alone",
        "as both, but image edits (single frames) and restorations alone: video edits are zero-shot",
        stage="pretrain",
    ),
    Variant(
        "two_stages", "stage 0, then stage 1",
        "the paper's order, and the embedded model's: half of the steps as stage 0 alone, the other half as both, from "
        "the averaged weights of the first",
        stage0_share=0.5,
    ),
)  # fmt: skip


class Run(NamedTuple):
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The budget: the same steps, groups, batches and held-out cases for every run.

    fingerprint: of the configuration that all variants start from. groups: scenes that are encoded, once, and drawn by
    all runs; a seed decides first weights, noise and the order of what is drawn, so that the variants of one seed see
    the same edits in the same order. command: the configuration's file and overrides, to be told on the page.
    """

    fingerprint: str
    steps: int
    seeds: int
    variants: tuple[str, ...]
    groups: int
    per_task: int
    tasks: tuple[str, ...] = ()
    cases: str = ""
    command: tuple[str, ...] = ()

    def runs(self) -> list[Run]:
        """All runs, seed after seed, so that a session that ends early has whole comparisons."""
        chosen = [variant for variant in VARIANTS if variant.name in self.variants]
        return [Run(variant, seed) for seed in range(self.seeds) for variant in chosen]


def write_plan(plan: Plan, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / PLAN_FILE) as part:
        part.write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")


def read_plan(folder: Path) -> Plan | None:
    """The plan of an ablation that was begun, or None."""
    file = folder / PLAN_FILE
    if not file.is_file():
        return None
    return plan_of(json.loads(file.read_text(encoding="utf-8")))


def plan_of(values: Mapping[str, Any]) -> Plan:
    """A plan from its values in JSON."""
    return Plan(**{**values, **{name: tuple(values[name]) for name in ("variants", "tasks", "command")}})


def require_same_plan(found: Plan, wanted: Plan, folder: Path) -> None:
    """ConfigError where the ablation in `folder` was begun with other settings. Steps may be left open (0)."""
    wanted = replace(wanted, steps=wanted.steps or found.steps)
    for field in dataclasses.fields(Plan):
        if field.name == "command":  # the fingerprint says what it comes to
            continue
        before, now = getattr(found, field.name), getattr(wanted, field.name)
        if before != now:
            raise ConfigError(
                f"{folder} was begun with {field.name} {before}, not {now}: go on with the same settings, or choose "
                "another --out"
            )


def common_config(config: TrainConfig, groups: int) -> TrainConfig:
    """The configuration that all variants share: as many groups as are held, none replaced, nothing by the clock.
    ConfigError: it leaves nothing to take away."""
    if config.data.source != "rendered" or config.stage != "sft":
        raise ConfigError("the ablation trains stage sft on rendered data: use training/configs/tiny_sft.yaml")
    if not config.objective.semantic_weight:
        raise ConfigError("objective.semantic_weight is 0: there is no anchoring to leave out")
    if not config.data.rendered.pretext_share:
        raise ConfigError("data.rendered.pretext_share is 0: there is no motion alignment to leave out")
    rendered = replace(config.data.rendered, groups=groups, capacity_groups=groups, refresh_per_step=0.0)
    return replace(config, max_minutes=0.0, float8_share=0.0, data=replace(config.data, rendered=rendered))


def run_config(common: TrainConfig, run: Run, steps: int, folder: Path) -> TrainConfig:
    """The configuration of one run; of a variant that begins with stage 0, of what follows it."""
    variant = run.variant
    steps -= variant.first_steps(steps)
    objective, rendered, model = common.objective, common.data.rendered, dict(common.model)
    if not variant.anchors:
        objective = replace(objective, semantic_weight=0.0)
    if not variant.restorations:
        rendered = replace(rendered, pretext_share=0.0)
    if variant.positions:
        model["semantic_positions"] = variant.positions
    watch = replace(
        common.watch, trackers=(), log_every=max(1, steps // LOGS), validate_every=max(1, steps // LOOKS),
        sample_every_minutes=0.0,
    )  # fmt: skip
    return replace(
        common, stage=variant.stage, output=str(folder / run.name), seed=common.seed + run.seed, max_steps=steps,
        model=model, objective=objective, data=replace(common.data, rendered=rendered), watch=watch,
        save=replace(common.save, minutes=1e9, steps=0, keep=1),
    )  # fmt: skip


def stage0_config(common: TrainConfig, run: Run, steps: int, folder: Path) -> TrainConfig | None:
    """The configuration of the stage 0 that a run begins with, if it does."""
    first = run.variant.first_steps(steps)
    if not first:
        return None
    alone = Run(replace(run.variant, stage="pretrain", stage0_share=0.0), run.seed)
    return replace(run_config(common, alone, first, folder), output=str(folder / run.name / STAGE0_FOLDER))


def is_finished(folder: Path, run: Run) -> bool:
    return (folder / run.name / RESULT_FILE).is_file()


def share_of(runs: Sequence[Run], share: str) -> list[Run]:
    """`i/n`: every n-th run from the i-th on, counted from 0, for one of n GPUs. Raises ConfigError."""
    index, count = read_share(share)
    return list(runs[index::count])


def read_share(share: str) -> tuple[int, int]:
    """i and n of `i/n`. Raises ConfigError."""
    try:
        index, count = (int(number) for number in share.split("/"))
    except ValueError:
        raise ConfigError(f"--share is i/n, such as 0/4, not {share!r}") from None
    if not 0 <= index < count:
        raise ConfigError(f"--share {share}: counted from 0, there is no such part")
    return index, count
