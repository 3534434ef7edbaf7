import json
import os
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sama.device.memory import MemoryMode
from sama.device.placement import put, resolve_device
from sama.edit import PHASES, edit_video, load_pipeline
from sama.edit.request import EditRequest, check_request, free_output, parse_lora, sampled
from sama.edit.settings_file import load_settings
from sama.errors import EditError
from sama.pipeline.schedule import shifted_sigmas
from sama.presets import PRESETS
from sama.shapes import Bucket, Canvas
from sama.video import probe, read_clip
from sama.workers.edit import edit_on_workers, edit_shared
from tests.media import (
    audio_packets,
    frame_times,
    make_clip,
    make_damaged,
    make_sound_only,
    make_text,
    make_truncated,
    read_barcode,
)
from tests.tiny import Copier, tiny_pipeline

SMALL = Canvas((Bucket(64, 48), Bucket(48, 64)), window=5, overlap=2).settings()


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline(tower=False, **SMALL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=12, width=96, height=72, audio="aac")


@pytest.fixture
def request_for(tmp_path):
    def build(video, **changes):
        fields = {"video": video, "instruction": "Make it snowy", "output": tmp_path / "out.mp4"}
        return EditRequest(**(fields | changes))

    return build


def run(request, pipe, **arguments):
    return list(edit_video(request, pipe, **arguments))


def psnr(a, b):
    return 10 * np.log10(255**2 / max(1e-9, ((a.astype(float) - b.astype(float)) ** 2).mean()))


# --- What comes out ---------------------------------------------------------------------------------------------------


def test_an_edit_keeps_size_length_rate_and_sound(clip, pipe, request_for):
    events = run(request_for(clip), pipe)
    before, after = probe(clip), probe(events[-1].result.output)
    assert (after.width, after.height, after.frames, after.fps) == (96, 72, 12, before.fps)
    assert after.duration == pytest.approx(before.duration)
    assert audio_packets(events[-1].result.output) == audio_packets(clip)
    assert frame_times(events[-1].result.output) == frame_times(clip)


def test_a_variable_frame_rate_keeps_every_time(tmp_path, pipe, request_for):
    times = [Fraction(tick, 90) for tick in (0, 3, 5, 11, 12, 18, 21)]
    video = make_clip(tmp_path / "vfr.mp4", frames=6, times=times)
    result = run(request_for(video), pipe)[-1].result
    assert frame_times(result.output) == frame_times(video)


def test_events_tell_how_far_it_is(clip, pipe, request_for):
    events = run(request_for(clip, frames=8, steps=3), pipe)
    order = [PHASES.index(event.phase) for event in events]
    assert order == sorted(order)
    assert set(order) == set(range(len(PHASES)))
    painted = [(event.window, event.step) for event in events if event.phase == "painting" and event.step]
    assert painted == [(window, step) for window in (1, 2) for step in (1, 2, 3)]
    assert all(event.message for event in events)
    assert [event.result is not None for event in events] == [False] * (len(events) - 1) + [True]


def test_the_result_carries_the_plan_and_its_anchors(clip, pipe, request_for):
    result = run(request_for(clip, frames=8, steps=3), pipe)[-1].result
    assert result.semantic_tokens.shape == (2, 3, 65, 32)
    assert result.anchor_source.shape == result.anchor_result.shape == (48, 64, 3)
    assert psnr(result.anchor_source, read_clip(clip, 0, 1, size=(64, 48))[0]) > 40
    assert (result.frames, result.fps, result.width, result.height, result.seed) == (8, 24, 96, 72, 0)


def test_previews_come_only_when_asked_for(clip, pipe, request_for):
    request = request_for(clip, frames=5, steps=4)
    assert all(event.preview is None for event in run(request, pipe))
    steps = [event for event in run(request, pipe, previews=True) if event.phase == "painting" and event.step]
    assert len(steps) == 4 and all(event.preview is not None for event in steps)
    assert steps[0].preview.shape == (48, 64, 3)
    assert steps[0].preview.dtype == np.uint8


def test_same_seed_same_file(clip, pipe, request_for, tmp_path):
    paths = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        run(request_for(clip, frames=5, output=path, seed=seed), pipe)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes() != paths[2].read_bytes()


