"""The configuration of a run, one YAML file: every key, section by section, with its meaning."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from training.closed_yaml import read_yaml
from training.values import Count, FileName, Frames, NonNegative, Number, Positive, Seed, Share, ShareBelowOne, Text

Stage = Literal["vae", "tower", "pretrain", "sft", "lora"]

CLOSED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Refuses values of another type and unknown keys. Bounds are checked in Python as well, by `replace` too."""


@dataclass(frozen=True, config=CLOSED)
class RenderedConfig:
    """Pairs drawn by `training.synth`, encoded once and drawn often in other pairs, wordings and noise."""

    pack: Text = "data/pack"
    frames: Frames = 17
    groups: Number = 0
    """Scenes to render and encode before training (0: as many as fit into `encode_minutes`)."""
    encode_minutes: Positive = 2.0
    capacity_groups: Count = 2000
    """Scenes held on each device (about 4 MB each); when they are all there, a new one replaces the oldest."""
    refresh_per_step: NonNegative = 0.0
    """New scenes rendered and encoded in each training step, a whole number or a share of one (0: never)."""
    cache: str = ""
    """Folder that keeps the scenes encoded before the first step (about 4 MB each), for later runs on the same data and
    seed; empty: encode every time."""
    paraphrases: Count = 6
    """Wordings drawn for each pair of clips."""
    pretext_share: Share = 0.15
    """Share of training samples that restore a perturbed clip instead of following an instruction."""
    image_share: Share = 0.8
    """Stage `pretrain`: share of batches that are image edits, which are first frames of pairs; the others restore
    perturbed clips (paper: 448 images beside 112 videos)."""
    image_batch: Number = 0
    """Samples of a micro-step of images in stage `pretrain` (0: as many as clips). An image has about a quarter of the
    tokens of 17 frames."""
    task_weights: dict[str, NonNegative] = field(default_factory=dict)
    """How often each editing task is drawn, relative to 1."""


@dataclass(frozen=True, config=CLOSED)
class SetConfig:
    """One data set on disk."""

    manifest: Text
    """A .jsonl or .csv file, or WebDataset shards (`shards/{000..127}.tar`)."""
    adapter: Text = "pairs"
    """How its rows are read: `pairs` (source_video, target_video, prompt and the usual aliases), `clips` (video and
    caption, for the pretext tasks), or a published set's name: see `training.data.files.adapters`."""
    root: str = ""
    """Folder that the manifest's paths are relative to (default: the manifest's own)."""
    weight: NonNegative = 1.0
    """How often its samples are drawn, relative to their number."""
    length_tolerance: Share = 0.1
    """Largest difference of a pair's lengths, relative to the longer; pairs that differ more are dropped. Clips that
    correspond from the beginning, one of which goes on, need more."""


@dataclass(frozen=True, config=CLOSED)
class ManifestConfig:
    """Pairs, image pairs and clips from files, in buckets of aspect ratio and frames."""

    sets: tuple[SetConfig, ...] = ()
    buckets: Literal["tiny", "official"] = "official"
    """Sizes: those of the embedded model, or the released model's fifteen."""
    frames: Annotated[tuple[Frames, ...], Field(min_length=1)] = (1, 17, 33, 49, 81)
    """Frame counts of the form 4k+1; a clip goes to the largest that it fills."""
    image_batch: Count = 4
    """Images a process and micro-step; the batch of a video bucket follows from `cost_bound`."""
    video_batch: Count = 1
    """Clips of the largest video bucket a process and micro-step; smaller buckets take more at the same cost."""
    image_share: Share = 0.8
    """Share of samples that are images (paper: 448 of 560). Every process has the same kind in one micro-step."""
    token_bound: Positive = 1.5
    """No batch of clips holds more than this many times the tokens of the largest bucket's: memory grows with tokens,
    not with cost."""
    fps: NonNegative = 0.0
    """Frames per second at which clips are seen (0: each clip's own)."""
    extract: Literal["head", "uniform"] = "head"
    """Which frames of a longer clip: the first ones, or ones spread evenly over it."""
    cache: str = ""
    """Folder for encoded latents and text states, keyed by content (empty: encode every time)."""


@dataclass(frozen=True, config=CLOSED)
class DataConfig:
    """Where samples come from."""

    source: Literal["rendered", "manifest"] = "rendered"
    workers: Number = 8
    """Processes that read or draw samples, for each training process."""
    text_dropout: Share = 0.1
    """Share of instructions replaced by the bare prefix, for guidance."""
    rendered: RenderedConfig = RenderedConfig()
    manifest: ManifestConfig = ManifestConfig()


