"""The nodes for ComfyUI as that program loads and runs them; its modules are `tests.comfy_fakes` where it is absent."""

import asyncio
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sama.edit import EditRequest, edit_video
from sama.errors import EditError
from sama.video import FrameReader, probe
from tests import comfy_fakes
from tests.loras import in_style, pairs
from tests.media import audio_packets, make_clip
from tests.tiny import tiny_clip, tiny_pipeline

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
EXAMPLES = FOLDER / "example_workflows"
MODELS_OWN = {"quality": "model's own", "steps": 0, "guidance": 0.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline(buckets=[[48, 32]], window=9, window_overlap=1).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def host(monkeypatch, tmp_path):
    return comfy_fakes.install(monkeypatch, tmp_path)


def loaded(monkeypatch):
    """The folder, imported the way that ComfyUI imports one of its `custom_nodes`."""
    name = str(FOLDER).replace(".", "_x_")
    for known in [known for known in sys.modules if known.startswith(name)]:
        monkeypatch.delitem(sys.modules, known)
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run(pack, node, **values):
    """A V3 node's outputs, in inference mode, in which ComfyUI runs nodes."""
    with torch.inference_mode():
        return pack.NODE_CLASS_MAPPINGS[node].execute(**values).args


def batch(frames=5):
    return tiny_clip(frames, 32, 48).float() / 255


def load(pack, saved, **values):
    return run(pack, "SamaLoadModel", preset="tiny", weights="released", folder=saved, memory="auto", **values)[0]


def classic_entry(entry):
    """A V3 input as the classic form says it."""
    kind, options = entry
    options = dict(options)
    if kind == "COMBO":
        kind = options.pop("options")
    return kind, {name: value for name, value in options.items() if value is not None}


def test_both_schemas_say_the_same(host, monkeypatch, tmp_path):
    (tmp_path / "loras" / "snow.safetensors").touch()
    v3 = loaded(monkeypatch)
    listed = asyncio.run(asyncio.run(v3.comfy_entrypoint()).get_node_list())
    assert [node.GET_SCHEMA().node_id for node in listed] == list(v3.NODE_CLASS_MAPPINGS)
    assert all(issubclass(node, comfy_fakes.ComfyNode) for node in v3.NODE_CLASS_MAPPINGS.values())
    assert set(v3.NODE_CLASS_MAPPINGS) == {
        "SamaLoadModel", "SamaLoadLora", "SamaEditImages", "SamaEditVideo", "SamaPlan", "SamaDamage", "SamaRestore",
    }  # fmt: skip
    monkeypatch.delitem(sys.modules, "comfy_api.latest")
    classic = loaded(monkeypatch)
    for name, node in classic.NODE_CLASS_MAPPINGS.items():
        assert not issubclass(node, comfy_fakes.ComfyNode)
        ours, theirs = node.INPUT_TYPES(), v3.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
        for group in ("required", "optional"):
            assert ours.get(group, {}) == {key: classic_entry(entry) for key, entry in theirs.get(group, {}).items()}
        assert list(node.RETURN_TYPES) == v3.NODE_CLASS_MAPPINGS[name].RETURN_TYPES()
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) and callable(getattr(node, node.FUNCTION))
    assert classic.NODE_CLASS_MAPPINGS["SamaLoadLora"].INPUT_TYPES()["required"]["lora_name"][0] == ["snow.safetensors"]
    damaged = classic.NODE_CLASS_MAPPINGS["SamaDamage"]().run(images=batch(), task="cube", seed=0)
    assert damaged[0].shape == (5, 32, 48, 3) and (damaged[0] - batch()).abs().max() > 0.1


