"""The list of runs: variants of one configuration, trained by `training.train` and scored by `training.evaluate`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from sama.files import whole_file
from training.closed_yaml import read_yaml
from training.config import CLOSED, TrainConfig
from training.errors import ConfigError
from training.evaluation.held_out.cases import PUBLISHED, CaseLine, read_cases
from training.evaluation.held_out.runner import finished
from training.values import ShareBelowOne

PLAN_FILE, INDEX_FILE = "plan.json", "model_index.json"
STAGE0, CASES, SCORES = "stage0", "cases", "scores"
"""Folders of a run."""

LOGS, VALIDATIONS = 100, 6
"""Logged figures and held-out losses of a run: the points of its curves."""


@dataclass(frozen=True, config=CLOSED)
class Variant:
    """One way to train. title, meaning: for tables, and in a sentence. colour: in plots. overrides: of the common
    configuration. stage0_share: share of the steps that are trained as stage 0 first; the rest starts from its averaged
    weights."""

    name: str
    title: str
    colour: str
    meaning: str
    overrides: tuple[str, ...] = ()
    stage0_share: ShareBelowOne = 0.0


@dataclass(frozen=True, config=CLOSED)
class Claim:
    """A comparison, with the figures that the paper gives for it and what they say of `one`, where it gives any."""

    text: str
    one: str
    other: str
    paper: str = ""
    expected: Literal["", "better", "worse"] = ""


@dataclass(frozen=True, config=CLOSED)
class Experiment:
    """All that is compared."""

    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]


EXPERIMENT = read_yaml(Experiment, Path(__file__).with_name("variants.yaml"))
VARIANTS = {variant.name: variant for variant in EXPERIMENT.variants}


class Run(NamedTuple):
    """One variant with one seed, which decides its first weights, scenes, noise and the order of its batches."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant.name}-seed{self.seed}"


@dataclass(frozen=True)
class AblationPlan:
    """The settings that all runs share: steps, scenes (groups), held-out cases, the configuration's file and overrides
    (command)."""

    steps: int
    seeds: int
    variants: tuple[str, ...]
    groups: int
    per_task: int
    tasks: tuple[str, ...] = ()
    cases: str = str(PUBLISHED)
    command: tuple[str, ...] = ()

    def runs(self) -> list[Run]:
        """All runs, seed after seed, so that a session that ends early has whole comparisons."""
        chosen = [variant for variant in EXPERIMENT.variants if variant.name in self.variants]
        return [Run(variant, seed) for seed in range(self.seeds) for variant in chosen]

    def first_steps(self, variant: Variant) -> int:
        """How many of the steps are stage 0's, before the variant's own stage."""
        return round(self.steps * variant.stage0_share)

    def lines(self) -> list[CaseLine]:
        """The held-out cases. Raises CaseError."""
        return read_cases(Path(self.cases), self.tasks or None, self.per_task)


def plan_from_json(values: Mapping[str, Any]) -> AblationPlan:
    """A plan from its values in JSON; what it does not know is left out."""
    return AblationPlan(**{field.name: values[field.name] for field in fields(AblationPlan) if field.name in values})


def read_plan(folder: Path) -> AblationPlan:
    """The plan of the runs in a folder. Raises ConfigError where there is none."""
    if not (folder / PLAN_FILE).is_file():
        raise ConfigError(
            f"{folder} has no ablation: run one with: python -m training.evaluation.ablation run --out {folder}"
        )
    return plan_from_json(json.loads((folder / PLAN_FILE).read_text(encoding="utf-8")))


def write_plan(plan: AblationPlan, folder: Path) -> None:
    """Keep a plan with its runs. Raises ConfigError where those of another plan lie."""
    begun = asdict(read_plan(folder)) if (folder / PLAN_FILE).is_file() else {}
    for name, value in begun.items():
        if value != (wanted := getattr(plan, name)):
            raise ConfigError(
                f"{folder} was begun with {name} {value}, not {wanted}: go on with the same settings, or choose "
                "another --out"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / PLAN_FILE) as part:
        part.write_text(json.dumps(asdict(plan), indent=1), encoding="utf-8")


