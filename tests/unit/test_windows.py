"""Windows of a long clip: where they lie, that each goes on from the one before, and that one alone is as it was."""

import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sama.edit import edit_video
from sama.edit.request import EditRequest
from sama.edit.windows import Continuity, faithful_latents
from sama.pipeline import SamaPipelineOutput
from sama.shapes import Bucket, Canvas, windows
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from training.evaluation.seam_figures import shown_twice
from training.evaluation.seam_methods import Recorded

SMALL = Canvas((Bucket(64, 48),), window=9, overlap=5).settings()
FRAMES, WINDOWS = 22, [(0, 9), (4, 13), (8, 17), (12, 21), (16, 22)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=FRAMES, width=64, height=48)


class Exact:
    """A tiny pipeline with an autoencoder that loses nothing of what it decoded itself: flat squares of 8 x 8 pixels.

    Keeps the arguments and the steps of each window, and how many latents of earlier windows are there when one starts.
    """

    def __init__(self):
        self._pipe = tiny_pipeline(tower=False, **SMALL)
        self.semantic_tower = None
        self.values, self.steps, self.alive = [], [], []
        self._held = []

    def __getattr__(self, name):
        return getattr(self._pipe, name)

    def encode_video(self, frames):
        squares = F.avg_pool2d(frames.movedim(-1, 2).flatten(0, 1), 8).unflatten(0, frames.shape[:2]).movedim(2, 1)
        first, rest = squares[:, :, :1], squares[:, :, 1:].unflatten(2, (-1, 4)).mean(3)
        latents = torch.cat([first, rest], dim=2) * 2 - 1
        return F.pad(latents, (0, 0, 0, 0, 0, 0, 0, 13))

    def decode_latents(self, latents):
        squares = (latents[:, :3].clamp(-1, 1) + 1) / 2
        squares = torch.cat([squares[:, :, :1], squares[:, :, 1:].repeat_interleave(4, dim=2)], dim=2)
        return squares.repeat_interleave(8, 3).repeat_interleave(8, 4).movedim(1, -1)

    def stream(self, **values):
        self.alive.append(sum(ref() is not None for ref in self._held))
        self._held += [weakref.ref(values["source_latents"]), weakref.ref(values["latents"])]
        self.values.append({key: values[key].clone() for key in ("latents", "semantic_latents", "source_latents")})
        self.steps.append([])
        for event in self._pipe.stream(**values):
            self.steps[-1].append(event.frames if isinstance(event, SamaPipelineOutput) else event.latents.clone())
            yield event


def paint(clip, tmp_path, pipe, name="out.mp4", **changes):
    values = {"steps": 3, "keep_source": "off", "detail": "off"} | changes
    events = list(edit_video(EditRequest(clip, "Make it snowy", tmp_path / name, **values), pipe))
    return events[-1].result


def test_windows_cover_the_clip_and_share_whole_latent_frames():
    assert windows(FRAMES, 9, 5) == WINDOWS
    assert windows(17, 17, 5) == [(0, 17)] and windows(29, 17, 5) == [(0, 17), (12, 29)]
    for window, overlap, shared in ((17, 5, 5), (17, 4, 1), (5, 2, 1), (9, 0, 1), (81, 5, 5)):
        for frames in range(window + 1, window + 40):
            planned = windows(frames, window, overlap)
            assert (planned[0], planned[-1][1]) == ((0, window), frames)
            for (start, stop), (later, end) in pairwise(planned):
                assert start < later < stop < end and stop - start == window
                assert later % 4 == 0 and (stop - later) % 4 == 1
                assert stop - later == shared or end == frames
            assert window - 3 <= planned[-1][1] - planned[-1][0] <= window
    with pytest.raises(ValueError, match="17 can"):
        windows(40, 16, 5)


def test_shared_frames_are_the_same_in_both_windows_and_the_files_repeat(clip, tmp_path):
    """What a window shows first is what the one before showed last, to a rounding of the pixels."""
    pipe = Exact()
    joined, alone = Recorded(pipe, "held"), Recorded(pipe, "apart")
    first = paint(clip, tmp_path, joined, seed=3, frames=17).output.read_bytes()
    assert [len(painted) for painted in joined.windows] == [9] * 3
    apart = [np.abs(a - b).max() for a, b in shown_twice(joined.windows, WINDOWS[:3])]
    assert max(apart) <= 1
    fresh = [np.abs(a[8:] - b[8:]).mean() for a, b in pairwise(joined.windows)]
    assert min(fresh) > 5  # what is not shared is painted anew
    assert paint(clip, tmp_path, Recorded(pipe, "held"), seed=3, frames=17).output.read_bytes() == first
    assert paint(clip, tmp_path, Recorded(pipe, "held"), seed=4, frames=17).output.read_bytes() != first
    paint(clip, tmp_path, alone, seed=3, frames=17)
    assert min(np.abs(a - b).mean() for a, b in shown_twice(alone.windows, WINDOWS[:3])) > 5
    assert np.array_equal(alone.windows[0], joined.windows[0])