def test_images_are_edited_as_files_are(host, monkeypatch, saved, tmp_path, caplog):
    """Frame for frame what the library makes of the same clip, with the mask kept, under ComfyUI's inference mode."""
    caplog.set_level("INFO", "sama")
    pack = loaded(monkeypatch)
    model = load(pack, saved)
    assert not host.loaded, "nothing is loaded before it is used"
    mask = torch.zeros(1, 32, 48)
    mask[:, :, 24:] = 1
    images = torch.cat([batch(), torch.full((5, 32, 48, 1), 0.25)], dim=-1)
    options = {"instruction": "Make it snowy", "seed": 3, **MODELS_OWN, "keep_source": "off"}
    edited, notes = run(pack, "SamaEditImages", model=model, images=images, mask=mask, **options)
    assert edited.shape == (5, 32, 48, 4) and edited.dtype == torch.float32 and notes == ""
    assert edited.min() >= 0 and edited.max() <= 1
    assert torch.equal(edited[:, :, :24, :3], batch()[:, :, :24]), "outside the mask every pixel is the source's"
    assert (edited[..., :3] - batch())[:, :, 24:].abs().mean() > 0.02 and torch.equal(edited[..., 3], images[..., 3])
    bar = host.bars[-1]
    assert [value for value, total, _ in bar] == [1, 2] and {total for _, total, _ in bar} == {2}
    assert bar[0][2][0] == "JPEG" and bar[0][2][1].size == (48, 32)

    assert len(host.loaded) == 1 and host.loaded[0].loaded_size() == host.loaded[0].model_size() > 1000
    assert not any(weight.is_inference() for weight in model.pipeline().transformer.parameters())
    assert sum("Memory: " in line for line in caplog.messages) == 1, "a loaded model is not loaded again"
    host.unload_all_models()
    again, _ = run(pack, "SamaEditImages", model=model, images=images, mask=mask, **options)
    assert torch.equal(again, edited) and len(host.loaded) == 1


def test_a_video_keeps_its_sound_and_a_lora_acts_by_name(host, monkeypatch, saved, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=7, audio="aac")
    made = in_style("diffusers", pairs(tiny_pipeline()))
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, tmp_path / "loras" / "snow.safetensors")
    pack = loaded(monkeypatch)
    model = load(pack, saved)
    options = {"instruction": "Make it snowy", "seed": 1, "quality": "fast", "steps": 2, "guidance": 2.0}
    video = comfy_fakes.VideoFromFile(str(clip))

    def edited(model):
        result, notes = run(pack, "SamaEditVideo", model=model, video=video, **options)
        path = Path(result.get_stream_source())
        assert path.parent == tmp_path / "temp" and probe(path).frames == 7 and "nothing" not in notes.lower()
        assert len(audio_packets(path)) == len(audio_packets(clip))
        with FrameReader(path) as reader:
            return np.stack([frame.image for frame in reader])

    plain = edited(model)
    (worn,) = run(pack, "SamaLoadLora", model=model, lora_name="snow.safetensors", strength=1.0)
    with_lora = edited(worn)
    assert np.abs(with_lora.astype(float) - plain).mean() > 1
    assert np.array_equal(edited(model), plain), "the model without the LoRA is as before"
    request = EditRequest(
        clip, "Make it snowy", tmp_path / "own.mp4", seed=1, quality="fast", steps=2, guidance=2.0, model=saved,
        lora=(str(tmp_path / "loras" / "snow.safetensors"),),
    )  # fmt: skip
    list(edit_video(request))
    with FrameReader(tmp_path / "own.mp4") as reader:
        assert np.array_equal(np.stack([frame.image for frame in reader]), with_lora)
    carrying = shutil.copytree(saved, tmp_path / "carrying")
    shutil.copy(tmp_path / "loras" / "snow.safetensors", carrying / "few_steps.safetensors")
    options = {"instruction": "Make it snowy", "seed": 1, **MODELS_OWN}
    quick = edited(load(pack, str(carrying)))
    assert host.bars[-1][-1][1] == 4, "the LoRA for few steps that a model carries acts as in the library"
    list(edit_video(EditRequest(clip, "Make it snowy", tmp_path / "quick.mp4", seed=1, model=carrying)))
    with FrameReader(tmp_path / "quick.mp4") as reader:
        assert np.array_equal(np.stack([frame.image for frame in reader]), quick)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors is no longer"):
        run(pack, "SamaLoadLora", model=model, lora_name="gone.safetensors", strength=1.0)
    with pytest.raises(EditError, match="no saved pipeline"):
        load(pack, str(tmp_path))

    files = set((tmp_path / "temp").iterdir())
    host.cancel_after = sum(map(len, host.bars)) + 1
    with pytest.raises(comfy_fakes.InterruptProcessingException):
        edited(model)
    assert set((tmp_path / "temp").iterdir()) == files, "a cancelled edit leaves no file"


def test_plan_damage_and_restore(host, monkeypatch, saved):
    pack = loaded(monkeypatch)
    model = load(pack, saved)
    shown, mask = run(pack, "SamaPlan", model=model, images=batch(), instruction="Make it snowy", seed=0, **MODELS_OWN)
    assert shown.shape == (1, 32, 48, 3) and mask.shape == (1, 32, 48) and mask.dtype == torch.float32
    assert 0 <= mask.min() < mask.max() <= 1
    orange = (shown[..., 0] - shown[..., 2])[0]
    assert torch.corrcoef(torch.stack([orange.flatten(), mask.flatten()]))[0, 1] > 0.99
    (damaged,) = run(pack, "SamaDamage", images=batch(), task="tube", seed=0)
    options = {"task": "tube", "caption": "a cat", "seed": 0, "steps": 2}
    (restored,) = run(pack, "SamaRestore", model=model, images=damaged, **options)
    assert restored.shape == damaged.shape and restored.isfinite().all() and (restored - damaged).abs().mean() > 0.01
    with pytest.raises(EditError, match="restores 9 pictures at once, not 10"):
        run(pack, "SamaRestore", model=model, images=batch(10), **options)


