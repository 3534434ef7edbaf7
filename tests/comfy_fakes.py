"""ComfyUI's modules as the nodes see them, for a machine without ComfyUI: names, arguments and shapes are the real
ones', as of its release 0.3.64."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class InterruptProcessingException(Exception):  # noqa: N818 - ComfyUI's name
    pass


class Host:
    """The program's state: what it shows, what it has loaded, and whether the user has cancelled."""

    def __init__(self, folder: Path):
        self.folder, self.bars, self.loaded = folder, [], []
        self.cancel_after = None
        for name in ("loras", "diffusion_models", "temp"):
            (folder / name).mkdir()

    # folder_paths
    def get_filename_list(self, name):
        return sorted(path.name for path in (self.folder / name).iterdir())

    def get_full_path(self, name, file):
        path = self.folder / name / file
        return str(path) if path.is_file() else None

    def get_temp_directory(self):
        return str(self.folder / "temp")

    # comfy.model_management
    def get_torch_device(self):
        return torch.device("cpu")

    def throw_exception_if_processing_interrupted(self):
        if self.cancel_after is not None and sum(map(len, self.bars)) >= self.cancel_after:
            raise InterruptProcessingException

    def load_models_gpu(self, models, memory_required=0):
        for model in models:
            if model in self.loaded:
                self.loaded.remove(model)
                model.detach(unpatch_all=False)
            model.partially_load(model.load_device, 1e32, force_patch_weights=False)
            self.loaded.append(model)

    def unload_all_models(self):
        while self.loaded:
            self.loaded.pop().detach(True)


class ModelPatcher:
    def __init__(self, model, load_device, offload_device, size=0, weight_inplace_update=False):
        self.model, self.load_device, self.offload_device, self.size = model, load_device, offload_device, size
        self.parent = None

    def model_size(self):
        return self.size


# --- comfy_api.latest ------------------------------------------------------------------------------------------------


class Input:
    kind: str

    def __init__(self, id, display_name=None, optional=False, tooltip=None):
        self.id, self.optional, self.options = id, optional, {"tooltip": tooltip}

    def entry(self):
        return (self.kind, {name: value for name, value in self.options.items() if value is not None})


def widget(**names):
    """An input class that takes exactly these options."""

    class Widget(Input):
        def __init__(self, id, display_name=None, optional=False, tooltip=None, default=None, **options):
            super().__init__(id, display_name, optional, tooltip)
            unknown = set(options) - set(names)
            assert not unknown, f"ComfyUI knows no {unknown}"
            self.options |= {"default": default} | options

    return Widget


@dataclass
class Output:
    id: Any = None
    display_name: Any = None
    tooltip: Any = None
    is_output_list: bool = False


def comfy_type(kind, base=Input):
    return type(
        kind, (), {"Input": type("Input", (base,), {"kind": kind}), "Output": type("Output", (Output,), {"kind": kind})}
    )


NUMBER = widget(min=0, max=0, step=0, control_after_generate=0)


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    inputs: list
    outputs: list
    description: str = ""


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls):  # noqa: N802
        schema = cls.define_schema()
        ids = [field.id for field in schema.inputs]
        assert len(set(ids)) == len(ids)
        return schema

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        types = {"required": {}}
        for field in cls.GET_SCHEMA().inputs:
            types.setdefault("optional" if field.optional else "required", {})[field.id] = field.entry()
        return types

    @classmethod
    def RETURN_TYPES(cls):  # noqa: N802 - a property of the class in ComfyUI
        return [output.kind for output in cls.GET_SCHEMA().outputs]


class NodeOutput:
    def __init__(self, *args):
        self.args = args


class ComfyExtension:
    pass


class VideoFromFile:
    def __init__(self, file):
        self.file = file

    def get_stream_source(self):
        return self.file


IO = SimpleNamespace(
    ComfyNode=ComfyNode,
    NodeOutput=NodeOutput,
    Schema=Schema,
    Custom=comfy_type,
    Image=comfy_type("IMAGE"),
    Mask=comfy_type("MASK"),
    Video=comfy_type("VIDEO"),
    Int=comfy_type("INT", NUMBER),
    Float=comfy_type("FLOAT", widget(min=0, max=0, step=0, round=0)),
    String=comfy_type("STRING", widget(multiline=0)),
    Combo=comfy_type("COMBO", widget(options=0, control_after_generate=0)),
)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, v3: bool = True) -> Host:
    """Put the modules where `import` finds them until the test ends."""
    host = Host(folder)

    class ProgressBar:
        def __init__(self, total, node_id=None):
            self.shown = []
            host.bars.append(self.shown)

        def update_absolute(self, value, total=None, preview=None):
            self.shown.append((value, total, preview))

    management = {
        name: getattr(host, name)
        for name in (
            "get_torch_device",
            "throw_exception_if_processing_interrupted",
            "load_models_gpu",
            "unload_all_models",
        )
    }
    modules = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": management | {"InterruptProcessingException": InterruptProcessingException},
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
        "folder_paths": {
            name: getattr(host, name) for name in ("get_filename_list", "get_full_path", "get_temp_directory")
        },
        "comfy_api": {},
        "comfy_api.input_impl": {"VideoFromFile": VideoFromFile},
    }
    if v3:
        latest = {"io": IO, "ComfyExtension": ComfyExtension, "InputImpl": SimpleNamespace(VideoFromFile=VideoFromFile)}
        modules["comfy_api.latest"] = latest
    for name, values in modules.items():
        module = ModuleType(name)
        module.__path__ = []
        module.__spec__ = SimpleNamespace(name=name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    return host