@dataclass(frozen=True, config=CLOSED)
class OptimiserConfig:
    """The optimisers and their one schedule: warm-up, plateau, linear fall to zero."""

    name: Literal["muon", "adamw"] = "muon"
    """`muon`: Muon for matrices, AdamW for everything else; `adamw`: AdamW for everything, sharded weights too."""
    learning_rate: Positive = 2e-3
    """Learning rate of Muon; with `name: adamw`, of AdamW (paper: 2e-5)."""
    adam_learning_rate: Positive = 1e-3
    """Learning rate of AdamW where Muon trains the matrices."""
    weight_decay: NonNegative = 0.01
    warmup_steps: Number = 100
    decay_share: Share = 0.4
    """The last part of the run, over which the rate falls to zero."""
    clip_norm: Positive = 1.0
    ema_decay: ShareBelowOne = 0.9998


@dataclass(frozen=True, config=CLOSED)
class ObjectiveConfig:
    """Flow matching plus L1 on the anchors (paper, section 3.2)."""

    semantic_weight: NonNegative = 0.1
    """0 trains without anchors: the model sees none."""
    edit_weight: Positive = 1.0
    """Weight of latent positions where source and target differ; 1 is the paper's plain mean."""
    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    """Distribution of noise levels before the shift, stratified over the batch."""
    sigma_shift: Positive = 3.0
    """Noise levels are shifted towards noise: s u / (1 + (s - 1) u)."""
    pretext: bool = True
    """Motion pretext tasks in stage `pretrain` (and in rendered data by `pretext_share`)."""


@dataclass(frozen=True, config=CLOSED)
class DistillConfig:
    """Fewer evaluations at inference: the model learns to sample in `steps` steps without guidance what its frozen
    teacher, the weights that training starts from, samples with it. See `training.stages.distill`."""

    steps: Number = 0
    """Denoising steps of the student, at the noise levels of inference; 0: no distillation."""
    substeps: Count = 2
    """Steps that the teacher takes for one of the student's."""
    guidance: Positive = 2.0
    """The teacher's guidance scale."""
    truth_weight: Share = 0.0
    """How far the target of `truth_tasks` is moved from the teacher's velocity to the one that leads to the drawn
    truth."""
    truth_tasks: tuple[str, ...] = ()
    """Tasks of drawn data whose truth is the only right answer. Of files, every pair is taken for such a one."""


@dataclass(frozen=True, config=CLOSED)
class ParallelConfig:
    """How several processes share the work."""

    weights: Literal["auto", "replicate", "shard"] = "auto"
    """`replicate` is DDP, `shard` is FSDP2; auto: DDP for LoRA and small models, FSDP2 for the rest."""
    sequence: Count = 1
    """Processes that share one long sequence; divides the number of processes and the attention heads."""
    checkpointing: Literal["none", "full", "offload", "attention", "attention_offload"] = "none"
    """Activations: kept, recomputed, or recomputed with the blocks' inputs kept in host memory; `attention` keeps the
    attention's output on the device as well, whose recomputation is most of a long clip's."""
    checkpoint_every: Count = 1
    """Recompute every n-th block only."""


@dataclass(frozen=True, config=CLOSED)
class SaveConfig:
    """How often the whole state is written to `output`/checkpoints."""

    minutes: NonNegative = 10.0
    steps: Number = 0
    """0: by minutes alone."""
    keep: Count = 2
    """The newest checkpoints that stay."""


@dataclass(frozen=True, config=CLOSED)
class GuardConfig:
    """Limits on non-finite values, at which a run ends. A step whose gradients are not finite is skipped; a sample
    whose latents, anchors or text states are not finite is not trained on."""

    window: Count = 100
    """The last steps, and the last samples, that are looked at."""
    max_skipped_share: Share = 0.25
    """More of them than this (of the whole window; at a run's end, of the steps that there were) end the run with exit
    status 2, without a checkpoint or an export. 1: never."""