@pytest.mark.parametrize("frames", [1, 2, 5, 6, 11])
def test_every_length_comes_back_whole(frames, clip, pipe, request_for):
    result = run(request_for(clip, frames=frames, steps=1), Copier(pipe))[-1].result
    shown = read_clip(result.output)
    assert [read_barcode(frame) for frame in shown] == list(range(frames))


def test_a_range_cuts_picture_and_sound(clip, pipe, request_for):
    result = run(request_for(clip, start=4, frames=6, steps=1), Copier(pipe))[-1].result
    assert [read_barcode(frame) for frame in read_clip(result.output)] == list(range(4, 10))
    packets = audio_packets(result.output)
    assert float(packets[-1][0]) < 6 / 24
    assert {data for _, data in packets} < {data for _, data in audio_packets(clip)}


def test_more_frames_than_there_are_means_to_the_end(clip, pipe, request_for):
    assert run(request_for(clip, start=9, frames=100, steps=1), pipe)[-1].result.frames == 3


def test_a_standing_picture_gets_a_standing_bucket(tmp_path, pipe, request_for):
    video = make_clip(tmp_path / "tall.mp4", frames=2, width=60, height=90)
    result = run(request_for(video, steps=1), pipe)[-1].result
    assert result.anchor_result.shape == (64, 48, 3)
    assert read_clip(result.output).shape[1:] == (90, 60, 3)


def test_both_schedulers_run_and_the_pipeline_keeps_its_own(clip, pipe, request_for):
    before, outputs = pipe.scheduler, []
    for name in ("euler", "unipc"):
        result = run(request_for(clip, frames=1, steps=4, scheduler=name, keep_source="off"), pipe)[-1].result
        outputs.append(result.anchor_result.astype(int))
    assert pipe.scheduler is before
    assert np.abs(outputs[0] - outputs[1]).max() > 0


def test_a_quality_says_what_is_not_given_and_its_result_is_repeated(clip, pipe, request_for):
    fast = PRESETS["tiny"].qualities["fast"]
    asked = request_for(clip, frames=1, quality="fast", guidance_interval=[0.9, 1.0], steps=None, keep_source="off")
    job = check_request(asked, with_weights=False)
    assert (job.request.steps, job.request.guidance) == (fast.steps, fast.guidance) != (None, None)
    assert (job.request.scheduler, job.request.guidance_interval) == (fast.scheduler, (0.9, 1.0))
    by_hand = sampled(replace(asked, steps=7, guidance=3.5, scheduler="unipc"))
    assert (by_hand.steps, by_hand.guidance, by_hand.scheduler) == (7, 3.5, "unipc")
    for name, preset in PRESETS.items():  # the model's own defaults, where nobody asks for anything
        plain = sampled(EditRequest(clip, "x", "y.mp4", preset=name, few_steps="off"))
        assert (plain.steps, plain.guidance, plain.guidance_interval, plain.scheduler) == (None, None, None, "euler")
        assert plain.quality == (preset.quality if preset.quality != "fast" else "balanced")

    passes, computed = [], []
    hooks = [
        module.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        for module, seen in ((pipe.transformer, passes), (pipe.transformer.blocks[-1].ffn, computed))
    ]
    result = run(replace(asked, guidance=3.0, cache=1.0), pipe)[-1].result
    for hook in hooks:
        hook.remove()
    assert 0 < len(computed) < len(passes), "the cache leaves out blocks"
    sigmas = shifted_sigmas(fast.steps, pipe.config["shift"])
    assert len(passes) == fast.steps + sum(sigma >= 0.9 for sigma in sigmas) < 2 * fast.steps
    values = load_settings(result.settings)
    assert (values["quality"], values["steps"], values["guidance_interval"]) == ("fast", fast.steps, (0.9, 1.0))
    assert check_request(EditRequest(**values), with_weights=False).request.steps == fast.steps


def test_a_cache_is_refused_on_several_gpus_before_any_is_started(clip, request_for):
    with pytest.raises(EditError, match="one GPU only"):
        next(edit_on_workers(request_for(clip, cache=0.1), 2))
    with pytest.raises(EditError, match="one GPU only"):
        next(edit_shared(request_for(clip, cache=0.1), tiny_pipeline()))