def require_parts(config: TrainConfig) -> None:
    """Raise ConfigError for a configuration that lacks a part of the method, which no variant could then leave out."""
    if config.data.source != "rendered" or config.stage != "sft":
        raise ConfigError("the ablation trains stage sft on rendered data: use training/configs/tiny_sft.yaml")
    if not config.objective.semantic_weight:
        raise ConfigError("objective.semantic_weight is 0: there is no anchoring to leave out")
    if not config.data.rendered.pretext_share:
        raise ConfigError("data.rendered.pretext_share is 0: there is no motion alignment to leave out")


def trainings(run: Run, plan: AblationPlan, out: Path) -> list[tuple[Path, list[str]]]:
    """The stages that a run trains, one after another: the folder of each, and the arguments of `python -m` that fill
    it."""
    folder, overrides, first = out / run.name, run.variant.overrides, plan.first_steps(run.variant)
    stages = [(folder / STAGE0, first, (*overrides, "stage=pretrain"))] if first else []
    start = (f"start_from={folder / STAGE0}",) if first else ()
    stages.append((folder, plan.steps - first, (*overrides, *start)))
    return [(output, _training(plan, run.seed, output, steps, changes)) for output, steps, changes in stages]


def _training(plan: AblationPlan, seed: int, output: Path, steps: int, overrides: Sequence[str]) -> list[str]:
    """The plan's configuration, ended by steps alone, on scenes that are encoded before the first step and stay."""
    settings = (
        f"output={output}", f"seed={seed}", f"max_steps={steps}", "max_minutes=0", "float8_share=0",
        f"data.rendered.groups={plan.groups}", f"data.rendered.capacity_groups={plan.groups}",
        "data.rendered.refresh_per_step=0", "watch.trackers=[]", "watch.sample_every_minutes=0",
        f"watch.log_every={max(1, steps // LOGS)}", f"watch.validate_every={max(1, steps // VALIDATIONS)}", *overrides,
    )  # fmt: skip
    words = (word for setting in settings for word in ("--set", setting))
    return ["training.train", "--resume", "--config", *plan.command, *words]


def scoring(run: Run, plan: AblationPlan, out: Path, options: Sequence[str] = ()) -> list[str]:
    """The arguments of `python -m` that score a trained run. options: further ones."""
    folder = out / run.name
    tasks = ("--tasks", *plan.tasks) if plan.tasks else ()
    return [
        "training.evaluate", "run", "--model", str(folder), "--cases", plan.cases, "--per-task", str(plan.per_task),
        *tasks, "--work", str(folder / CASES), "--out", str(folder / SCORES), "--sheets", "0", *options,
    ]  # fmt: skip


def start(command: Sequence[str]) -> int:
    """Run `python -m` with these arguments; returns its exit status."""
    return subprocess.run([sys.executable, "-m", *command], check=False).returncode


def train_and_score(run: Run, plan: AblationPlan, out: Path, options: Sequence[str]) -> None:
    """Train and score what is not done yet. options: of the scoring. Raises ConfigError when a command fails, or was
    told to end."""
    for folder, command in trainings(run, plan, out):
        if not (folder / INDEX_FILE).is_file() and (start(command) or not (folder / INDEX_FILE).is_file()):
            raise ConfigError(f"the training of {folder} did not end, for the reason above: the same command goes on")
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    lines = plan.lines()
    if len(scores_of(run, lines, out)) < len(lines) and start(scoring(run, plan, out, options)):
        raise ConfigError(f"the scoring of {run.name} did not end, for the reason above: the same command goes on")


def scores_of(run: Run, lines: Sequence[CaseLine], out: Path) -> dict[str, Any]:
    """The scores of those cases that have one, by their ids."""
    found = {line.id: finished(out / run.name / CASES, line) for line in lines}
    return {name: score for name, score in found.items() if score is not None}
