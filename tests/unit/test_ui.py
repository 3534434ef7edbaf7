"""The web app without a browser: what it refuses and says, its jobs, its files and its API."""

from __future__ import annotations

import errno
import html
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from sama.edit.request import EditRequest, sampled
from sama.errors import EditError, EditFailedError, VideoError
from sama.presets import PRESETS, QUALITIES
from sama.video import FrameReader, probe
from tests.edit_tab import edit_tab, press, values
from tests.media import audio_packets, frame_times, make_clip, make_text, read_barcode
from tests.tiny import tiny_pipeline
from ui.api import Api
from ui.errors import PromptError, sentence
from ui.jobs.jobs import Edited, Jobs, JobStep
from ui.media.clips import PageClip, take_upload
from ui.media.folders import keep, leave, new_folder, remove, sweep
from ui.media.limits import LEAVE_SECONDS, PROMPT_LENGTH, UPLOAD_LIMITS, checked_instruction, limits_table
from ui.media.runs import FinishedEdit, compose_film
from ui.settings import Settings
from ui.tabs.controls import Where
from ui.tabs.examples import build_example, load_examples

INSTRUCTION = "Make it snowy"
STEPS = 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


def jobs_of(cache: Path) -> Path:
    """Where the folders of jobs are: beside gradio's cache, from which everything is served."""
    return cache.with_name("cache-jobs")


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    return Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(default_steps=STEPS), warm=False))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=9, audio="aac")


@pytest.fixture
def large(tmp_path: Path, cache: Path) -> PageClip:
    """A clip larger than the model's size, as the page has it after an upload."""
    return take_upload(make_clip(tmp_path / "large.mp4", frames=5, width=320, height=192))


@pytest.fixture(scope="module")
def finished(jobs: Jobs, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedEdit:
    folder = tmp_path_factory.mktemp("examples")
    entry = {"name": "snow", "title": "Snow", "caption": "a pattern", "credit": "made here"}
    return build_example(EditRequest(clip, INSTRUCTION, ""), jobs, folder, entry, film=True)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("  Make it snowy\n", "Make it snowy"), ("Add\x00 a\tcat", "Add a cat"), ("雪を降らせて", "雪を降らせて")],
)
def test_prompts_are_cleaned(given, kept):
    assert checked_instruction(given) == kept


@pytest.mark.parametrize("bad", [None, "", "  ", "ab", "a" * (PROMPT_LENGTH[1] + 1)])
def test_prompts_of_the_wrong_length_are_refused_on_the_server(bad):
    with pytest.raises(PromptError, match=r"\.$|”\.$"):
        checked_instruction(bad)


def test_the_table_of_limits_says_what_is_checked():
    words = limits_table(97)
    for number in (UPLOAD_LIMITS.max_side, int(UPLOAD_LIMITS.max_seconds), UPLOAD_LIMITS.max_bytes // 1_000_000, 97):
        assert str(number) in words


def test_mistakes_of_the_user_are_said_as_they_are():
    for kind in (VideoError, EditError, PromptError):
        assert sentence(kind("Cut the clip first.")) == "Cut the clip first."


def test_a_quality_sets_the_steps_and_tells_its_time(jobs, large, tmp_path, monkeypatch):
    tab, _ = edit_tab(jobs)
    fast, info = PRESETS["tiny"].qualities["fast"], jobs.settings.info
    form = tab.form
    assert form._choose_quality("fast") == {form.steps: fast.steps, form.guidance: fast.guidance}
    assert form._choose_quality("balanced") == {form.steps: info.steps, form.guidance: info.guidance}
    assert form.quality.value == "balanced" and [name for _, name in form.quality.choices] == list(QUALITIES)

    monkeypatch.setattr(jobs, "estimate", lambda request: float(sampled(request).steps or 10))
    asked = values(tab, large, steps=30, guidance=3.0, quality="fast")
    told = form.tell(asked)
    assert "about 30 s" in told[form.estimate]
    labels = [label for label, _ in told[form.quality].choices]
    assert labels[0] == f"Fast\n{fast.steps} s" and labels[1] == "Balanced\n10 s"
    request = form.read(asked | {form.quality: "best"}).request(jobs.settings, tmp_path)
    assert (request.quality, request.steps) == ("best", 30)


def test_failures_of_ours_get_a_number_and_show_nothing(caplog):
    words = sentence(FileNotFoundError(2, "No such file", "/secret/place/model.bin"))
    assert "secret" not in words and "ref " in words
    reference = words.split("ref ")[1].split(")")[0]
    assert reference in caplog.text


@pytest.mark.parametrize(
    ("title", "part"),
    [
        ("ZeroGPU quota exceeded", "used up"),
        ("ZeroGPU illegal duration", "fewer frames"),
        ("ZeroGPU queue timeout", "try again"),
        ("ZeroGPU client error", "No GPU became free"),
        ("ZeroGPU pending credits exceeded", "Wait"),
    ],
)
def test_refusals_of_zero_gpu_are_translated(title, part):
    assert part in sentence(gr.Error("a message of theirs", title=title))


@pytest.mark.parametrize("words", ["404 Client Error: Not Found for url", "queue timeout of a proxy"])
def test_what_others_say_is_not_taken_for_zero_gpu(words):
    assert "ref " in sentence(OSError(words))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes. Error code 12"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
        EditFailedError("There is not enough memory; edit fewer frames, or use a smaller preset."),
    ],
)
def test_a_lack_of_memory_is_said_with_what_to_do_next(error):
    words = sentence(error)
    assert "memory" in words and "fewer frames" in words and "kept" in words and "ref " not in words