def test_a_cut_video_is_written_out_first(host, monkeypatch, tmp_path):
    pack = loaded(monkeypatch)
    media = sys.modules[f"{pack.__name__}.media"]
    whole = comfy_fakes.VideoFromFile("whole.mp4")
    assert media.file_of_video(whole, tmp_path) == Path("whole.mp4")

    class Cut(comfy_fakes.VideoFromFile):
        window, edits, written = (0.0, 0.0), False, None

        def get_active_trim_window(self):
            return self.window

        def has_pending_frame_edits(self):
            return self.edits

        def save_to(self, path):
            Cut.written = path

    for window, edits, own in (((0.0, 0.0), False, False), ((1.0, 0.0), False, True), ((0.0, 0.0), True, True)):
        cut = Cut("whole.mp4")
        cut.window, cut.edits = window, edits
        assert media.file_of_video(cut, tmp_path) == (tmp_path / "source.mp4" if own else Path("whole.mp4"))
    assert Cut.written == str(tmp_path / "source.mp4")


CORE = {  # outputs of ComfyUI's own nodes in the examples
    "LoadVideo": ["VIDEO"], "GetVideoComponents": ["IMAGE", "AUDIO", "FLOAT"], "SaveVideo": [], "PreviewImage": [],
}  # fmt: skip


def accepts(entry, value):
    """Whether a widget takes a value, by ComfyUI's rules."""
    kind, options = entry
    if kind == "COMBO":
        return value in options["options"]
    fits = {"INT": int, "FLOAT": (int, float), "STRING": str}.get(kind)
    return (
        fits is not None and isinstance(value, fits) and options.get("min", value) <= value <= options.get("max", value)
    )


def test_the_workflow_for_the_api_fits_the_nodes(host, monkeypatch):
    nodes = loaded(monkeypatch).NODE_CLASS_MAPPINGS
    workflow = json.loads((EXAMPLES / "edit_video_api.json").read_text())
    outputs = CORE | {name: node.RETURN_TYPES() for name, node in nodes.items()}
    ours = [item for item in workflow.values() if item["class_type"] in nodes]
    assert len(ours) == 3
    for item in ours:
        types = nodes[item["class_type"]].INPUT_TYPES()
        entries = types["required"] | types.get("optional", {})
        assert set(types["required"]) <= set(item["inputs"]) <= set(entries)
        for name, value in item["inputs"].items():
            if isinstance(value, list):
                assert outputs[workflow[value[0]]["class_type"]][value[1]] == entries[name][0], name
            else:
                assert accepts(entries[name], value), name


def test_the_workflow_for_the_page_fits_the_nodes(host, monkeypatch):
    nodes = loaded(monkeypatch).NODE_CLASS_MAPPINGS
    workflow = json.loads((EXAMPLES / "edit_video.json").read_text())
    by_id = {item["id"]: item for item in workflow["nodes"]}
    for number, origin, slot, target, place, kind in workflow["links"]:
        assert by_id[origin]["outputs"][slot]["type"] == kind == by_id[target]["inputs"][place]["type"]
        assert number in by_id[origin]["outputs"][slot]["links"] and by_id[target]["inputs"][place]["link"] == number
    ours = [item for item in workflow["nodes"] if item["type"] in nodes]
    assert len(ours) == 3
    for item in ours:
        types = nodes[item["type"]].INPUT_TYPES()
        entries = types["required"] | types.get("optional", {})
        kinds = {name: entry[0] for name, entry in entries.items()}
        sockets = {name: kind for name, kind in kinds.items() if kind.isupper() and kind not in WIDGETS}
        assert {socket["name"]: socket["type"] for socket in item["inputs"]} == sockets
        assert [output["type"] for output in item["outputs"]] == nodes[item["type"]].RETURN_TYPES()
        values = iter(item["widgets_values"])
        for name, entry in entries.items():
            if name not in sockets:
                assert accepts(entry, next(values)), name
                if entry[1].get("control_after_generate"):
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
        assert next(values, None) is None


WIDGETS = ("INT", "FLOAT", "STRING", "COMBO")
