"""The parts of the Edit tab without a browser: words, names of files, chains, what comes back, the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sama.presets import TINY_FOLDER
from tests.edit_tab import edit_tab, press, values
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from training.evaluation.held_out.report import read_report
from training.evaluation.held_out.summary import summarise
from ui.errors import PromptError
from ui.jobs.jobs import Jobs
from ui.media.clips import edited_clip, take_upload
from ui.page.header import scores_of
from ui.settings import Settings
from ui.stage.title import chain_of, file_stem
from ui.tabs.edit.choices import Choices
from ui.tabs.edit.memory import Memory


@pytest.mark.parametrize(
    ("words", "stem"),
    [("Make it snowy!", "make-it-snowy"), ("../../etc/passwd", "etc-passwd"), ("雪を降らせて", "雪を降らせて"),
     ("…", "edit"), ("x" * 300, "x" * 48), ("word " * 30, "-".join(["word"] * 9))],
)  # fmt: skip
def test_files_are_named_by_the_words(words, stem):
    assert file_stem(words) == stem


def test_the_header_shows_the_benchmarks_own_figures():
    scores = summarise(read_report(Path("docs/benchmark/scores.json")))
    shown = {row.kind: (row.percent, row.pairs) for row in scores_of(TINY_FOLDER)}
    assert len(shown) == len(scores) - 1  # all but "all"
    for kind, task in (("weather", "weather"), ("style", "style"), ("move an object", "move"),
                       ("new subtitle", "subtitle_add"),
                       ("leave alone what is not there", "identity"), ("recolour an object", "recolour")):  # fmt: skip
        followed = scores[task]["followed"]
        assert shown[kind] == (round(100 * followed.mean), followed.n)


def test_templates_are_refused_and_dots_in_quotes_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    clip = take_upload(make_clip(tmp_path / "clip.mp4", frames=5))
    with pytest.raises(PromptError, match="your own words"):
        Choices(clip, "Replace the … with …").check()
    assert Choices(clip, 'Add the subtitle "wait…"').check()
    with pytest.raises(PromptError, match="Upload a clip"):
        Choices(None, "Make it snowy").check()


def test_an_edit_is_told_from_its_repetition_and_comes_back_with_its_chain(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    jobs = Jobs(Settings(pipeline_loader=lambda: tiny_pipeline(default_steps=1), warm=False))
    tab, session = edit_tab(jobs)
    clip = take_upload(make_clip(tmp_path / "clip.mp4", frames=5))
    quick = {"steps": 1, "guidance": 1.0}
    *_, last = press(tab, clip, **quick)
    first = last[tab.running.fresh]
    asked = tab.form.read(values(tab, clip, **quick))
    assert asked.repeats(first, jobs.settings)
    for other in ({"instruction": "Make it foggy"}, {"seed": 1}, {"frames": 4}, {"steps": 2}, {"keep_source": "Never"}):
        assert not replace(asked, **other).repeats(first, jobs.settings), other
    *_, last = press(tab, clip, shown=first, **quick)
    version = last[tab.running.fresh]
    assert version.settings["seed"] != 0 and last[tab.form.seed] == version.settings["seed"]
    *_, last = press(tab, edited_clip(first), "Make it foggy", **quick)
    (second, *_), runs = last[session.runs], [last[tab.running.fresh], version, first]
    assert second.parent == first.folder and chain_of(second, runs) == [2] and chain_of(first, runs) == []
    memory = Memory(tab.form, tab.stage, session, tab.opening)
    noted = memory.note(clip, runs)
    recalled = memory.recall(noted)
    assert recalled[session.runs] == runs and recalled[session.clip].path == clip.path
    outside = {"runs": [["../../etc", None]], "clip": ["..", "clip.mp4", None]}
    beside = {"runs": [[first.folder.name + "/../x", None]], "clip": [clip.path.parent.name, "../a", None]}
    for bad in (None, "x", outside, beside, {"runs": 5, "clip": [1, 2, 3]}):
        assert memory.recall(bad) == {session.runs: []}
