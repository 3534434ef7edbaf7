"""What a visitor asks for: the values of the form as one object, and the edit that they name."""

from __future__ import annotations

import filecmp
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sama.edit.request import DETAIL, KEEP_SOURCE, EditRequest
from ui import text
from ui.errors import PromptError
from ui.media.clips import PageClip
from ui.media.limits import MAX_SEED, checked_instruction
from ui.media.masks import beside
from ui.media.runs import FinishedEdit
from ui.settings import Settings

WHEN = {"Automatic": "auto", "Always": "on", "Never": "off"}
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|'[^']*'")
_ESTIMATED = "estimate"  # an instruction of no estimate's concern


@dataclass(frozen=True)
class Choices:
    """The values of the form. start, frames: the part of the clip, in frames. keep_source, detail: keys of WHEN.
    mask: a checked file."""

    clip: PageClip | None = None
    instruction: str = ""
    start: int = 0
    frames: int = 1
    seed: int = 0
    steps: int = 1
    guidance: float = 1.0
    keep_source: str = "Automatic"
    detail: str = "Automatic"
    lora: str = text.NO_LORA
    strength: float = 1.0
    mask: Path | None = None
    quality: str | None = None

    def check(self) -> str:
        """The instruction, ready for the model. Raises PromptError for what can be refused without the model."""
        if self.clip is None:
            raise PromptError(text.NO_CLIP)
        instruction = checked_instruction(self.instruction)
        if "…" in _QUOTED.sub("", instruction):
            raise PromptError(text.TEMPLATE)
        return instruction

    def request(self, settings: Settings, folder: Path) -> EditRequest:
        """The edit, to be written into a folder; a mask is copied there. Raises PromptError."""
        return self._request(settings, self.check(), folder, beside(self.mask, folder))

    def estimated(self, settings: Settings) -> EditRequest | None:
        """The edit as an estimate needs it, whatever the words are; None without a clip."""
        return None if self.clip is None else self._request(settings, _ESTIMATED, Path(), None)

    def repeats(self, edit: FinishedEdit | None, settings: Settings) -> bool:
        """Whether this asks for a finished edit once more: same clip and part, words, settings and seed."""
        if edit is None or self.clip is None or self.mask is not None or edit.settings.get("mask"):
            return False
        request = self._request(settings, " ".join(self.instruction.split()), Path(), None)
        told = edit.settings
        lora = [Path(spec).name for spec in request.lora]
        wanted = (request.instruction, request.seed, request.steps, request.guidance, request.keep_source,
                  request.detail, request.start, request.frames, request.quality, lora)  # fmt: skip
        made = (edit.instruction, told.get("seed"), told.get("steps"), told.get("guidance"), told.get("keep_source"),
                told.get("detail", DETAIL[0]), edit.start, edit.frames, told.get("quality") or request.quality,
                told.get("lora", []))  # fmt: skip
        with suppress(OSError):  # one of the files is gone
            return wanted == made and filecmp.cmp(self.clip.path, edit.source, shallow=False)
        return False

    def _request(self, settings: Settings, instruction: str, folder: Path, mask: Path | None) -> EditRequest:
        assert self.clip is not None
        chosen = settings.loras.get(self.lora)
        start = min(int(self.start), self.clip.frames - 1)
        return EditRequest(
            video=self.clip.path,
            instruction=instruction,
            output=folder / "result.mp4",
            preset=settings.preset,
            seed=min(MAX_SEED, max(0, int(self.seed or 0))),
            steps=int(self.steps),
            guidance=float(self.guidance),
            start=start,
            frames=max(1, min(int(self.frames), settings.info.max_frames, self.clip.frames - start)),
            keep_source=WHEN.get(self.keep_source, KEEP_SOURCE[0]),
            detail=WHEN.get(self.detail, DETAIL[0]),
            device=settings.device,
            lora=() if chosen is None else (chosen.spec(self.strength),),
            mask=mask,
            quality=self.quality,
        )