@pytest.mark.parametrize("method", ["continued", "free"])
def test_a_measured_method_keeps_the_latents_of_the_window_before(method, clip, tmp_path):
    pipe = Exact()
    recorded = Recorded(pipe, method)
    paint(clip, tmp_path, recorded, seed=3, frames=17)
    for number in range(1, 3):
        before, (first, *_, final) = pipe.steps[number - 1], pipe.steps[number]
        assert torch.equal(final[:, :, 1:2], before[-1][:, :, -1:])
        assert not torch.isclose(final[:, :, 2:], before[-1][:, :, -1:]).all()
        path = 1 / 11 * final[:, :, :2] + 10 / 11 * pipe.values[number]["latents"][:, :, :2]
        held = torch.isclose(first[:, :, :2], path, atol=1e-5).flatten(3).all(-1).all(1)[0].tolist()
        assert held == [method == "continued", True]
    assert all(np.array_equal(a, b) for a, b in shown_twice(recorded.windows, WINDOWS[:3]))


@pytest.mark.parametrize("scheduler", ["euler", "unipc"])
def test_the_model_sees_the_shared_frames_at_the_noise_of_each_step(scheduler, clip, tmp_path):
    pipe = Exact()
    paint(clip, tmp_path, pipe, seed=3, scheduler=scheduler)
    levels = [1.0, 10 / 11, 5 / 7, 0.0]  # three steps, shifted by 5
    assert len(pipe.values) == len(WINDOWS)
    noises = [values["latents"] for values in pipe.values]
    for number in range(1, len(WINDOWS)):
        # The last window shares nine frames less three that the clip does not have; the others share five.
        start, stop = WINDOWS[number][0], WINDOWS[number - 1][1]
        shared = (stop - start - 1) // 4 + 1
        assert torch.equal(noises[number][:, :, :shared], noises[number - 1][:, :, -shared:])
        assert not torch.isclose(noises[number][:, :, shared:], noises[0][:, :, shared:]).any()
        assert torch.equal(pipe.values[number]["semantic_latents"], pipe.values[0]["semantic_latents"])
        *steps, final = pipe.steps[number]
        assert torch.equal(steps[-1], final)
        for level, latents in zip(levels[1:], steps, strict=True):
            path = (1 - level) * final[:, :, :shared] + level * noises[number][:, :, :shared]
            assert torch.allclose(latents[:, :, :shared], path, atol=1e-5)
            assert torch.isfinite(latents).all()


def test_a_single_window_is_painted_as_the_pipeline_paints_it(clip, tmp_path):
    pipe = Exact()
    paint(clip, tmp_path, pipe, frames=7, seed=5)
    (values,), (steps,) = pipe.values, pipe.steps
    embeds = {
        "prompt_embeds": pipe.encode_text(["Make it snowy"]),
        "negative_prompt_embeds": pipe.encode_text([""]),
    }
    *_, output = pipe._pipe.stream(
        source_latents=values["source_latents"], num_inference_steps=3, generator=torch.Generator().manual_seed(5),
        output_type="latent", **embeds,
    )  # fmt: skip
    assert torch.isfinite(output.frames).all()
    assert torch.equal(steps[-1], output.frames)


def test_memory_is_that_of_a_window_in_whatever_length(clip, tmp_path):
    pipe = Exact()
    paint(clip, tmp_path, pipe)
    assert pipe.alive == [0] * len(WINDOWS)


def test_seeds_of_neighbouring_requests_share_no_noise():
    source, known = torch.zeros(1, 16, 3, 2, 2), torch.zeros(1, 16, 2, 2, 2)
    drawn = []
    for seed in (0, 1, 2**32 - 1):
        starts = Continuity(tiny_pipeline(tower=False), seed, None)
        drawn += [starts.start(source, held)["latents"][:, :, 2] for held in (None, known, known)]
    assert len({tuple(noise.flatten().tolist()) for noise in drawn}) == 9


class Softening(Exact):
    """Its autoencoder takes a tenth of all contrast on each passage."""

    def encode_video(self, frames):
        return 0.9 * super().encode_video(frames)


def test_frames_are_handed_on_nearly_as_they_were_shown(clip, tmp_path):
    shown = Softening().decode_latents(torch.rand(1, 16, 2, 4, 4) * 1.8 - 0.9)
    for passages, left in ((faithful_latents, 0.02), (Softening.encode_video, 0.2)):
        decoded = Softening().decode_latents(passages(Softening(), shown))
        lost = float(((shown - decoded).abs() / (shown - 0.5).abs().clamp(min=1e-3)).mean())
        assert left / 2.5 < lost < left
    recorded = Recorded(Softening(), "held")
    paint(clip, tmp_path, recorded, seed=3, frames=13)
    (first,) = shown_twice(recorded.windows, WINDOWS[:2])
    assert np.abs(first[0] - first[1]).mean() < 2
