"""What an edit does once, or not at all: text, packets, schedulers, previews under offload; and what it never loses."""

import shutil

import av
import numpy as np
import pytest
import torch
from accelerate.hooks import CpuOffload
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler

from sama.device import placement
from sama.device.placement import default_device, previews_by_map, resolve_device
from sama.edit import edit_video
from sama.edit.failures import user_errors
from sama.edit.preview import LinearPreview
from sama.edit.request import EditRequest
from sama.errors import EditError, EditFailedError
from sama.presets import TINY_FOLDER
from sama.shapes import Bucket, Canvas
from sama.video import probe
from tests.media import make_clip
from tests.tiny import tiny_pipeline

SMALL = Canvas((Bucket(64, 48),), window=5, overlap=2).settings()
WINDOWS = 3  # of 12 frames


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(tower=False, **SMALL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=12, width=96, height=72, audio="aac")


@pytest.fixture
def request_for(tmp_path):
    def build(video, **changes):
        return EditRequest(
            **({"video": video, "instruction": "Make it snowy", "output": tmp_path / "out.mp4"} | changes)
        )

    return build


def run(request, pipe, **arguments):
    return list(edit_video(request, pipe, **arguments))


# --- Text ------------------------------------------------------------------------------------------------------------


class TextPerWindow:
    """The pipeline, given the texts of a request for every window instead of their states."""

    def __init__(self, pipe, request):
        self._pipe, self._request = pipe, request

    def __getattr__(self, name):
        return getattr(self._pipe, name)

    def stream(self, prompt_embeds, negative_prompt_embeds, **arguments):
        texts = {"prompt": self._request.instruction, "negative_prompt": self._request.negative_prompt}
        return self._pipe.stream(**texts, **arguments)


@pytest.mark.parametrize(("guidance", "calls"), [(None, 2), (1.0, 1)])
def test_texts_are_encoded_once_for_all_windows_and_paint_the_same(guidance, calls, clip, pipe, request_for, tmp_path):
    counted = []
    handle = pipe.text_encoder.register_forward_hook(lambda *_: counted.append(1))
    request = request_for(clip, guidance=guidance, negative_prompt="red", seed=3)
    try:
        events = run(request, pipe)
        assert (events[-1].windows, len(counted)) == (WINDOWS, calls)
    finally:
        handle.remove()
    other = request_for(clip, guidance=guidance, negative_prompt="red", seed=3, output=tmp_path / "other.mp4")
    result = run(other, TextPerWindow(pipe, other))[-1].result
    assert result.output.read_bytes() == events[-1].result.output.read_bytes()


# --- The source ------------------------------------------------------------------------------------------------------


class Watched:
    """An input file that counts how often its packets are walked without being decoded."""

    def __init__(self, container, walks):
        self._container, self._walks = container, walks

    def __getattr__(self, name):
        return getattr(self._container, name)

    def __enter__(self):
        self._container.__enter__()
        return self

    def __exit__(self, *error):
        return self._container.__exit__(*error)

    def demux(self, streams):
        if not isinstance(streams, list):  # lists are of sound, which is copied
            self._walks.append(streams)
        return self._container.demux(streams)


@pytest.mark.parametrize("start", [0, 2, 310])
def test_the_source_is_walked_once(start, pipe, request_for, tmp_path, monkeypatch):
    long = start > 100  # a late start is looked for by its time
    clip = make_clip(tmp_path / "clip.mp4", frames=316 if long else 12, width=32, height=32, audio="aac")
    opened, walks, real = [], [], av.open

    def opening(file, mode="r", **options):
        container = real(file, mode, **options)
        if mode != "r" or str(clip) not in str(file):
            return container
        opened.append(file)
        return Watched(container, walks)

    monkeypatch.setattr(av, "open", opening)
    result = run(request_for(clip, start=start, frames=4, steps=1), pipe)[-1].result
    assert result.frames == 4
    assert len(walks) == 1
    assert len(opened) <= 8  # reading, writing, sound and what else a file holds: each once, whatever its length


# --- Schedulers ------------------------------------------------------------------------------------------------------


def test_another_scheduler_leaves_the_shared_pipeline_alone_while_it_runs(clip, pipe, request_for):
    own = pipe.scheduler
    assert isinstance(own, FlowMatchEulerDiscreteScheduler)
    for _ in edit_video(request_for(clip, frames=1, steps=2, scheduler="unipc"), pipe):
        assert pipe.scheduler is own


# --- Previews --------------------------------------------------------------------------------------------------------


@pytest.fixture
def offloaded(pipe):
    """A pipeline as on a device that holds one model at a time."""
    pipeline = tiny_pipeline(tower=False, **SMALL)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert isinstance(pipeline.vae._hf_hook, CpuOffload)
    return pipeline


def decodings(pipeline, request, previews):
    counted, decode = [], pipeline.vae.decode
    pipeline.vae.decode = lambda *arguments, **options: counted.append(1) or decode(*arguments, **options)
    try:
        return run(request, pipeline, previews=previews), len(counted)
    finally:
        pipeline.vae.decode = decode


