"""The functions of the app's API and of its MCP server, with the checks and limits of the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from sama.edit.request import DETAIL, KEEP_SOURCE, EditRequest
from sama.model.pretext import PRETEXT_TASKS
from sama.presets import QUALITIES
from sama.video import write_clip
from ui import text
from ui.errors import PromptError, sentence
from ui.fields import Fields, choice, number_in, whole_number
from ui.jobs.jobs import GPU, Edited, Jobs, JobStep, Restoration, Restored
from ui.media.clips import PageClip, take_upload
from ui.media.folders import keep, new_folder, remove
from ui.media.limits import GUIDANCE, MAX_SEED, STEPS, checked_instruction
from ui.media.masks import beside, take_mask
from ui.media.runs import add_notices
from ui.media.tokens import Tokens
from ui.plan_text import told
from ui.repair.damage import Break, damage
from ui.repair.numbers import scores

TASKS = list(PRETEXT_TASKS)
_QUALITIES = ["default", *QUALITIES]
_LAST_FRAME = 2**31 - 1
_STRONGEST = max(strength for task in PRETEXT_TASKS.values() for strength in task.strengths)


class Api:
    """One method per function of the API; failures reach the caller as one sentence."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def edit_video(
        self, video: str, instruction: str, start: int = 0, frames: int = 0, seed: int = 0, steps: int = 0,
        guidance: float = 0.0, keep_source: str = "auto", detail: str = "auto", mask: str | None = None,
        quality: str = "default",
    ) -> Iterator[tuple[str | None, str | None, str]]:  # fmt: skip
        """Edit a video by an instruction, keeping its motion, length, frame rate, size and sound.

        Args:
            video: the clip: a file of up to 50 MB and 30 seconds, or its public address.
            instruction: what should change, for example "Make it snowy"; 3 to 600 characters.
            start: first frame of the part to edit.
            frames: how many frames to edit; 0 for as many as the limit allows.
            seed: 0 to 2147483647; the same seed gives the same video.
            steps: denoising steps, 1 to 50; 0 for the model's default.
            guidance: how strongly the instruction steers, 1 to 10; 0 for the model's default.
            keep_source: "auto", "on" or "off": whether unchanged places keep the source's own pixels.
            detail: "auto", "on" or "off": whether the edit gets the source's fine detail.
            mask: a picture or a clip that is white where the edit may show; the source stays elsewhere.
            quality: "fast", "balanced", "best" or "default": steps and guidance that are not given, and the scheduler.

        Returns:
            The edited video, the settings that repeat it (JSON), and the state of the run in words.
        """
        try:
            request = self._request(instruction, start, frames, seed, steps, guidance, quality, keep_source, detail)
            with _at_work(video) as (clip, folder):
                request = replace(request, video=clip.path, output=folder / "result.mp4")
                if mask:
                    request = replace(request, mask=beside(taken := take_mask(mask), folder))
                    remove(taken.parent)
                for event in self.jobs.edit(request):
                    keep([folder, clip.path])
                    if isinstance(event, Edited):
                        said = text.outcome(add_notices(folder / "result.json", clip.notices))
                        yield str(folder / "result.mp4"), str(folder / "result.json"), " ".join(["Done.", *said])
                    else:
                        yield None, None, text.state(event)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def plan_of(
        self, video: str, instruction: str = "", settings: str | None = None, start: int = 0, seed: int = 0,
        steps: int = 0, guidance: float = 0.0,
    ) -> Iterator[tuple[str | None, dict[str, Any] | None, str]]:  # fmt: skip
        """Tell how the model plans an edit: its semantic anchor tokens at every step, and where they change a picture.

        Args:
            video: the clip: a file of up to 50 MB and 30 seconds, or its public address.
            instruction: what should change; may be empty if `settings` are given.
            settings: the settings of a finished edit of this clip (JSON): its plan is repeated, with its own numbers.
            start: first frame; the plan is of this frame.
            seed: 0 to 2147483647.
            steps: denoising steps, 1 to 50; 0 for the model's default.
            guidance: how strongly the instruction steers, 1 to 10; 0 for the model's default.

        Returns:
            The tokens (NumPy .npz: plan of every step, source, result), the region as numbers, and the state in words.
        """
        try:
            if settings:
                request = self._repeated(Path(settings))
            else:
                request = self._request(instruction, start, 0, seed, steps, guidance, "default")
            with _at_work(video) as (clip, folder):
                request = replace(request, video=clip.path, output=folder / "result.mp4")
                window = self.jobs.first_window(request)
                for event in self.jobs.edit(replace(request, frames=window)):
                    keep([folder, clip.path])
                    if isinstance(event, JobStep):
                        yield None, None, text.state(event)
                    elif event.tokens is None or event.tokens.source is None:
                        raise PromptError(text.NO_PLAN)
                    else:
                        event.tokens.save(folder / "plan.npz")
                        (folder / "result.mp4").unlink()
                        yield str(folder / "plan.npz"), _facts_of(event.tokens, request), "Done."
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def corrupt_clip(
        self, video: str, task: str = "cube", start: int = 0, seed: int = 0, strength: float = 0.0
    ) -> tuple[str, dict[str, Any]]:
        """Damage a clip as a motion pretext task does in training. Needs no model.

        Args:
            video: the clip: a file or its public address; up to 17 frames from `start` are used.
            task: "cube" (frames hidden in grey), "speed" (twice as fast) or "tube" (blocks shuffled).
            start: first frame.
            seed: of the damage, 0 to 2147483647.
            strength: cube: the share of the frames, 0.1 to 0.6; speed: how many times as fast, 2 to 4; tube: how many
                of the 8 blocks move, 2 to 8. 0 for that of training: 0.3, 2, 8.

        Returns:
            The damaged clip, and what was done to it in numbers.
        """
        try:
            task, start = choice("task", task, TASKS), whole_number("start", start, 0, _LAST_FRAME)
            seed = whole_number("seed", seed, 0, MAX_SEED)
            choice_made = Break.of(task, start, seed, number_in("strength", strength, 0, _STRONGEST))
            with _at_work(video) as (clip, folder):
                damaged = damage(clip, choice_made, self.jobs.settings.preset)
                write_clip(folder / "given.mp4", damaged.given, clip.fps)
            return str(folder / "given.mp4"), damaged.detail
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def restore_clip(
        self, video: str, task: str = "cube", caption: str = "", start: int = 0, seed: int = 0, steps: int = 0,
        strength: float = 0.0,
    ) -> Iterator[tuple[str | None, dict[str, float] | None, str]]:  # fmt: skip
        """Damage a clip as `corrupt_clip` does and let the model restore it.

        Args:
            video: the clip: a file or its public address; up to 17 frames from `start` are used.
            task: "cube" (frames hidden in grey), "speed" (twice as fast) or "tube" (blocks shuffled).
            caption: what the clip shows; may be empty.
            start: first frame.
            seed: of the damage and of the restoration, 0 to 2147483647.
            steps: denoising steps, 1 to 50; 0 for the model's default.
            strength: of the damage, as for `corrupt_clip`; 0 for that of training.

        Returns:
            The restored clip, the PSNR in dB of the given clip, of the restored one and of what the model's autoencoder
            makes of the clean one (hidden part, outside it, overall), and the state in words.
        """
        try:
            task, start = choice("task", task, TASKS), whole_number("start", start, 0, _LAST_FRAME)
            seed, count = whole_number("seed", seed, 0, MAX_SEED), whole_number("steps", steps, 0, STEPS[1])
            words = checked_instruction(caption) if len(str(caption or "").strip()) > 2 else str(caption or "").strip()
            choice_made = Break.of(task, start, seed, number_in("strength", strength, 0, _STRONGEST))
            with _at_work(video) as (clip, folder):
                damaged = damage(clip, choice_made, self.jobs.settings.preset)
                order = Restoration(damaged.given, damaged.prefix, words, seed, count or None, clean=damaged.clean)
                for event in self.jobs.restore(order):
                    keep([folder, clip.path])
                    if isinstance(event, Restored):
                        write_clip(folder / "restored.mp4", event.frames, clip.fps)
                        yield str(folder / "restored.mp4"), scores(damaged, event.frames, event.ceiling), "Done"
                    else:
                        yield None, None, text.state(event)
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def _request(
        self, instruction: Any, start: Any, frames: Any, seed: Any, steps: Any, guidance: Any, quality: Any,
        keep_source: Any = KEEP_SOURCE[0], detail: Any = DETAIL[0],
    ) -> EditRequest:  # fmt: skip
        """The request of a call, without its files. Raises PromptError for a value that cannot be used."""
        most, quality = self.jobs.settings.info.max_frames, choice("quality", quality, _QUALITIES)
        return EditRequest(
            video="", instruction=checked_instruction(instruction), output="", preset=self.jobs.settings.preset,
            seed=whole_number("seed", seed, 0, MAX_SEED),
            steps=whole_number("steps", steps, 0, STEPS[1]) or None,
            guidance=number_in("guidance", guidance, 0, GUIDANCE[1]) or None,
            start=whole_number("start", start, 0, _LAST_FRAME),
            frames=min(whole_number("frames", frames, 0, _LAST_FRAME) or most, most),
            keep_source=choice("keep_source", keep_source, list(KEEP_SOURCE)),
            detail=choice("detail", detail, list(DETAIL)), device=self.jobs.settings.device,
            quality=None if quality == "default" else quality,
        )  # fmt: skip

    def _repeated(self, file: Path) -> EditRequest:
        """The request of a finished edit, from its settings file. Raises PromptError for another file."""
        try:
            stored = json.loads(file.read_text("utf-8"))
            values = [stored.get(name) or 0 for name in ("start", "frames", "seed", "steps", "guidance")]
            words = stored["instruction"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PromptError("The settings are not those of an edit; send the JSON file that came with it.") from None
        start, frames, seed, steps, guidance = values
        return self._request(words, start, frames, seed, steps, guidance, "default")


def add_api(jobs: Jobs) -> None:
    """Add the functions to the app, on hidden components, whose files gradio takes and checks."""
    api = Api(jobs)
    with gr.Column(visible=False):
        trigger = gr.Button("API")
        result, repeat, state = gr.Video(label="edited"), gr.File(label="settings"), gr.Textbox(label="state")
        given, done = gr.Video(label="given"), gr.JSON(label="detail")
        restored, psnr = gr.Video(label="restored"), gr.JSON(label="psnr")
        tokens, region = gr.File(label="tokens"), gr.JSON(label="region")
        at_work: dict[str, Any] = {"concurrency_id": GPU, "concurrency_limit": jobs.at_once, "show_progress": "hidden"}
        of = Fields(api.edit_video)
        trigger.click(
            api.edit_video,
            [
                of.video("video"), of.words("instruction", "Make it snowy"), of.number("start"),
                of.number("frames", 0, 17), of.number("seed"), of.number("steps"), of.number("guidance", 0.0),
                of.choice("keep_source", list(KEEP_SOURCE), "auto"), of.choice("detail", list(DETAIL), "auto"),
                of.file("mask"), of.choice("quality", _QUALITIES, "default"),
            ],
            [result, repeat, state], api_name="edit_video", **at_work,
        )  # fmt: skip
        of = Fields(api.plan_of)
        trigger.click(
            api.plan_of,
            [
                of.video("video"), of.words("instruction", "Make it snowy", ""), of.file("settings"),
                of.number("start"), of.number("seed"), of.number("steps"), of.number("guidance", 0.0),
            ],
            [tokens, region, state], api_name="plan_of", **at_work,
        )  # fmt: skip
        of = Fields(api.corrupt_clip)
        trigger.click(
            api.corrupt_clip,
            [
                of.video("video"), of.choice("task", TASKS, TASKS[0]), of.number("start"), of.number("seed"),
                of.number("strength", 0.0),
            ],
            [given, done], api_name="corrupt_clip", show_progress="hidden",
        )  # fmt: skip
        of = Fields(api.restore_clip)
        trigger.click(
            api.restore_clip,
            [
                of.video("video"), of.choice("task", TASKS, TASKS[0]), of.words("caption", "A rabbit in a meadow", ""),
                of.number("start"), of.number("seed"), of.number("steps"), of.number("strength", 0.0),
            ],
            [restored, psnr, state], api_name="restore_clip", **at_work,
        )  # fmt: skip


def _facts_of(tokens: Tokens, request: EditRequest) -> dict[str, Any]:
    """Facts about a plan: its region (8 x 8, rows from the top: 0 stays, up to 2), how soon it stood, and a sentence.

    The region is None for a model whose tokens have no place.
    """
    from ui.media.plan import PlanFacts

    facts = PlanFacts.of(tokens)
    return {
        "region": facts.planned[-1].reshape(8, 8).astype(float).round(3).tolist() if tokens.ordered else None,
        "steps": len(facts.planned),
        "like_the_last_step": facts.settled.astype(float).round(3).tolist(),
        "told": told(facts),
        "frame": request.start,
        "seed": request.seed,
    }


@contextmanager
def _at_work(video: str | None) -> Iterator[tuple[PageClip, Path]]:
    """A call's clip, which is removed at the end, and the folder of its result, which stays unless the call fails or is
    stopped."""
    if not video:
        raise PromptError("Send a video.")
    clip, folder = take_upload(video, once=False), new_folder()
    try:
        yield clip, folder
    except BaseException:
        remove(folder)
        raise
    finally:
        remove(clip.path.parent)
