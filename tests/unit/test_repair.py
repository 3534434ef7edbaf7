"""The Repair tab without a browser: the damage, the numbers and the pictures are those of the run."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from sama.edit.estimate import Speed
from sama.edit.preview import ClipPreview
from sama.model.pretext import PRETEXT_TASKS
from sama.presets import TINY_FOLDER
from sama.video import FrameReader, probe
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from ui.api import Api
from ui.errors import PromptError
from ui.jobs.jobs import Jobs, JobStep, Restoration, Restored
from ui.jobs.work import restore
from ui.media.clips import PageClip
from ui.repair import words
from ui.repair.damage import Break, Damaged, damage
from ui.repair.numbers import clip_psnr, measured, nearest_frames, speed_read
from ui.repair.record import ERROR_RANGE, ORANGE, SHOWN_FPS, Repair, heat, save_repair
from ui.repair.shipped import load_shipped
from ui.repair.view import view_value
from ui.settings import ASSETS, Settings
from ui.tabs.controls import PageState, Where
from ui.tabs.examples import load_examples
from ui.tabs.repair import RepairTab

STEPS, SHORT = 2, 5


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def jobs() -> Jobs:
    return Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(default_steps=STEPS), warm=False))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> PageClip:
    """Barcode frames: each tells its number."""
    return PageClip.of(probe(make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=17, width=96, height=96)))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> PageClip:
    """For what needs the model."""
    path = tmp_path_factory.mktemp("short") / "clip.mp4"
    return PageClip.of(probe(make_clip(path, frames=SHORT, width=96, height=96)))


def broken(clip: PageClip, task: str, strength: float | None = None, seed: int = 0) -> Damaged:
    return damage(clip, Break.of(task, 0, seed, strength), "tiny")


def sheet_frames(repair: Repair, name: str) -> np.ndarray:
    """The frames of a sheet, (T, H, W, 3), as the view cuts them out."""
    facts, picture = repair.facts, cv2.imread(str(repair.sheet(name)))[..., ::-1]
    height, width, columns = facts["height"], facts["width"], facts["columns"]
    corners = [(index // columns * height, index % columns * width) for index in range(facts["count"])]
    return np.stack([picture[y : y + height, x : x + width] for y, x in corners])


@pytest.fixture(scope="module")
def repaired(jobs: Jobs, short: PageClip, tmp_path_factory: pytest.TempPathFactory):
    """A repair by a random model: the damage, the events of the job, and what was kept of it."""
    damaged = broken(short, "tube")
    order = Restoration(damaged.given, damaged.prefix, "a pattern", 0, clean=damaged.clean)
    events = list(jobs.restore(order))
    last = events[-1]
    folder = tmp_path_factory.mktemp("repair")
    return damaged, events, save_repair(damaged, last.frames, last.ceiling, folder, {"caption": "a pattern"}, ".webp")


@pytest.mark.parametrize("task", PRETEXT_TASKS)
def test_damage_is_limited_to_what_it_says(clip, task):
    damaged = broken(clip, task)
    assert damaged.clean.shape == damaged.given.shape and len(damaged.clean) == 17
    assert damaged.hidden.any()
    assert np.array_equal(damaged.clean[~damaged.hidden], damaged.given[~damaged.hidden])


def test_what_the_view_says_of_the_damage_makes_the_clip_that_the_model_sees(clip):
    """Sources and pieces are taken from the value of the view, as the browser gets it."""

    def facts(damaged):
        value = json.loads(json.dumps({"sources": damaged.sources, "pieces": [vars(p) for p in damaged.pieces]}))
        return value["sources"], value["pieces"]

    cube = broken(clip, "cube")
    sources, _ = facts(cube)
    for index, source in enumerate(sources):
        hidden = bool((cube.given[index] == 127).all())
        assert (source is None) == hidden == bool(cube.touched[index])
    fast = broken(clip, "speed", 3)
    sources, _ = facts(fast)
    assert sources[:7] == [0, 3, 6, 9, 12, 15, 14] and np.array_equal(fast.clean[sources], fast.given)
    cut = broken(clip, "tube")
    _, pieces = facts(cut)
    built = cut.clean.copy()
    for piece in pieces:
        target, origin = (
            tuple(slice(*(place[at], place[at] + place[at + 1])) for at in (0, 2, 4))
            for place in (piece["shown"], piece["origin"])
        )
        built[target] = cut.clean[origin]
    assert [piece["number"] for piece in pieces] == list(range(1, 9)) and np.array_equal(built, cut.given)


def test_strengths_are_what_they_say_and_training_s_by_default(clip):
    assert np.array_equal(broken(clip, "tube", 8).given, broken(clip, "tube").given)
    assert [int(broken(clip, "cube", share).touched.sum()) for share in (0.1, 0.3, 0.6)] == [2, 5, 10]
    for moved in (2, 5):
        assert sum(piece.moved for piece in broken(clip, "tube", moved).pieces) == moved
    assert broken(clip, "speed", 4).sources[:5] == [0, 4, 8, 12, 16]
    with pytest.raises(PromptError, match=r"strength 0\.35 .* 0\.3, 0\.4"):
        Break.of("cube", 0, 0, 0.35)
    with pytest.raises(PromptError, match="cube, speed, tube"):
        Break.of("sphere", 0, 0)


def test_pictures_numbers_film_and_table_are_those_of_the_run(repaired):
    damaged, events, repair = repaired
    restored, ceiling = events[-1].frames, events[-1].ceiling
    assert restored.shape == ceiling.shape == damaged.clean.shape
    assert not np.array_equal(restored, ceiling) and not np.array_equal(ceiling, damaged.clean)
    arrays = {"original": damaged.clean, "seen": damaged.given, "repaired": restored,
              "error": heat(damaged.clean, restored)}  # fmt: skip
    frames = {name: sheet_frames(repair, name) for name in arrays}
    for name, array in arrays.items():
        for index in range(SHORT):
            own = clip_psnr(array[index], frames[name][index])
            different = [frames[key][index] for key in arrays if clip_psnr(arrays[key][index], array[index]) < 30]
            different += [frames[name][at] for at in range(SHORT) if clip_psnr(array[at], array[index]) < 30]
            assert own > 18 and own > max(clip_psnr(array[index], other) for other in different), (name, index)
    psnr = repair.facts["psnr"]
    for name, array in (("given", damaged.given), ("restored", restored), ("autoencoder", ceiling)):
        error = (array.astype(float) - damaged.clean) ** 2
        for place, where in (("hidden", damaged.hidden), ("outside", ~damaged.hidden)):
            if name != "given" or place != "outside":  # nothing was done there: infinite
                assert psnr[f"{name}_{place}"] == pytest.approx(10 * np.log10(255**2 / error[where].mean()), abs=1e-3)
    assert psnr["given_outside"] is None
    rows = list(csv.DictReader(repair.table.open(encoding="utf-8")))
    assert [float(row["error"]) for row in rows] == pytest.approx(
        [np.abs(restored[i].astype(float) - damaged.clean[i]).mean() for i in range(SHORT)], abs=1e-3
    )
    assert [float(row["touched"]) for row in rows] == pytest.approx(list(damaged.touched), abs=1e-4)
    info = probe(repair.film)
    assert (info.frames, float(info.fps)) == (SHORT, SHOWN_FPS)
    with FrameReader(repair.film) as reader:
        film = [frame.image for frame in reader]
    third = film[3].shape[1] // 3
    for at, array in enumerate((damaged.clean, damaged.given, restored)):
        shown = film[3][36:, at * third : (at + 1) * third]
        small = cv2.resize(shown, array.shape[2:0:-1], interpolation=cv2.INTER_AREA)
        assert clip_psnr(small, array[3]) > 18
    assert view_value(Repair.load(repair.folder)) == view_value(repair)


def test_the_heat_map_has_one_scale():
    clean = np.full((1, 2, 3, 3), 100, np.uint8)
    other = clean.copy()
    other[0, 0] = [[100, 100, 100], [100 + ERROR_RANGE] * 3, [255, 255, 255]]
    other[0, 1, 0] = 100 - ERROR_RANGE // 2
    shown = heat(clean, other)[0]
    assert shown[0, 0].tolist() == [100] * 3, "grey where nothing differs"
    assert tuple(shown[0, 1]) == tuple(shown[0, 2]) == ORANGE, "full from the end of the scale on"
    assert shown[1, 0].tolist() == [round((100 + part) / 2) for part in ORANGE], "and half of it half way"


def test_a_speed_is_read_back_from_frames_and_not_from_a_clip_that_stands_still(clip):
    damaged = broken(clip, "speed")
    numbers = measured(damaged, damaged.clean, damaged.clean)
    assert numbers["speed"] == {"given": pytest.approx(2), "restored": pytest.approx(1)}
    unrepaired = measured(damaged, damaged.given, damaged.clean)
    assert unrepaired["speed"]["restored"] == pytest.approx(2)
    assert [frame["restored_shows"] for frame in unrepaired["frames"]] == [at + 1 for at in damaged.detail["index"]]
    still = np.repeat(damaged.clean[:1], 17, axis=0)
    assert nearest_frames(still, still) == [None] * 17 and speed_read([None] * 17, 9) is None
    told = words.speed_sentence({"speed": {"given": 2.0, "restored": None}})
    assert "cannot be read back" in told


def test_sentences_say_what_was_done_and_what_became_of_it(clip):
    damaged = broken(clip, "cube", seed=1)
    first, count = damaged.detail["start"] + 1, damaged.detail["length"]
    facts = {"choice": vars(damaged.choice), "count": 17, "touched": list(damaged.touched), "pieces": []}
    assert words.damage_sentence(facts) == (
        f"Frames {first} to {first + count - 1} of 17 were hidden. The model sees the rest."
    )
    facts |= measured(damaged, damaged.clean // 2 + 60, damaged.clean)
    psnr = facts["psnr"]
    said = words.repair_sentence(facts)
    assert f"{psnr['given_hidden']:.1f} → {psnr['restored_hidden']:.1f} dB" in said and "30 looks the same" in said
    worse = facts | {"psnr": psnr | {"restored_hidden": psnr["given_hidden"] - 1}}
    assert "did not manage" in words.repair_sentence(worse) and "did not manage" not in said


def test_what_forms_is_seen_at_every_step(repaired):
    damaged, events, _ = repaired
    steps = [event for event in events if isinstance(event, JobStep) and event.step]
    assert [(step.step, step.steps) for step in steps] == [(number, STEPS) for number in range(1, STEPS + 1)]
    height, width = damaged.clean.shape[1:3]
    assert all(step.preview.shape == (2 * height, width, 3) for step in steps)
    assert any(not np.array_equal(a.preview, b.preview) for a, b in pairwise(steps))


def test_the_preview_of_a_clip_shows_each_part_of_it():
    """By the embedded model's autoencoder: the picture of a latent frame is nearest to its own four frames."""
    pipeline = tiny_pipeline(tower=False)
    pipeline.register_modules(vae=AutoencoderKLWan.from_pretrained(TINY_FOLDER / "vae", torch_dtype=torch.float32))
    rows, columns = np.mgrid[:96, :128]
    frames = np.empty((9, 96, 128, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = (40, 70 + index, 90)
        frame[..., 1] += (rows // 2).astype(np.uint8)
        frame[(rows - 48) ** 2 + (columns - 20 - 10 * index) ** 2 < 500] = (230, 200, 40)
    latents = pipeline.encode_video(torch.from_numpy(frames)[None].float() / 255)
    shown = ClipPreview.fit(frames, latents)(latents).reshape(3, 96, 128, 3)
    for part, middle in ((0, 0), (1, 3), (2, 7)):
        likeness = [clip_psnr(shown[part], frame) for frame in frames]
        assert abs(int(np.argmax(likeness)) - middle) <= 1 and likeness[middle] > 20


def tab_with(jobs: Jobs, examples=(), shipped=(), session: PageState | None = None) -> RepairTab:
    with gr.Blocks(), gr.Tab("Repair") as tab:
        session = session or PageState(gr.State(None), gr.State([]), gr.State(None))
        return RepairTab(tab, jobs, list(examples), list(shipped), session)


def test_the_tab_breaks_once_keeps_what_is_repaired_and_comes_back_to_it(jobs, short, monkeypatch):
    tab = tab_with(jobs)
    state = tab.state.value
    breaks = []
    monkeypatch.setattr("ui.tabs.repair.damage", lambda *args: breaks.append(args) or damage(*args))
    form = [0, "cube", 30, 0, 0, "a pattern", short]
    assert tab._opened(state, *form)[tab.view]["damage"].startswith("Frame")
    assert tab.view not in tab._opened(state, *form) and len(breaks) == 1, "coming back breaks nothing again"
    where = Where()
    *steps, last = tab._repair(where, state, *form)
    assert where.ended.is_set()
    assert sum(step[tab.view]["forming"] is not None for step in steps) == STEPS
    value = last[tab.view]
    assert set(value["sheets"]) == {"original", "seen", "repaired", "error"} and "dB" in value["result"]
    assert last[tab.get_film].visible and state.shown.film.is_file()
    made = len(breaks)
    other = tab._by_number(state, 0, "cube", 30, 0, 7, "a pattern", short)
    assert "repaired" not in other[tab.view]["sheets"] and len(breaks) == made + 1
    again = tab._by_number(state, *form)
    assert again[tab.view]["sheets"] == value["sheets"] and len(breaks) == made + 1, "the repair is still there"
    refused = tab._by_number(state, 0, "cube", 30, 0, 0, "", None)
    assert words.NO_CLIP in refused[tab.problem] and refused[tab.view] is None


def test_a_job_does_not_draw_over_what_the_visitor_has_moved_on_to(jobs, short):
    tab = tab_with(jobs)
    state, form = tab.state.value, [0, "cube", 30, 0, 0, "", short]
    tab._opened(state, *form)
    run = tab._repair(Where(), state, *form)
    next(run)
    moved_on = tab._by_task(state, 0, "speed", 2, 0, 0, "", short)
    assert moved_on[tab.view]["task"] == "speed"
    *steps, last = run
    assert len(steps) >= STEPS and not any(tab.view in step for step in steps)
    assert tab.view not in last and words.ELSEWHERE in last[tab.progress]
    assert "repaired" in tab._by_task(state, 0, "cube", 30, 0, 0, "", short)[tab.view]["sheets"]


def test_an_own_clip_is_taken_once(jobs, clip):
    examples, shipped = load_examples(ASSETS / "examples"), load_shipped(ASSETS / "examples")
    tab = tab_with(jobs, examples, shipped)
    state = tab.state.value
    form = [tab._index(tab.first.example), "cube", 30, 0, 0, "two towers"]
    taken = tab._opened(state, *form, replace(clip, caption="my pattern"))
    assert (
        taken[tab.clip] == words.OWN_CLIP
        and taken[tab.caption] == "my pattern"
        and "repaired" not in taken[tab.view]["sheets"]
    )
    back = tab._by_clip(state, *form, clip)
    assert "repaired" in back[tab.view]["sheets"] and back[tab.caption] == examples[0].caption
    assert tab.view not in tab._opened(state, *form, clip), "chosen otherwise since"
    assert tab._by_task(state, 0, "speed", 30, 0, 0, "", clip)[tab.clip] == words.OWN_CLIP, (
        "and it stays for other damage"
    )


def test_a_stopped_repair_leaves_what_was_there(jobs, short):
    tab = tab_with(jobs)
    state, form, where = tab.state.value, [0, "tube", 8, 0, 0, "", short], Where()
    tab._opened(state, *form)
    run = tab._repair(where, state, *form)
    next(run), next(run)
    run.close()
    assert where.ended.is_set()
    left = tab._stopped(where, state)
    assert left["forming"] is None and not left["progress"] and Path(left["sheets"]["seen"]["path"]).is_file()


def test_the_button_says_how_long_a_repair_takes(clip):
    jobs = Jobs(Settings(warm=False))
    jobs._speed = Speed(1e10, 1e10, 1e10, "a slow machine")
    grey = np.zeros((17, 144, 256, 3), np.uint8)
    plain, short = (jobs.restoration_seconds(Restoration(grey[:count], "", "")) for count in (17, 9))
    measured_too = jobs.restoration_seconds(Restoration(grey, "", "", clean=grey))
    assert measured_too > plain > short > 10
    tab = tab_with(jobs)
    told = tab._estimate(tab.state.value, 0, "cube", 30, 0, 0, "", clip)
    assert told.value.startswith("Repair it · about ") and " min " in told.value


def test_the_shipped_repairs_are_small_and_are_repairs_of_the_examples():
    examples = {edit.folder.name: edit for edit in load_examples(ASSETS / "examples")}
    shipped = load_shipped(ASSETS / "examples")
    assert {each.choice.task for each in shipped} == set(PRETEXT_TASKS)
    folders = [each.repair.folder for each in shipped]
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 1_500_000
    assert {folder.name for folder in folders} == {each.name for each in folders[0].parent.iterdir() if each.is_dir()}
    for each in shipped:
        edit, facts = examples[each.example], each.repair.facts
        damaged = damage(PageClip.of(probe(edit.source)), each.choice, "tiny")
        assert facts["detail"] == json.loads(json.dumps(damaged.detail)) and facts["model"] == "tiny"
        for name, array in (("original", damaged.clean), ("seen", damaged.given)):
            assert clip_psnr(sheet_frames(each.repair, name), array) > 30
        assert facts["touched"][view_value(each.repair)["opens"]] > 0, "it opens at a damaged frame"
        psnr = facts["psnr"]
        found = clip_psnr(sheet_frames(each.repair, "repaired"), damaged.clean, damaged.hidden)
        assert found == pytest.approx(psnr["restored_hidden"], abs=1)
        assert psnr["given_hidden"] + 3 < psnr["restored_hidden"] < psnr["autoencoder_hidden"]


def test_the_tab_opens_on_the_shipped_repair_and_has_one_for_each_damage(jobs):
    examples, shipped = load_examples(ASSETS / "examples"), load_shipped(ASSETS / "examples")
    tab = tab_with(jobs, examples, shipped)
    state = tab.state.value
    own = PageClip.of(probe(examples[0].source))
    assert state.shown.finished and tab.caption.value and tab.get_film.visible
    form = [tab._index(tab.first.example), tab.task.value, tab.strength.value, 0, 0, tab.caption.value, own]
    assert tab.view not in tab._opened(state, *form), "nothing is broken again, and the example is no own clip"
    for task in ("speed", "tube", "cube"):
        shown = tab._by_task(state, form[0], task, 30, 0, 0, "", own)
        assert shown[tab.view]["task"] == task and "repaired" in shown[tab.view]["sheets"]
        assert shown[tab.caption]
    assert len({edit.caption for edit in tab.examples}) == len(tab.examples) == len(tab.clip.choices) - 1


def test_the_api_damages_as_strongly_as_asked_and_measures_against_the_autoencoder(jobs, clip, short):
    api = Api(jobs)
    _, detail = api.corrupt_clip(str(clip.path), "cube", strength=0.6)
    assert detail["length"] == 10
    *_, (_, psnr, state) = api.restore_clip(str(short.path), "tube", steps=1, strength=2)
    assert state == "Done" and np.isfinite([psnr["restored_hidden"], psnr["autoencoder_hidden"]]).all()
    with pytest.raises(gr.Error, match=r"strength 0\.9"):
        api.corrupt_clip(str(clip.path), "cube", strength=0.9)


def test_the_clean_clip_is_measured_and_not_seen_by_the_model(repaired, jobs):
    damaged, events, _ = repaired
    pipeline = jobs.engine.pipeline()
    decoded = pipeline.decode_latents(pipeline.encode_video(torch.from_numpy(damaged.clean)[None].float() / 255))
    assert np.abs(decoded[0].numpy() * 255 - events[-1].ceiling).max() <= 0.51, "the autoencoder of the clean clip"
    order = Restoration(damaged.given, damaged.prefix, "a pattern", 0)
    *_, last = restore(order, pipeline)
    assert isinstance(last, Restored) and last.ceiling is None and np.array_equal(last.frames, events[-1].frames)