@dataclass(frozen=True, config=CLOSED)
class LoraConfig:
    """A low-rank adapter on the transformer."""

    rank: Count = 16
    alpha: Positive = 16.0
    dropout: ShareBelowOne = 0.0
    added_modules: bool = False
    """Also adapt the semantic projector and head."""
    name: FileName = ""
    """Name of the file that is written, without suffix (default: that of the output folder)."""
    trigger: str = ""
    """An instruction that asks for what was learned; stored in the file, and offered by the app."""
    stored: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in the file."""


@dataclass(frozen=True, config=CLOSED)
class WatchConfig:
    """Measurements during the run: tracking, validation losses, grids of samples."""

    log_every: Count = 20
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ("tensorboard",)
    """Beside the local `metrics.jsonl`, which is always written."""
    validate_every: Number = 0
    """Steps between losses on held-out samples at fixed noise and noise levels (0: never)."""
    validation_samples: Count = 8
    validation_manifest: str = ""
    """Pairs that are not trained on, in the columns of the adapter `pairs` (default: drawn ones that are held out; with
    `data.source: manifest` there are none)."""
    sample_every_minutes: NonNegative = 0.0
    """Grids of source, target, raw and averaged samples (0: never)."""
    sample_count: Count = 4
    sample_steps: Count = 10
    sample_seconds: NonNegative = 60.0
    """A grid stops after this long and shows what it has."""


_NOT_DECIDING: Mapping[str, tuple[str, ...]] = {
    "": ("output", "save", "watch", "guard", "deterministic", "max_steps", "max_minutes"),
    "data": ("workers",),
    "data.rendered": ("cache",),
    "data.manifest": ("cache",),
    "parallel": ("checkpointing", "checkpoint_every"),  # the same numbers, computed again
    "lora": ("name", "trigger", "stored"),
}
"""Keys by section that do not change what a step computes."""


@dataclass(frozen=True, config=CLOSED)
class TrainConfig:
    """One run."""

    stage: Stage
    output: Text
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of the model class that the stage trains. Empty with `start_from_base`: the base's own."""
    base: Text = "assets/sama-tiny"
    """Folder or Hub name with the frozen parts of the pipeline (`vae`, `text_encoder`, `tokenizer`)."""
    tower: str = ""
    """Folder or Hub name of the SigLIP tower that makes the anchors (default: `base`/semantic_tower)."""
    start_from_base: bool = False
    """Start the transformer from `base`/transformer instead of random weights."""
    start_from: str = ""
    """Start the transformer from this file, folder or Hub name: ours, official, or a base Wan2.1 checkpoint."""
    seed: Seed = 0
    batch_size: Count = 16
    """Samples a process and micro-step (rendered data; manifests set theirs by cost)."""
    accumulate: Count = 1
    """Micro-steps of one optimiser step. A run that goes on with another number of processes may change it."""
    max_steps: Count = 1000
    """End after so many steps. A run may be resumed with another length: see `docs/training.md`."""
    max_minutes: NonNegative = 0.0
    """End, with the schedule run to its end, after this many minutes (0: by steps alone)."""
    float8_share: Share = 0.0
    """The last part of the run goes through the float8 rounding of the stored weights (embedded model)."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: bool = False
    deterministic: bool = False
    """Kernels that give the same bits every time, on a GPU too, so that a resumed run repeats an untouched one exactly.
    Slower; the CPU is exact in any case."""
    data: DataConfig = DataConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    distill: DistillConfig = DistillConfig()
    parallel: ParallelConfig = ParallelConfig()
    save: SaveConfig = SaveConfig()
    guard: GuardConfig = GuardConfig()
    lora: LoraConfig = LoraConfig()
    watch: WatchConfig = WatchConfig()

    def plain(self) -> dict[str, Any]:
        """All keys and values, in types of JSON and YAML."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    def deciding(self) -> dict[str, Any]:
        """All keys and values that decide what a step computes: not when the run ends, where it is written or how it is
        watched."""
        return deciding(self.plain())

    def fingerprint(self) -> str:
        """A hash of `deciding`."""
        return hashlib.sha256(json.dumps(self.deciding(), sort_keys=True).encode()).hexdigest()[:16]


def deciding(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration's keys and values (`TrainConfig.plain`) that decides what a step computes."""
    kept: dict[str, Any] = copy.deepcopy(dict(values))
    for section, names in _NOT_DECIDING.items():
        place = kept
        for key in filter(None, section.split(".")):
            place = place[key]
        for name in names:
            place.pop(name, None)
    return kept


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a run's YAML file and apply `a.b=value` overrides. Raises ConfigError naming the key at fault."""
    return read_yaml(TrainConfig, path, overrides)
