"""Batches: a table or a folder of jobs on one loaded model; mistakes are told and the others go on."""

import functools
import json

import pytest

from sama import cli
from sama.edit import batch
from sama.edit.batch import read_jobs
from sama.errors import EditError
from sama.video import probe
from tests.media import make_clip, make_text
from tests.tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "saved"
    tiny_pipeline(tower=False).save_pretrained(folder)
    return folder


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mov"):
        make_clip(folder / name, frames=2, width=96, height=54)
    make_text(folder / "notes.txt")
    return folder


def run(model, *arguments):
    given = ["--model", model, "--steps", 1, "--keep-source", "off", "--quiet"]
    return cli.main(["batch", *map(str, arguments), *map(str, given)])


def test_a_table_is_done_with_one_model_and_goes_on_where_it_was(clips, model, tmp_path, capsys, monkeypatch):
    loads, loaded = [], functools.cache(batch.load_pipeline)
    monkeypatch.setattr(batch, "load_pipeline", lambda *given: loads.append(given) or loaded(*given))
    (clips / "broken.mp4").write_bytes(b"no video")
    table = clips / "jobs.csv"
    rows = [
        "clip,instruction,seed,steps,output",
        'a.mp4,"Make it snowy, please",3,,',
        "a.mp4,Make it night,,2,",
        "nowhere.mp4,Make it snowy,,,",
        "broken.mp4,Make it snowy,,,",
        "b.mov,,,,named.mov",
        "b.mov,Make it snowy,many,,",
        "b.mov,Make it snowy,,,named.mov",
    ]
    table.write_text("\n".join(rows), encoding="utf-8-sig")
    out = tmp_path / "out"
    out.mkdir()
    assert run(model, table, "Make it blue", "--out", out) == 2
    told = capsys.readouterr()
    made = [out / name for name in ("a-edited.mp4", "a-edited-2.mp4", "named.mov")]
    assert told.out.split() == [str(path) for path in made] and len(loads) == 1
    asked = [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in made]
    assert [each["instruction"] for each in asked] == ["Make it snowy, please", "Make it night", "Make it blue"]
    assert [(each["seed"], each["steps"]) for each in asked] == [(3, 1), (0, 2), (0, 1)]
    assert all(probe(path).frames == 2 for path in made)
    *lines, summary = told.err.splitlines()
    places = sorted(line.partition(":")[0] for line in lines if line.startswith("line "))
    assert places == ["line 4", "line 5", "line 7", "line 8"]
    assert "result of line 6 already" in told.err and "give a whole number" in told.err
    assert summary == "3 edited, 0 there already, 4 failed"
    assert len(list(out.iterdir())) == 6, "no file of a row that failed"

    # Again: what is there stays, what is missing is done, and nothing of another instruction is taken for a result.
    before = made[0].read_bytes()
    made[1].unlink()
    table.write_text("\n".join([*rows[:3], rows[5]]))
    assert run(model, table, "Make it red", "--out", out) == 2
    told = capsys.readouterr()
    assert told.out.split() == [str(made[1])] and "named.mov is there, of 'Make it blue'" in told.err
    assert told.err.splitlines()[-1] == "1 edited, 1 there already, 1 failed"
    loads.clear()
    assert run(model, table, "Make it blue", "--out", out) == 0 and not loads, "nothing to do, nothing loaded"
    table.write_text("\n".join(rows[:2]))
    assert run(model, table, "--out", out, "--overwrite") == 0
    assert capsys.readouterr().err.splitlines()[-1] == "1 edited, 0 there already, 0 failed"
    assert made[0].read_bytes() == before, "same seed, same file"


def test_a_failure_of_ours_does_not_end_the_batch(clips, model, capsys, monkeypatch):
    edit = batch.edit_video

    def failing(request, pipeline):
        if request.video.name == "a.mp4":
            raise RuntimeError("the sky fell")
        return edit(request, pipeline)

    monkeypatch.setattr(batch, "edit_video", failing)
    assert run(model, clips, "Make it snowy") == 1
    told = capsys.readouterr()
    assert told.out.split() == [str(clips / "b-edited.mp4")]
    assert "a.mp4: This failed, which is our fault: RuntimeError: the sky fell" in told.err
    # The result in the folder is no clip of the next batch.
    assert [row.place for row in read_jobs(clips, {}, "Make it snowy")] == ["a.mp4", "b.mov"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "'clip' is missing"),
        ("clip,instruction", "no jobs"),
        ("film,instruction\na.mp4,x", "no column 'film'"),
        ("instruction\nx", "'clip' is missing"),
        (None, "cannot be read as a table"),
    ],
)
def test_tables_that_cannot_be_read_are_refused(tmp_path, table, says):
    if table is not None:
        (tmp_path / "jobs.csv").write_text(table)
    with pytest.raises(EditError, match=says):
        read_jobs(tmp_path / "jobs.csv", {})


def test_folders_without_clips_and_for_results_that_are_not_there_are_refused(tmp_path, clips):
    with pytest.raises(EditError, match="no jobs in"):
        read_jobs(tmp_path, {}, "Make it snowy")
    with pytest.raises(EditError, match="does not exist"):
        read_jobs(clips, {}, "Make it snowy", tmp_path / "nowhere")
    refused = [row.request for row in read_jobs(clips, {})]
    assert all("no instruction" in request for request in refused)