def test_previews_never_decode_where_that_sends_the_transformer_away(clip, pipe, offloaded, request_for):
    request = request_for(clip, frames=8, steps=4)
    assert previews_by_map(offloaded) and not previews_by_map(pipe)
    _, without = decodings(offloaded, request, previews=False)
    events, count = decodings(offloaded, request, previews=True)
    assert count == without
    shown = [event.preview for event in events if event.preview is not None]
    assert len(shown) == 8  # one of each step of both windows
    assert all(picture.shape == (48, 64, 3) and picture.dtype == np.uint8 for picture in shown)
    assert decodings(pipe, request, previews=True)[1] == without + 8  # every step; decoded where it is resident


def test_previews_do_not_change_the_result(clip, offloaded, request_for, tmp_path):
    outputs = [tmp_path / name for name in ("a.mp4", "b.mp4")]
    for output, previews in zip(outputs, (False, True), strict=True):
        run(request_for(clip, frames=8, output=output), offloaded, previews=previews)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_linear_preview_looks_like_the_decoded_picture():
    pipeline = tiny_pipeline(tower=False, **SMALL)
    pipeline.register_modules(vae=AutoencoderKLWan.from_pretrained(TINY_FOLDER / "vae", torch_dtype=torch.float32))
    rows, columns = np.mgrid[:96, :128]

    def scene(ground, thing):
        picture = np.empty((96, 128, 3), np.uint8)
        picture[:] = ground
        picture[..., 1] = np.clip(picture[..., 1] + rows // 3, 0, 255)
        picture[(rows - 50) ** 2 + (columns - 60) ** 2 < 900] = thing
        return picture

    def latents_of(picture):
        return pipeline.encode_video(torch.from_numpy(picture)[None, None].float() / 255)

    source = scene((60, 90, 60), (90, 120, 80))
    preview = LinearPreview.fit(pipeline, source, latents_of(source))
    for edited in (source, scene((200, 30, 40), (240, 240, 250)), scene((40, 60, 200), (230, 200, 40))):
        latents = latents_of(edited)
        decoded = pipeline.decode_latents(latents)[0, 0].numpy() * 255
        shown = preview(latents)
        assert shown.shape == (96, 128, 3)
        error = ((shown - decoded) ** 2).mean()
        assert 10 * np.log10(255**2 / error) > 22


# --- Devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu"), (True, False, "cuda")]
)
def test_the_best_device_is_taken(cuda, mps, best, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(placement, "mps_works", lambda: mps)
    assert default_device() == resolve_device(None) == resolve_device("auto") == best


def test_an_apple_gpu_is_taken_only_where_it_computes(monkeypatch):
    real = torch.ones
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *size, device, dtype: real(*size, dtype=dtype))
    assert default_device() == "mps"

    def missing(*arguments, **options):
        raise NotImplementedError("Conv3D is not supported on MPS")

    monkeypatch.setattr(torch.nn.functional, "conv3d", missing)
    assert default_device() == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.undo()


# --- Failures --------------------------------------------------------------------------------------------------------


def test_too_little_memory_on_a_cpu_is_one_sentence(clip, request_for, tmp_path):
    pipeline = tiny_pipeline(tower=False, **SMALL)
    pipeline.vae.encode = lambda pixels: torch.empty(1 << 50, dtype=torch.uint8)
    with pytest.raises(EditFailedError, match="ran out of memory; edit fewer frames") as failed:
        run(request_for(clip), pipeline)
    assert "allocate" in str(failed.value.__cause__)
    assert "\n" not in str(failed.value)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_that_speaks_of_memory_stays_a_refusal():
    with pytest.raises(EditError, match="check the path"), user_errors():
        raise EditError("There is no LoRA file 'out of memory.safetensors'; check the path.")


def test_a_finished_video_outlives_settings_that_cannot_be_written(clip, pipe, request_for, tmp_path):
    events = edit_video(request_for(clip, frames=5), pipe)
    with pytest.raises(EditFailedError, match=r"out\.mp4 is saved") as failed:
        for event in events:
            if event.phase == "saving":
                (tmp_path / "out.json").mkdir(exist_ok=True)  # in the way of the settings
    assert "\n" not in str(failed.value)
    assert probe(tmp_path / "out.mp4").frames == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.mp4"]


def test_settings_of_an_earlier_result_do_not_stay_beside_another_video(clip, request_for, tmp_path, monkeypatch):
    pipeline = tiny_pipeline(tower=False, **SMALL)
    run(request_for(clip, frames=1), pipeline)
    earlier = shutil.copy(tmp_path / "out.mp4", tmp_path / "earlier.mp4")

    def broken(_):
        raise RuntimeError("boom")

    monkeypatch.setattr("sama.fingerprint.of_pipeline", broken)
    with pytest.raises(EditFailedError, match="boom"):
        run(request_for(clip, frames=1, seed=1), pipeline)
    assert (tmp_path / "out.mp4").read_bytes() != earlier.read_bytes()
    assert not (tmp_path / "out.json").exists()
