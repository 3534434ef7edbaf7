"""Ways to join the windows of a long clip, for measuring them beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from training.evaluation.seam_figures import Clip

if TYPE_CHECKING:
    from torch import Tensor

    from sama.pipeline import SamaPipeline

METHODS = {
    "apart": "each window by itself, from the same noise: a fade is all that joins them",
    "held": "shared frames held at what the earlier window made of them, encoded anew as the start of a clip",
    "continued": "of the shared frames, the first held as before and the others at the earlier window's own latents; "
    "source and result are encoded and decoded after those of the window before, as parts of one clip",
    "free": "the same, and the first latent frame, which is not shown, is not held",
}
_CONTINUED = ("continued", "free")


class Recorded:
    """A pipeline that joins windows by a method of `METHODS` and keeps what each window of one edit decodes to,
    `windows`."""

    def __init__(self, pipeline: SamaPipeline, method: str) -> None:
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        self._pipeline, self._method = pipeline, method
        self._noise: Any = None
        self._frames: list[Any] = [None, None]  # of the source, in the window before and this one
        self._latents: list[Any] = [None, None]  # of source and result, in the latest window
        self._before: list[Any] = [None, None]  # the same, in the window before
        self._asked: Any = None
        self._shared = 0  # latent frames
        self.windows: list[Clip] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def encode_video(self, frames: Tensor) -> Tensor:
        self._frames[1] = frames  # the last ones before `stream` are the source's
        return self._pipeline.encode_video(frames)

    def stream(self, **values: Any) -> Iterator[Any]:
        from sama.pipeline import SamaPipelineOutput

        if self._noise is None:
            self._noise = values["latents"]
        self._asked = values["source_latents"]
        hold = values.get("callback_on_step_end")
        if self._method == "apart":
            values = {key: value for key, value in values.items() if not key.startswith("callback_")}
            values["latents"] = self._noise
        elif self._method in _CONTINUED and hold is not None:
            self._shared = hold.known.shape[2]
            values |= self._continuing(hold)
        self._frames = [self._frames[1], None]
        for event in self._pipeline.stream(**values):
            if isinstance(event, SamaPipelineOutput):
                self._before, self._latents = self._latents, [values["source_latents"], event.frames]
            yield event

    def _continuing(self, hold: Any) -> dict[str, Any]:
        """Arguments that hold the shared frames at the latents of the window before, which stay its own."""
        import torch

        from sama.edit.windows import Hold

        shared, given = self._shared, self._asked
        before, now = self._frames
        together = torch.cat([before, now[:, 4 * (shared - 1) + 1 :]], dim=1)
        source, own = (latents[:, :, latents.shape[2] - shared + 1 :] for latents in self._latents)
        added = self._pipeline.encode_video(together)[:, :, shared - given.shape[2] :]
        source = torch.cat([given[:, :, :1], source, added], dim=2)
        if self._method == "free":
            held = Hold(own, hold.noise[:, :, 1:], hold.levels, first=1)
        else:
            held = Hold(torch.cat([hold.known[:, :, :1], own], dim=2), hold.noise, hold.levels)
        return {"source_latents": source, "callback_on_step_end": held}

    def decode_latents(self, latents: Tensor) -> Any:
        if latents is self._latents[1]:
            frames = self._decoded(1)
            self.windows.append((frames[0] * 255).round().byte().cpu().numpy())
            return frames
        if latents is self._asked and self._latents[0] is not None:
            return self._decoded(0)
        return self._pipeline.decode_latents(latents)

    def _decoded(self, stream: int) -> Tensor:
        """The latest window, decoded after the one before."""
        import torch

        latents, before = self._latents[stream], self._before[stream]
        if before is None or not self._shared:
            return self._pipeline.decode_latents(latents)
        together = torch.cat([before, latents[:, :, self._shared :]], dim=2)
        return self._pipeline.decode_latents(together)[:, -(4 * (latents.shape[2] - 1) + 1) :]