def test_unicode_and_spaces_in_names(tmp_path, pipe, request_for, clip):
    folder = tmp_path / "mein Ördner ✂"
    folder.mkdir()
    video = folder / "schöner clip 雪.mp4"
    video.write_bytes(clip.read_bytes())
    output = folder / "neu & fertig.mp4"
    run(request_for(video, frames=1, steps=1, output=output), pipe)
    assert probe(output).frames == 1


# --- Keeping the source ----------------------------------------------------------------------------------------------

BOX = (slice(16, 32), slice(40, 56))  # of 48 x 64


def test_unchanged_places_show_the_source_and_changed_ones_the_result(clip, pipe, request_for):
    result = run(request_for(clip, keep_source="auto", steps=1), Copier(pipe, BOX))[-1].result
    assert result.kept_source
    source, shown = read_clip(clip), read_clip(result.output)
    assert psnr(shown[:, :, :45], source[:, :, :45]) > 38  # what H.264 leaves
    inside = shown[:, 27:45, 63:81].astype(int)
    assert np.abs(inside - (255, 0, 0)).mean() < 25


def test_a_global_edit_is_shown_whole(clip, pipe, request_for):
    whole = (slice(None), slice(None))
    result = run(request_for(clip, frames=5, keep_source="auto", steps=1), Copier(pipe, whole))[-1].result
    assert not result.kept_source


def test_keeping_the_source_can_be_switched_off(clip, pipe, request_for):
    off = {"frames": 5, "keep_source": "off", "detail": "off", "steps": 1}
    result = run(request_for(clip, **off), Copier(pipe, BOX))[-1].result
    assert not result.kept_source and not result.kept_detail
    source, shown = read_clip(clip, 0, 5), read_clip(result.output)
    assert psnr(shown[:, :, :45], source[:, :, :45]) < 38  # scaled down to the model's size and up again


@pytest.mark.parametrize("keep", ["on", "off"])
def test_at_the_models_size_detail_changes_nothing(keep, pipe, request_for, tmp_path):
    small = make_clip(tmp_path / "small.mp4", frames=5, width=64, height=48)
    files = []
    for detail in ("auto", "off"):
        output = tmp_path / f"{detail}.mp4"
        request = request_for(small, keep_source=keep, detail=detail, steps=1, output=output)
        assert not run(request, pipe)[-1].result.kept_detail
        files.append(output.read_bytes())
    assert files[0] == files[1]


def test_an_edit_of_everything_has_the_sources_detail(clip, pipe, request_for):
    """A model that only brightens: what it paints is as sharp as the clip, unless detail is switched off."""
    source = read_clip(clip, 0, 9)
    shown = {}
    for detail in ("auto", "on", "off"):
        request = request_for(clip, frames=9, keep_source="off", detail=detail, steps=1)
        result = run(request, Copier(pipe))[-1].result
        assert result.kept_detail == (detail != "off")
        assert json.loads(result.settings.read_text(encoding="utf-8"))["kept_detail"] == result.kept_detail
        shown[detail] = read_clip(result.output)
    assert np.array_equal(shown["auto"], shown["on"])  # the clip is larger than the model's size
    assert psnr(shown["on"], source) > psnr(shown["off"], source) + 3


# --- Cancelling and failing ------------------------------------------------------------------------------------------


def test_closing_at_any_event_leaves_no_file(clip, pipe, request_for, tmp_path):
    request = request_for(clip, frames=8)
    total = len(run(request, pipe, previews=True))
    for path in (tmp_path / "out.mp4", tmp_path / "out.json"):
        path.unlink()
    for count in range(1, total):
        events = edit_video(request, pipe)
        for _ in range(count):
            next(events)
        events.close()
        assert list(tmp_path.iterdir()) == []


def test_a_cancelled_edit_leaves_the_earlier_result(clip, pipe, request_for, tmp_path):
    request = request_for(clip, frames=1, steps=2)
    run(request, pipe)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    events = edit_video(replace(request, seed=1), pipe)
    while next(events).phase != "saving":
        pass
    events.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_clip_that_breaks_off_midway_leaves_no_file(clip, pipe, request_for, tmp_path):
    damaged = make_damaged(tmp_path / "damaged.mp4", clip)
    with pytest.raises(EditError):
        run(request_for(damaged), pipe)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.mp4"]


# --- Settings --------------------------------------------------------------------------------------------------------


