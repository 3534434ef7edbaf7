"""The models that nodes hand on: a preset with its LoRAs, loaded when a node first needs it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sama.device.memory import MemoryMode
from sama.device.placement import place, placement_of, resolve_device
from sama.edit.request import check_lora, check_preset, check_ways, check_weights
from sama.errors import CheckpointError, EditError
from sama.loading import assemble, needs_gpu
from sama.presets import canvas_of
from sama.shapes import Canvas

from . import host

if TYPE_CHECKING:
    from sama.pipeline import SamaPipeline

Loras = tuple[tuple[str, float], ...]


@dataclass
class Weights:
    """The one pipeline of a loader node, shared by everything that is connected to it.

    preset: a name in `sama.presets.PRESETS`. folder: a saved pipeline in place of the preset's. file: a transformer in
    place of the released one. memory: one of `sama.device.memory.MEMORY_MODES`.
    Raises EditError for what is not there.
    """

    preset: str
    folder: str | None = None
    file: str | None = None
    memory: str = "auto"
    _pipeline: SamaPipeline | None = field(default=None, repr=False)
    _worn: Loras = ()
    _tenant: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_preset(self.preset)
        check_ways(self.memory, "off")
        if self.file is None:
            check_weights(self.preset, self.folder)

    def wearing(self, loras: Loras) -> SamaPipeline:
        """The pipeline with exactly these LoRAs, on ComfyUI's device. Raises EditError for files that do not fit."""
        try:
            self._wear(loras)
        except CheckpointError as error:
            raise EditError(str(error)) from error
        host.make_room(self._tenant)
        assert self._pipeline is not None
        return self._pipeline

    def _wear(self, loras: Loras) -> None:
        if self._pipeline is not None and self._worn != loras and not self._movable:
            self._unload()  # layers that are streamed or cast take no new adapters
        if self._pipeline is None:
            name = host.device()
            target = resolve_device(None if name == "cpu" else name, needs_gpu(self.preset, self.folder))
            self._pipeline = assemble(self.preset, target if name != "cpu" else name, self.folder, self.file)
            self._pipeline.set_progress_bar_config(disable=True)
            self._worn = ()
            self._tenant = host.tenant(_bytes_of(self._pipeline), self._load, self._unload)
        if self._worn == loras:
            return
        if self._worn:
            self._pipeline.unload_lora_weights()
        self._worn = ()
        names = [f"lora_{index}" for index in range(len(loras))]
        for name, (path, _) in zip(names, loras, strict=True):
            self._pipeline.load_lora_weights(path, adapter_name=name)
        if names:
            self._pipeline.set_adapters(names, [strength for _, strength in loras])
        self._worn = loras

    @property
    def _movable(self) -> bool:
        """Whether the pipeline's weights lie in one place, from where they can be moved."""
        placement = None if self._pipeline is None else placement_of(self._pipeline)
        return placement is None or placement.choice.mode is MemoryMode.RESIDENT

    def _load(self, device: str) -> int:
        assert self._pipeline is not None
        placement = place(self._pipeline, device, self.memory, "off")
        held = _bytes_of(self._pipeline)
        return held if self._movable else min(held, int(placement.choice.needs))

    def _unload(self) -> None:
        if self._pipeline is None:
            return
        if self._movable:
            self._pipeline.to("cpu")
        else:
            self._pipeline = None  # read again when it is next needed
            self._worn = ()


@dataclass(frozen=True)
class SamaModel:
    """What a SAMA_MODEL connection carries: weights, and LoRAs (path, strength) on them."""

    weights: Weights
    loras: Loras = ()

    def with_lora(self, path: str, strength: float) -> SamaModel:
        """This model with one LoRA more. Raises EditError for a file that is none."""
        check_lora(Path(path))
        return replace(self, loras=(*self.loras, (path, strength)))

    @property
    def preset(self) -> str:
        return self.weights.preset

    def pipeline(self) -> SamaPipeline:
        """The pipeline, ready to run. Raises EditError for weights that do not fit."""
        return self.weights.wearing(self.loras)

    def canvas(self, pipeline: SamaPipeline) -> Canvas:
        """Sizes and window of the model."""
        return pipeline.canvas or canvas_of(self.preset)


def _bytes_of(pipeline: SamaPipeline) -> int:
    parts = [getattr(pipeline, name) for name in ("transformer", "vae", "text_encoder", "semantic_tower")]
    return sum(
        tensor.numel() * tensor.element_size() for part in parts if part is not None for tensor in part.parameters()
    )
