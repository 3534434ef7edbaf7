"""What ComfyUI does for a node: devices, files by name, progress, interruption, memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PREVIEW_SIDE = 512


def device() -> str:
    """The device that ComfyUI computes on, such as "cuda:0" or "cpu"."""
    from comfy.model_management import get_torch_device

    return str(get_torch_device())


def stop_if_interrupted() -> None:
    """Raise ComfyUI's own exception when the user has cancelled the run."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


class Progress:
    """The bar on the node that runs."""

    def __init__(self) -> None:
        from comfy.utils import ProgressBar

        self._bar = ProgressBar(1)

    def show(self, done: int, total: int, preview: np.ndarray | None = None) -> None:
        """done of total steps; preview: (h, w, 3) uint8."""
        picture = None if preview is None else ("JPEG", Image.fromarray(preview), PREVIEW_SIDE)
        self._bar.update_absolute(min(done, total), total, picture)


def lora_names() -> list[str]:
    """The files in ComfyUI's `loras` folders."""
    return _names("loras")


def lora_path(name: str) -> str:
    """The file of a name of `lora_names`. Raises FileNotFoundError."""
    return _path("loras", name)


def weight_names() -> list[str]:
    """The files in ComfyUI's `diffusion_models` folders."""
    return _names("diffusion_models")


def weight_path(name: str) -> str:
    """The file of a name of `weight_names`. Raises FileNotFoundError."""
    return _path("diffusion_models", name)


def temporary_file(suffix: str) -> Path:
    """A new name in the folder that ComfyUI empties when it starts."""
    import folder_paths

    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"sama-{uuid.uuid4().hex}{suffix}"


def video_of_file(path: Path) -> Any:
    """A file as a VIDEO."""
    try:
        from comfy_api.latest import InputImpl

        return InputImpl.VideoFromFile(str(path))
    except ImportError:  # before the V3 schema
        from comfy_api.input_impl import VideoFromFile

        return VideoFromFile(str(path))


def tenant(size: int, load: Callable[[str], int], unload: Callable[[], None]) -> Any:
    """A model of ours in ComfyUI's list of loaded models, for `make_room`.

    size: bytes of its weights. load: puts them on a device and returns the bytes that lie there. unload: takes them off
    again; ComfyUI calls it when another model needs the room.
    """
    import torch
    from comfy.model_management import get_torch_device
    from comfy.model_patcher import ModelPatcher

    class Tenant(ModelPatcher):  # type: ignore[misc, unused-ignore]
        """Loads and unloads as a whole: where weights wait meanwhile is SAMA's memory mode."""

        _loaded = 0

        def partially_load(self, device_to: Any, *_: Any, **__: Any) -> int:
            if not self._loaded:
                self._loaded = load(str(device_to))
                self.model.device = device_to
            return self._loaded

        def partially_unload(self, *_: Any, **__: Any) -> int:
            return 0

        def detach(self, unpatch_all: bool = True, *_: Any, **__: Any) -> Any:
            if unpatch_all:  # without it, ComfyUI is about to list the same model again
                unload()
                self._loaded = 0
                self.model.device = self.offload_device
            return self.model

        def loaded_size(self) -> int:
            return self._loaded

    return Tenant(torch.nn.Module(), load_device=get_torch_device(), offload_device=torch.device("cpu"), size=size)


def make_room(model: Any) -> None:
    """Load a `tenant`, after ComfyUI has unloaded what is in its way."""
    from comfy.model_management import load_models_gpu

    load_models_gpu([model])


def _names(folder: str) -> list[str]:
    import folder_paths

    return list(folder_paths.get_filename_list(folder))


def _path(folder: str, name: str) -> str:
    import folder_paths

    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise FileNotFoundError(f"{name} is no longer in ComfyUI's folder {folder}; choose another file.")
    return str(path)