def test_settings_repeat_the_edit(clip, pipe, request_for, tmp_path):
    request = request_for(clip, start=2, frames=5, seed=3, guidance=2.5, negative_prompt="rain")
    result = run(request, pipe)[-1].result
    again = tmp_path / "again.mp4"
    run(EditRequest(**(load_settings(result.settings) | {"output": again})), pipe)
    assert again.read_bytes() == result.output.read_bytes()


def test_settings_say_what_was_done(clip, pipe, request_for):
    result = run(request_for(clip, frames=5), pipe)[-1].result
    stored = json.loads(result.settings.read_text(encoding="utf-8"))
    assert {field.name for field in fields(EditRequest)} <= set(stored)
    assert (stored["steps"], stored["guidance"], stored["frames"], stored["fps"]) == (2, 3.0, 5, "24")
    assert stored["sama_version"]
    assert stored["seconds"] > 0
    assert stored["fingerprint"] == json.loads(result.settings.read_text())["fingerprint"]
    assert not os.path.isabs(stored["video"])


def test_another_model_has_another_fingerprint(clip, pipe, request_for):
    prints = []
    for model in (pipe, tiny_pipeline(tower=False, **SMALL), tiny_pipeline(tower=False, **SMALL, seed=1)):
        settings = run(request_for(clip, frames=1, steps=1), model)[-1].result.settings
        prints.append(json.loads(settings.read_text())["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("text", ["no json", "[]", '{"a": 1}'])
def test_other_files_are_no_settings(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(EditError, match="not a settings file"):
        load_settings(path)


def test_a_foreign_json_beside_the_output_is_not_replaced(clip, pipe, request_for, tmp_path):
    (tmp_path / "out.json").write_text('{"mine": true}')
    with pytest.raises(EditError, match="choose another name"):
        run(request_for(clip), pipe)
    assert (tmp_path / "out.json").read_text() == '{"mine": true}'


def test_free_names_do_not_replace_results(tmp_path):
    assert free_output(tmp_path / "a.mov").name == "a-edited.mp4"
    (tmp_path / "a-edited.mp4").touch()
    assert free_output(tmp_path / "a.mov").name == "a-edited-2.mp4"


# --- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"instruction": ""}, "instruction is empty"),
        ({"instruction": "  \n"}, "instruction is empty"),
        ({"instruction": "x" * 10_000}, "10,000 characters"),
        ({"instruction": None}, "must be text"),
        ({"negative_prompt": "x" * 601}, "601 characters"),
        ({"steps": 0}, "from 1 to 200"),
        ({"steps": 201}, "from 1 to 200"),
        ({"steps": 2.5}, "whole number"),
        ({"guidance": float("nan")}, "guidance cannot be nan"),
        ({"guidance": float("inf")}, "guidance cannot be inf"),
        ({"guidance": -1}, "guidance cannot be -1"),
        ({"source_guidance": float("nan")}, "source guidance cannot be nan"),
        ({"seed": -1}, "seed cannot be -1"),
        ({"seed": 2**32}, "seed cannot be"),
        ({"seed": True}, "seed cannot be True"),
        ({"start": 12}, "beyond the clip's 12 frames"),
        ({"start": -1}, "start cannot be -1"),
        ({"frames": 0}, "frames cannot be 0"),
        ({"preset": "huge"}, "choose one of tiny, 14b, 1.3b"),
        ({"keep_source": "maybe"}, "auto, on, off"),
        ({"scheduler": "ddim"}, "euler, unipc"),
        ({"quality": "superb"}, "fast, balanced, best"),
        ({"guidance_interval": (0.8, 0.2)}, "the lower one first"),
        ({"guidance_interval": "all"}, "two numbers from 0 to 1"),
        ({"cache": 2.0}, "from 0 to 1"),
        ({"lora": ("nowhere.safetensors",)}, "no LoRA file"),
        ({"lora": "one.safetensors"}, "list of files"),
        ({"output": "result.txt"}, "must end in one of"),
        ({"output": "nowhere/out.mp4"}, "does not exist"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(changes, says, clip, pipe, request_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EditError, match=says) as refused:
        run(request_for(clip, **changes), pipe)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_videos_are_refused(clip, pipe, request_for, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    bad = [
        tmp_path / "missing.mp4",
        empty,
        tmp_path,
        make_text(tmp_path / "text.mp4"),
        make_truncated(tmp_path / "cut.mp4", clip),
        make_sound_only(tmp_path / "sound.m4a"),
    ]
    for video in bad:
        with pytest.raises(EditError):
            run(request_for(video), pipe)
    assert not (tmp_path / "out.mp4").exists()
    assert not (tmp_path / "out.json").exists()


def test_the_source_is_never_its_own_target(tmp_path, clip, pipe, request_for):
    video = tmp_path / "source.mp4"
    video.write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to(video)
    for output in (video, tmp_path / "." / "source.mp4", tmp_path / "link.mp4"):
        with pytest.raises(EditError, match="source video itself"):
            run(request_for(video, output=output), pipe)
    assert video.read_bytes() == clip.read_bytes()


def test_a_folder_is_no_output(clip, pipe, request_for, tmp_path):
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(EditError, match="is a folder"):
        run(request_for(clip), pipe)


def test_a_lora_that_is_none_is_refused(clip, request_for, tmp_path):
    text = tmp_path / "text.safetensors"
    text.write_text("not weights")
    other = tmp_path / "other.safetensors"
    save_file({"blocks.0.weight": torch.zeros(2)}, other)
    for path, says in ((text, "not a safetensors file"), (other, "is not a LoRA for SAMA or Wan")):
        with pytest.raises(EditError, match=says):
            check_request(request_for(clip, lora=(str(path),)), with_weights=False)


def test_lora_scales_are_read_from_the_path():
    assert parse_lora("snow.safetensors@0.5") == (parse_lora("snow.safetensors")[0], 0.5)
    assert str(parse_lora("me@home/snow.safetensors")[0]) == "me@home/snow.safetensors"
    with pytest.raises(EditError, match="no number"):
        parse_lora("snow.safetensors@nan")


# --- Loading ---------------------------------------------------------------------------------------------------------


def test_a_saved_pipeline_loads_by_its_folder_and_takes_a_lora(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    lora = tmp_path / "a.safetensors"
    dim = pipe.transformer.config.num_attention_heads * pipe.transformer.config.attention_head_dim
    weights = {"blocks.0.self_attn.q.lora_A.weight": torch.randn(4, dim)}
    weights["blocks.0.self_attn.q.lora_B.weight"] = torch.randn(dim, 4)
    save_file({f"diffusion_model.{name}": value for name, value in weights.items()}, lora)
    loaded = load_pipeline("tiny", "cpu", lora=(f"{lora}@0.5",), model=tmp_path / "model")
    layer = loaded.transformer.blocks[0].attn1.to_q
    assert list(layer.scaling.values()) == [0.5]


def test_a_lora_of_another_model_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    lora = tmp_path / "a.safetensors"
    weights = {"diffusion_model.blocks.99.self_attn.q.lora_A.weight": torch.zeros(4, 8)}
    weights["diffusion_model.blocks.99.self_attn.q.lora_B.weight"] = torch.zeros(8, 4)
    save_file(weights, lora)
    with pytest.raises(EditError, match="another model"):
        load_pipeline("tiny", "cpu", lora=(str(lora),), model=tmp_path / "model")


def test_weights_that_are_not_there_are_named(clip, request_for, tmp_path):
    with pytest.raises(EditError, match=r"model_index\.json"):
        check_request(request_for(clip, model=tmp_path / "nowhere"))
    with pytest.raises(EditError, match="No weights are released"):
        check_request(request_for(clip, preset="1.3b"))


def test_streamed_weights_paint_the_same(clip, pipe, request_for):
    streamed = tiny_pipeline(tower=False, **SMALL)
    put(streamed, "cpu", MemoryMode.STREAMED)
    frames = [run(request_for(clip, frames=5), model)[-1].result.anchor_result for model in (pipe, streamed)]
    assert np.array_equal(*frames)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_the_large_model_is_not_fetched_for_a_machine_without_gpu(clip, request_for):
    with pytest.raises(EditError, match="needs a GPU"):
        load_pipeline("14b")
    with pytest.raises(EditError, match="needs a GPU"):
        next(edit_video(request_for(clip, preset="14b")))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_devices_that_are_not_there_are_refused(device):
    with pytest.raises(EditError, match="device"):
        resolve_device(device)
