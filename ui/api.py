"""The functions of the app's API, with the checks and limits of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from sama.edit.request import EditRequest
from sama.model.pretext import PRETEXT_TASKS
from sama.presets import QUALITIES
from sama.video import write_clip
from ui import text
from ui.errors import PromptError, sentence
from ui.jobs.jobs import GPU, Edited, Jobs, Restoration, Restored
from ui.media.clips import PageClip, take_upload
from ui.media.folders import keep, new_folder
from ui.media.limits import GUIDANCE, MAX_SEED, PROMPT_LENGTH, STEPS, checked_instruction
from ui.media.masks import beside, take_mask
from ui.media.runs import add_notices
from ui.repair.damage import Break, damage
from ui.repair.numbers import scores

TASKS = list(PRETEXT_TASKS)


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
            video: the clip, up to 50 MB and 30 seconds.
            instruction: what should change, for example "Make it snowy"; 3 to 600 characters.
            start: first frame of the part to edit.
            frames: how many frames to edit; 0 for as many as the limit allows.
            seed: the same seed gives the same video.
            steps: denoising steps; 0 for the model's default.
            guidance: how strongly the instruction steers, 1 to 10; 0 for the model's default.
            keep_source: "auto", "on" or "off": whether unchanged places keep the source's own pixels.
            detail: "auto", "on" or "off": whether the edit gets the source's fine detail.
            mask: a picture or a clip that is white where the edit may show; the source stays elsewhere.
            quality: "fast", "balanced", "best" or "default": steps and guidance that are not given, and the scheduler.

        Returns:
            The edited video, the settings that repeat it (JSON), and the state of the run in words.
        """
        try:
            clip, folder = _clip(video), new_folder()
            limit = self.jobs.settings.info.max_frames
            request = EditRequest(
                video=clip.path, instruction=checked_instruction(instruction), output=folder / "result.mp4",
                preset=self.jobs.settings.preset, seed=int(seed), steps=int(steps) or None, guidance=guidance or None,
                start=int(start), frames=min(int(frames) or limit, limit), keep_source=keep_source,
                detail=detail,
                mask=beside(take_mask(mask), folder) if mask else None,
                quality=None if quality == "default" else quality,
            )  # fmt: skip
            for event in self.jobs.edit(request):
                keep([folder, clip.path])
                if isinstance(event, Edited):
                    said = text.outcome(add_notices(folder / "result.json", clip.notices))
                    yield str(folder / "result.mp4"), str(folder / "result.json"), " ".join(["Done.", *said])
                else:
                    yield None, None, f"{text.PHASES.get(event.phase, event.phase)} {event.step}/{event.steps}"
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def corrupt_clip(
        self, video: str, task: str = "cube", start: int = 0, seed: int = 0, strength: float = 0.0
    ) -> tuple[str, dict[str, Any]]:
        """Damage a clip as a motion pretext task does in training. Needs no model.

        Args:
            video: the clip; up to 17 frames from `start` are used.
            task: "cube" (frames hidden in grey), "speed" (twice as fast) or "tube" (blocks shuffled).
            start: first frame.
            seed: of the damage.
            strength: cube: the share of the frames, 0.1 to 0.6; speed: how many times as fast, 2 to 4; tube: how many
                of the 8 blocks move, 2 to 8. 0 for that of training: 0.3, 2, 8.

        Returns:
            The damaged clip, and what was done to it in numbers.
        """
        try:
            clip = _clip(video)
            damaged = damage(clip, Break.of(task, start, seed, strength), self.jobs.settings.preset)
            path = new_folder() / "given.mp4"
            write_clip(path, damaged.given, clip.fps)
            return str(path), damaged.detail
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    def restore_clip(
        self, video: str, task: str = "cube", caption: str = "", start: int = 0, seed: int = 0, steps: int = 0,
        strength: float = 0.0,
    ) -> Iterator[tuple[str | None, dict[str, float] | None, str]]:  # fmt: skip
        """Damage a clip as `corrupt_clip` does and let the model restore it.

        Args:
            video: the clip; up to 17 frames from `start` are used.
            task: "cube", "speed" or "tube".
            caption: what the clip shows; may be empty.
            start: first frame.
            seed: of the damage and of the restoration.
            steps: denoising steps; 0 for the model's default.
            strength: of the damage, as for `corrupt_clip`; 0 for that of training.

        Returns:
            The restored clip, the PSNR in dB of the given clip, of the restored one and of what the model's autoencoder
            makes of the clean one (hidden part, outside it, overall), and the state in words.
        """
        try:
            clip, folder = _clip(video), new_folder()
            damaged = damage(clip, Break.of(task, start, seed, strength), self.jobs.settings.preset)
            order = Restoration(
                damaged.given, damaged.prefix, caption.strip(), int(seed), int(steps) or None, clean=damaged.clean
            )
            for event in self.jobs.restore(order):
                keep([folder, clip.path])
                if isinstance(event, Restored):
                    write_clip(folder / "restored.mp4", event.frames, clip.fps)
                    yield str(folder / "restored.mp4"), scores(damaged, event.frames, event.ceiling), "Done"
                else:
                    count = f" {event.step}/{event.steps}" if event.steps else ""
                    yield None, None, text.PHASES.get(event.phase, event.phase) + count
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None


def add_api(jobs: Jobs) -> None:
    """Add the functions to the app, on hidden components: those check paths, ranges and choices on the server."""
    api = Api(jobs)
    with gr.Column(visible=False):
        video = gr.Video(label="video", sources=["upload"])
        instruction = gr.Textbox(label="instruction", max_length=PROMPT_LENGTH[1])
        caption = gr.Textbox("", label="caption", max_length=PROMPT_LENGTH[1])
        start = gr.Number(0, label="start", precision=0, minimum=0)
        frames = gr.Number(0, label="frames", precision=0, minimum=0)
        seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=MAX_SEED)
        strength = gr.Number(0, label="strength", minimum=0)
        steps = gr.Slider(0, STEPS[1], 0, step=1, label="steps")
        guidance = gr.Slider(0, GUIDANCE[1], 0, label="guidance")
        mask = gr.File(label="mask")
        keep = gr.Radio(["auto", "on", "off"], value="auto", label="keep_source")
        detail = gr.Radio(["auto", "on", "off"], value="auto", label="detail")
        quality = gr.Radio(["default", *QUALITIES], value="default", label="quality")
        task = gr.Radio(TASKS, value=TASKS[0], label="task")
        edited, restored, given = gr.Video(label="edited"), gr.Video(label="restored"), gr.Video(label="given")
        settings, state = gr.File(label="settings"), gr.Textbox(label="state")
        done, values = gr.JSON(label="detail"), gr.JSON(label="psnr")
        trigger = gr.Button("API")
        shared: dict[str, Any] = {"show_progress": "hidden"}
        trigger.click(
            api.edit_video, [video, instruction, start, frames, seed, steps, guidance, keep, detail, mask, quality],
            [edited, settings, state],
            api_name="edit_video", concurrency_id=GPU, concurrency_limit=jobs.at_once, **shared,
        )  # fmt: skip
        trigger.click(
            api.corrupt_clip, [video, task, start, seed, strength], [given, done], api_name="corrupt_clip", **shared
        )
        trigger.click(
            api.restore_clip, [video, task, caption, start, seed, steps, strength], [restored, values, state],
            api_name="restore_clip", concurrency_id=GPU, concurrency_limit=jobs.at_once, **shared,
        )  # fmt: skip


def _clip(video: str | None) -> PageClip:
    if not video:
        raise PromptError("Send a video.")
    return take_upload(video)