def test_memory_that_torch_really_refuses_is_recognised():
    import torch

    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**55, dtype=torch.uint8)
    assert "fewer frames" in sentence(refused.value)


def test_a_full_disk_is_said():
    assert "disk is full" in sentence(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize(
    ("instruction", "rest"),
    [
        ("Make it snowy", ""),
        ("snowy " * 57 + "cat", ""),
        ("snowy " * 58 + "cat dog", "cat dog"),
        ("Add the subtitle " + '"' + "abc" * 14 + '" with a cat', "a cat"),  # its letters are read first
    ],
)
def test_the_end_that_the_model_does_not_read_is_told(jobs, instruction, rest):
    jobs.engine.pipeline()
    told = html.unescape(edit_tab(jobs)[0].form.tell_unread(instruction))
    assert (told == "") == (rest == "")
    assert not rest or ("64 tokens" in told and f"{rest}”" in told)


def test_nobody_waits_for_a_model_to_be_told_what_it_reads(jobs):
    waiting = Jobs(jobs.settings)
    assert edit_tab(waiting)[0].form.tell_unread("snowy " * 99) == "" and not waiting.engine.loaded


def test_an_upload_is_always_rewritten(tmp_path, cache):
    taken = take_upload(make_clip(tmp_path / "name with spaces.mp4", frames=6, rotation=90))
    assert taken.path.is_relative_to(jobs_of(cache)) and taken.path.name == "clip.mp4"
    assert (taken.width, taken.height, taken.frames) == (64, 96, 6)


def test_a_refused_upload_leaves_nothing(tmp_path, cache):
    with pytest.raises(VideoError):
        take_upload(make_text(tmp_path / "notes.mp4"))
    assert not list(cache.glob("*")) and not list(jobs_of(cache).glob("*"))


def aged(folder: Path, seconds: float = 7200) -> Path:
    for path in (*folder.iterdir(), folder):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder


def test_folders_go_when_nobody_has_used_them_for_an_hour(cache):
    old, young, used = new_folder(), new_folder(), new_folder()
    (used / "clip.mp4").touch()
    aged(old), aged(used)
    keep([used / "clip.mp4", None, cache / "gone"])
    sweep(3600)
    assert young.exists() and not old.exists()
    assert (used / "clip.mp4").stat().st_mtime > time.time() - 60  # gradio ages single files


def test_only_folders_of_jobs_are_kept_or_removed(cache, tmp_path):
    new_folder()
    other, example = jobs_of(cache) / "abc", tmp_path / "examples" / "snow"
    for folder in (other, example):
        folder.mkdir(parents=True)
        keep([aged(folder), aged(folder) / "source.mp4"])
        assert folder.stat().st_mtime < time.time() - 3600
        remove(folder)
    sweep(3600)
    assert other.exists() and example.exists()


def test_a_closed_page_is_forgotten_soon_and_others_are_not(cache, clip, monkeypatch):
    from gradio.processing_utils import save_file_to_cache

    folders, uploads, shown = {}, {}, {}
    for session in ("gone", "reloaded", "open"):
        monkeypatch.setattr("ui.media.folders._current_session", lambda name=session: name)
        uploads[session] = cache / ("same" if session != "open" else "other") / "clip.mp4"
        uploads[session].parent.mkdir(parents=True, exist_ok=True)
        uploads[session].write_bytes(clip.read_bytes())
        folders[session] = take_upload(uploads[session]).path.parent
        (folders[session] / "own.txt").write_text(session)
        shown[session] = [
            Path(save_file_to_cache(folders[session] / name, str(cache))) for name in ("clip.mp4", "own.txt")
        ]
    assert len({len(folder.name) for folder in folders.values()}) == 1 and len(folder_name := folders["gone"].name) > 32
    assert folder_name not in str(shown)  # what is served tells nothing of its folder
    leave("gone"), leave("reloaded")
    keep([folders["reloaded"] / "clip.mp4"])  # the new page goes on with it
    sweep()
    assert all(folder.exists() for folder in folders.values())
    later = time.time() + LEAVE_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    sweep()
    assert [folder.exists() for folder in folders.values()] == [False, True, True]
    assert [path.exists() for path in shown["gone"]] == [True, False]  # others have the same clip
    assert all(path.exists() for name in ("reloaded", "open") for path in shown[name])
    remove(folders["reloaded"])
    assert not uploads["gone"].exists() and uploads["open"].exists()
    assert [path.exists() for path in shown["open"]] == [True, True]
    remove(folders["open"])
    assert not [path for path in cache.rglob("*") if path.is_file()] and not list(jobs_of(cache).iterdir())


def test_a_running_edit_keeps_its_folder_and_its_clip(jobs, clip, cache):
    """Each step of a job that takes hours counts as use."""
    tab, _ = edit_tab(jobs)
    taken = take_upload(clip)
    run = press(tab, taken)
    next(run)
    for update in run:
        for folder in jobs_of(cache).glob("sama-*"):
            assert folder.stat().st_mtime > time.time() - 3600
            aged(folder)
        sweep(3600 * 3)
        if update.get(tab.running.fresh):
            break
    assert taken.path.exists() and update[tab.running.fresh].result.exists()


def test_an_open_page_keeps_its_clip_and_its_runs(finished, clip, cache):
    from ui.app import _keep

    taken, run = take_upload(clip), new_folder()
    for folder in (taken.path.parent, run):
        aged(folder)
    _keep(taken, [replace(finished, folder=run)])
    sweep(3600)
    assert taken.path.exists() and run.exists()


def test_an_edit_reports_every_step_and_ends_with_its_tokens(jobs, clip, tmp_path):
    events = list(jobs.edit(EditRequest(clip, INSTRUCTION, tmp_path / "result.mp4")))
    painted = [
        event.step for event in events if isinstance(event, JobStep) and event.phase == "painting" and event.step
    ]
    assert painted == list(range(1, STEPS + 1))
    assert isinstance(events[-1], Edited) and events[-1].tokens.plan.shape[:2] == (STEPS, 65)
    assert probe(tmp_path / "result.mp4").frames == 9


def test_closing_an_edit_stops_it_and_the_next_one_runs(jobs, clip, tmp_path):
    run = jobs.edit(EditRequest(clip, INSTRUCTION, tmp_path / "result.mp4"))
    while next(run).step < 1:
        pass
    run.close()
    assert not list(tmp_path.glob("*.mp4"))
    *_, last = jobs.edit(EditRequest(clip, INSTRUCTION, tmp_path / "result.mp4"))
    assert isinstance(last, Edited)


def test_a_job_stays_in_one_thread(jobs, clip, tmp_path):
    seen = set()
    stream = jobs.engine.pipeline().stream

    def watched(*args, **kwargs):
        for item in stream(*args, **kwargs):
            seen.add(threading.get_ident())
            yield item

    other = Jobs(jobs.settings)
    other.engine._pipeline = jobs.engine.pipeline()
    other.engine._pipeline.stream = watched
    try:
        run = other.edit(EditRequest(clip, INSTRUCTION, tmp_path / "result.mp4"))
        while True:  # as gradio does: every step from another thread
            ended = []
            thread = threading.Thread(target=lambda into=ended: into.append(next(run, None) is None))
            thread.start()
            thread.join()
            if ended[0]:
                break
    finally:
        del other.engine._pipeline.stream
    assert len(seen) == 1 and threading.get_ident() not in seen


def test_settings_name_the_presets_there_are():
    with pytest.raises(ValueError, match="tiny"):
        Settings(preset="huge")


def test_only_a_space_listens_to_the_outside():
    assert Settings(on_spaces=False).address == "127.0.0.1"
    assert Settings(on_spaces=True).address == "0.0.0.0"


def test_the_packed_video_holds_both_clips_in_step(finished):
    half = finished.width
    with FrameReader(finished.folder / "packed.mp4") as packed, FrameReader(finished.result) as result:
        for index, (both, edited) in enumerate(zip(packed, result, strict=True)):
            assert read_barcode(both.image[:, :half]) == index
            assert np.abs(both.image[:, half:].astype(int) - edited.image).mean() < 8
    assert index + 1 == finished.frames == 9


def test_the_film_for_people_loses_no_frame_and_no_sound(finished):
    info = probe(finished.film)
    assert (info.frames, info.fps) == (finished.frames, probe(finished.result).fps)
    assert info.width > 2 * finished.width
    assert [data for _, data in audio_packets(finished.film)] == [data for _, data in audio_packets(finished.result)]


def test_the_film_says_which_is_which(finished, tmp_path):
    plain = compose_film(finished)
    with FrameReader(plain, 0, 1) as reader:
        image = next(iter(reader)).image
    bar = image[:40]
    assert bar[:, : image.shape[1] // 2].max() > 200 and bar[:, image.shape[1] // 2 :].max() > 200


def test_a_result_is_safe_before_it_is_packed_and_stays_when_packing_fails(jobs, clip, cache, monkeypatch):
    def fail(_edit):
        raise OSError("the disk is full")

    tab, session = edit_tab(jobs)
    monkeypatch.setattr("ui.tabs.edit.running.pack", fail)
    monkeypatch.setattr("ui.tabs.edit.running.compose_film", fail)
    where = Where()
    *_, last = press(tab, take_upload(clip), where=where)
    edit = last[tab.running.fresh]
    assert where.ended.is_set()  # the next visitor's turn begins before anything else is made
    assert last[tab.stage.viewer]["panels"] == ["Edited"] and last[session.runs] == [edit]
    for update in (tab.running.compare(edit, edit, [edit]), tab.running.film(edit, edit, [edit])):
        assert "Your edit is finished" in update[tab.form.problem] and "disk" not in update[tab.form.problem]
    assert probe(edit.result).frames == 9 and edit.settings_file.is_file() and edit.packed is None


def test_a_fresh_result_gets_its_comparison_and_its_film_unless_another_is_shown(jobs, clip):
    tab, _ = edit_tab(jobs)
    *_, last = press(tab, take_upload(clip))
    edit = last[tab.running.fresh]
    running = tab.running
    for update in (running.compare(None, None, []), running.film(None, None, [])):
        assert update == {tab.form.problem: gr.skip()}  # an answer, which changes nothing
    assert tab.stage.viewer not in running.compare(edit, None, [edit])
    update = running.compare(edit, edit, [edit])
    assert update[tab.stage.viewer]["panels"] == ["Original", "Edited"]
    (card,) = update[tab.opening.own]["cards"]
    assert card["words"] == INSTRUCTION and Path(card["picture"]["path"]) == edit.poster
    files = running.film(edit, edit, [edit])[tab.stage.title]["files"]
    assert [file["name"] for file in files] == [
        "make-it-snowy.mp4",
        "make-it-snowy-side-by-side.mp4",
        "make-it-snowy.json",
    ]
    assert all(Path(file["file"]["path"]).stat().st_size > 0 for file in files)


def test_a_failed_run_leaves_no_folder_and_says_why(jobs, clip, cache, monkeypatch):
    tab, _ = edit_tab(jobs)
    taken = take_upload(clip)

    def fail(_request):
        raise EditFailedError("There is not enough memory; edit fewer frames.")
        yield

    monkeypatch.setattr(jobs, "edit", fail)
    *_, last = press(tab, taken)
    assert "not enough memory; edit fewer frames" in last[tab.form.problem]
    assert list(jobs_of(cache).glob("sama-*")) == [taken.path.parent]


def test_a_variable_rate_keeps_its_times_in_comparison_and_film(jobs, tmp_path):
    """The second half at half speed: at a constant rate, the picture would end 0.4 s before its sound."""
    times = [Fraction(number if number < 9 else 9 + 2 * (number - 9), 24) for number in range(18)]
    clip = take_upload(make_clip(tmp_path / "vfr.mp4", frames=17, times=times, audio="aac"))
    tab, _ = edit_tab(jobs)
    *_, last = press(tab, clip)
    edit = last[tab.running.fresh]
    value = tab.running.compare(edit, edit, [edit])[tab.stage.viewer]
    times.pop()  # the end of the last frame
    assert frame_times(edit.result) == times and value["times"] == pytest.approx([float(time) for time in times])
    for made in (edit.packed, compose_film(edit)):
        assert frame_times(made) == times
        assert [data for _, data in audio_packets(made)] == [data for _, data in audio_packets(edit.result)]
        assert probe(made).duration == pytest.approx(probe(edit.result).duration, abs=0.01)
    with FrameReader(edit.packed) as packed:
        assert [read_barcode(frame.image[:, : edit.width]) for frame in packed] == list(range(17))


def test_a_constant_rate_needs_no_times(finished):
    assert finished.comparison().times == ()


def test_settings_of_a_finished_edit_name_no_place_of_this_machine(finished):
    stored = json.loads(finished.settings_file.read_text())
    assert (stored["video"], stored["output"]) == ("source.mp4", "result.mp4")
    assert "/" not in json.dumps({k: v for k, v in stored.items() if k != "fps"})


def test_examples_load_in_order_and_a_broken_one_is_left_out(finished, caplog):
    folder = finished.folder.parent
    manifest = folder / "manifest.json"
    entries = json.loads(manifest.read_text())
    try:
        manifest.write_text(json.dumps([{"name": "gone", "title": "Gone"}, *entries]))
        (loaded,) = load_examples(folder)
    finally:
        manifest.write_text(json.dumps(entries))
    assert loaded.title == "Snow" and loaded.caption == "a pattern" and loaded.instruction == INSTRUCTION
    assert loaded.credit == "made here"
    assert "gone" in caplog.text


@pytest.mark.parametrize(
    ("chosen", "asked", "said"), [("Automatic", "auto", True), ("Always", "on", True), ("Never", "off", False)]
)
def test_what_is_chosen_about_detail_is_done_and_told(jobs, large, chosen, asked, said):
    tab, session = edit_tab(jobs)
    *_, last = press(tab, large, steps=1, guidance=1.0, keep_source="Never", detail=chosen)
    (run,) = last[session.runs]
    assert (run.settings["detail"], run.settings["kept_detail"]) == (asked, said)
    assert ("with the source's detail" in last[tab.stage.title]["facts"]) == said


def test_the_page_offers_detail_beside_keep_source(jobs, large):
    form = edit_tab(jobs)[0].form
    assert form.detail.parent is form.keep.parent and form.detail.value == "Automatic"
    assert [name for name, _ in form.detail.choices] == ["Automatic", "Always", "Never"]


@pytest.mark.parametrize("detail", ["auto", "off"])
def test_the_api_takes_detail(jobs, large, detail):
    *_, (_, settings, state) = Api(jobs).edit_video(
        str(large.path), INSTRUCTION, frames=5, steps=1, detail=detail, quality="fast"
    )
    assert json.loads(Path(settings).read_text(encoding="utf-8"))["quality"] == "fast"
    facts = json.loads(Path(settings).read_text())
    assert (facts["detail"], facts["kept_detail"]) == (detail, detail == "auto") and state.startswith("Done")


def test_the_api_refuses_another_word_for_detail(jobs, large):
    with pytest.raises(gr.Error, match="auto, on, off"):
        list(Api(jobs).edit_video(str(large.path), INSTRUCTION, frames=5, steps=1, detail="maybe"))


def test_the_description_of_the_api_names_detail(jobs, finished):
    from ui.app import build_app

    api = build_app(replace(jobs.settings, examples=finished.folder.parent)).get_api_info()["named_endpoints"]
    (parameter,) = [each for each in api["/edit_video"]["parameters"] if each["parameter_name"] == "detail"]
    assert parameter["parameter_default"] == "auto" and parameter["type"]["enum"] == ["auto", "on", "off"]


def test_the_api_is_four_documented_functions_and_nothing_else(jobs, finished):
    from ui.app import build_app, launch_options

    settings = replace(jobs.settings, examples=finished.folder.parent)
    demo = build_app(settings)
    api = demo.get_api_info()
    assert set(api["named_endpoints"]) == {"/edit_video", "/plan_of", "/corrupt_clip", "/restore_clip"}
    assert not api["unnamed_endpoints"]
    for endpoint in api["named_endpoints"].values():
        assert endpoint["description"]
        for parameter in endpoint["parameters"]:
            assert parameter["python_type"]["description"], parameter["parameter_name"]
            assert parameter["example_input"] != "Hello!!" and "http" not in str(parameter["example_input"])
    assert any("Snow: made here." in str(getattr(block, "value", "")) for block in demo.blocks.values())
    assert demo.api_open is False and demo._queue.max_size
    options = launch_options(settings)
    assert options["share"] is False and options["show_error"] is False and options["run_history"] is False
    assert options["allowed_paths"] == [str(settings.examples)]


def test_starting_the_app_does_not_wait_for_torch():
    code = "import sys, app; app.parse([]); print(sorted({'torch', 'gradio', 'diffusers'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
