"""The benchmark: cases as data, the same rules for every clip, figures with their errors, runs that go on."""

import importlib.util
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.tiny import tiny_pipeline
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training.errors import CaseError
from training.evaluate import main
from training.evaluation.held_out import runner
from training.evaluation.held_out.cases import PUBLISHED, draw, make_cases, read_cases, write_cases
from training.evaluation.held_out.clips import LOSSLESS, export_cases, find_result, read_result, read_strip, write_strip
from training.evaluation.held_out.editor import TowerDistance
from training.evaluation.held_out.report import read_report, scores_text, write_report
from training.evaluation.held_out.runner import score_folder
from training.evaluation.held_out.scoring import (
    Measures,
    Score,
    Scorer,
    Wording,
    as_score,
    has_unread_subtitle,
    score_case,
)
from training.evaluation.held_out.summary import compare, mean_of, summarise, wordings_table
from training.synth.edits.tasks import TASKS
from training.synth.material.pack import Pack

HAS_OCR = importlib.util.find_spec("rapidocr") is not None
CHANGED = [task for task in TASKS if task != "identity"]


def score(task="add", seed=1, **measures):
    copy = Measures(inside=measures.pop("copy", 10.0))
    return Score(task, seed, f"{task} it", Measures(**measures), copy=copy, truth=Measures(flicker=1.0))


# --- Cases ------------------------------------------------------------------------------------------------------------


def test_a_case_list_is_data_from_which_the_same_pairs_are_drawn(tmp_path, pack):  # noqa: F811
    lines = make_cases(pack, ["style", "remove"], per_task=2, frames=(5, 9), paraphrases=2)
    write_cases(lines, tmp_path / "cases.jsonl")
    again = read_cases(tmp_path / "cases.jsonl")
    assert again == lines
    assert [line.frames for line in lines] == [5, 9, 5, 9]
    assert len({line.id for line in lines}) == len({line.bucket for line in lines}) * 2 == 4
    for line in lines:
        assert len({line.instruction, *line.paraphrases}) == 3
        case = draw(pack, line)
        assert case.source.shape == (line.frames, line.bucket[1], line.bucket[0], 3)
    assert [line.id for line in read_cases(tmp_path / "cases.jsonl", ["remove"], 1)] == [lines[2].id]


def test_a_renderer_that_draws_something_else_is_noticed(pack):  # noqa: F811
    line = make_cases(pack, ["style"], 1, frames=(5,), paraphrases=0)[0]
    off = replace(line, target_mean=tuple(value + 3 for value in line.target_mean))
    with pytest.raises(CaseError, match=r"style-\d+: the truth drawn here differs"):
        draw(pack, off)


@pytest.mark.parametrize("text", ["not json\n", '{"task": "add"}\n', '{"task": "add", "sed": 3}\n'])
def test_a_broken_list_names_its_line(tmp_path, text):
    (tmp_path / "cases.jsonl").write_text(text)
    with pytest.raises(CaseError, match="line 1"):
        read_cases(tmp_path / "cases.jsonl")
    with pytest.raises(CaseError, match="make one"):
        read_cases(tmp_path / "none.jsonl")


def test_the_published_list_has_every_task_and_no_case_twice():
    lines = read_cases(PUBLISHED)
    assert {line.task for line in lines} <= set(TASKS)
    assert len({line.id for line in lines}) == len(lines) >= 130
    assert all(line.split == "test" and line.instruction and line.source_mean for line in lines)


# --- Clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "height"), [(5, 32), (1, 16), (70, 512)])
def test_a_stored_clip_comes_back(tmp_path, frames, height):
    clip = np.random.default_rng(0).integers(0, 255, (frames, height, 16, 3), dtype=np.uint8)
    write_strip(tmp_path / "a.webp", clip, LOSSLESS)
    assert np.array_equal(read_strip(tmp_path / "a.webp", frames, 16, height), clip)
    with pytest.raises(ValueError, match="does not hold"):
        read_strip(tmp_path / "a.webp", frames, 18, height)


@pytest.mark.parametrize("exact", [True, False])
def test_another_editors_results_are_scored_by_the_same_rules(tmp_path, pack, exact):  # noqa: F811
    lines = make_cases(pack, ["style", "recolour"], per_task=2, frames=(5,), paraphrases=0)
    export_cases(lines, pack, tmp_path / "cases", exact)
    told = [json.loads(text) for text in (tmp_path / "cases" / "cases.jsonl").read_text().splitlines()]
    assert [row["id"] for row in told] == [line.id for line in lines]
    ending = "" if exact else ".mp4"
    for name, row in zip(("truth", "source", "truth"), told, strict=False):
        (tmp_path / "cases" / row["id"] / f"{name}{ending}").rename(tmp_path / "cases" / row["id"] / f"result{ending}")
    scores, missing = score_folder(lines, tmp_path / "cases", Scorer(pack))
    assert missing == [lines[3].id]
    assert [one.result.followed for one in scores] == [True, False, True]
    assert scores[0].result.overall > (99 if exact else 30)
    assert scores[1].result.inside == pytest.approx(scores[1].copy.inside, abs=0.5)
    with pytest.raises(ValueError, match="no case has a result"):
        score_folder(lines, tmp_path, Scorer(pack))


def test_a_result_too_short_is_refused_and_another_size_is_scaled(tmp_path, pack):  # noqa: F811
    from training.evaluation.held_out.clips import write_frames

    line = make_cases(pack, ["style"], 1, frames=(5,), paraphrases=0)[0]
    source = draw(pack, line).source
    write_frames(tmp_path / line.id, source[:3])
    with pytest.raises(ValueError, match="3 frames where the case has 5"):
        read_result(find_result(tmp_path, line), line)
    write_frames(tmp_path / line.id, np.concatenate([source, source])[:, ::2, ::2])
    assert read_result(find_result(tmp_path, line), line).shape == source.shape


# --- Rules ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_follows_every_instruction_and_the_source_none(pack, task):  # noqa: F811
    if "subtitle" in task and task != "subtitle_remove" and not HAS_OCR:
        pytest.skip("rapidocr is not installed")
    line = make_cases(pack, [task], 1, frames=(5,), paraphrases=0)[0]
    case = draw(pack, line)
    one = score_case(Scorer(pack).case(case), line, [case.target])
    assert one.result.overall == one.truth.overall == 100
    if not task.startswith("subtitle") or task == "subtitle_remove":  # the drawn font is too small here to be read
        assert one.truth.followed and one.result.followed
    assert one.copy.followed is (task == "identity")
    if task in ("add", "replace"):
        assert one.truth.rank == 1 and one.copy.rank > 1
    if task in ("move", "resize"):  # of so few drawings the right one may rank first where nothing of it is seen
        assert one.truth.rank == 1 and one.copy.rank is not None


def test_a_ghost_of_the_old_clip_is_not_the_new_one(pack):  # noqa: F811
    line = make_cases(pack, ["style"], 1, frames=(5,), paraphrases=0)[0]
    case = draw(pack, line)
    for share, followed in ((0.4, False), (0.6, True)):
        mixed = (case.source * (1 - share) + case.target * share).astype(np.uint8)
        assert score_case(Scorer(pack).case(case), line, [mixed]).result.followed is followed


def test_references_need_the_autoencoder(pack):  # noqa: F811
    line = make_cases(pack, ["recolour"], 1, frames=(5,), paraphrases=2)[0]
    case = draw(pack, line)
    soft = [np.clip(clip.astype(int) + 4, 0, 255).astype(np.uint8) for clip in (case.source, case.target)]
    alone = score_case(Scorer(pack).case(case), line, [soft[1]])
    assert alone.vae is None and alone.kept is None and alone.agreement is None
    full = score_case(Scorer(pack).case(case), line, [soft[1], soft[1], soft[0]], soft[0], soft[1])
    assert full.vae.inside == full.result.inside
    assert full.kept.outside > full.result.outside + 10  # the source's own pixels are back
    assert [wording.result.followed for wording in full.wordings] == [True, False]
    assert full.agreement < 60
    assert as_score(json.loads(json.dumps(runner.asdict(full)))) == full


def test_the_tower_tells_clips_apart():
    tower = TowerDistance(tiny_pipeline().semantic_tower)
    a, b = (np.random.default_rng(seed).integers(0, 255, (5, 64, 96, 3), dtype=np.uint8) for seed in (0, 1))
    near = np.clip(a.astype(int) + 3, 0, 255).astype(np.uint8)
    assert tower(a, a) == pytest.approx(0, abs=1e-5)
    assert tower(a, near) < 0.5 * tower(a, b)


# --- Figures ----------------------------------------------------------------------------------------------------------


def test_means_have_errors_and_what_does_not_apply_counts_for_nothing():
    mean = mean_of([1.0, 3.0, None, math.nan])
    assert mean == (2.0, 1.0, 2)
    assert mean_of([5.0]).n == 1 and math.isnan(mean_of([5.0]).se)
    certain = mean_of([1.0] * 6, share=True)
    assert certain.mean == 1 and certain.se == pytest.approx(math.sqrt(0.8 * 0.2 / 10))
    table = summarise([score(inside=10.0, rank=1), score(inside=20.0, rank=9), score("style", inside=30.0)])
    assert table["add"]["inside"].mean == 15 and table["all"]["inside"].mean == 20
    assert table["add"]["top 1"].mean == table["add"]["top 5"].mean == 0.5
    assert table["style"]["top 1"].n == 0


def test_wordings_are_told_by_success_spread_and_agreement():
    one, other = score(inside=10.0, followed=True), score(inside=12.0, followed=False)
    one.wordings, one.agreement = [Wording("put it there", Measures(inside=14.0, followed=False))], 25.0
    table = wordings_table([one, other])
    assert table["add"]["wordings"] == (2.0, pytest.approx(math.nan, nan_ok=True), 1)
    assert table["add"]["followed"].mean == 0.5
    assert table["add"]["all alike"].mean == 0
    assert table["add"]["spread, inside"].mean == 2
    assert table["add"]["agreement"].mean == 25


def by_name(differences):
    return {(one.task, one.column): one for one in differences}


def test_two_models_are_compared_case_by_case():
    old = [score(seed=seed, inside=10.0 + 5 * seed) for seed in range(6)]
    new = [score(seed=seed, inside=11.0 + 5 * seed + 0.1 * (-1) ** seed) for seed in range(6)]
    inside = by_name(compare(new, old))["add", "inside"]
    assert inside.paired and inside.mine.n == 6
    assert inside.better_by == pytest.approx(1.0) and inside.se < 0.1
    assert inside.verdict == "better"
    assert by_name(compare(old, new))["add", "inside"].verdict == "worse"


def test_cases_drawn_otherwise_are_not_paired():
    old = [score(seed=seed, inside=10.0 + 5 * seed) for seed in range(6)]
    new = [score(seed=seed, inside=11.0 + 5 * seed, copy=12.0) for seed in range(6)]
    found = by_name(compare(new, old))
    assert not found["add", "inside"].paired and found["add", "inside"].verdict == "undecided"
    assert ("all", "inside") not in found


def test_less_is_better_where_the_measure_says_so():
    old = [score(seed=seed, inside=1.0, gmsd=0.2 + 0.01 * seed) for seed in range(4)]
    new = [score(seed=seed, inside=1.0, gmsd=0.1 + 0.01 * seed) for seed in range(4)]
    assert by_name(compare(new, old))["add", "GMSD"].better_by == pytest.approx(0.1)
    assert by_name(compare(new, old))["add", "inside"].verdict == "undecided"


FIRST_FORM = {
    "task": "add", "seed": 1, "instruction": "add it", "copy_inside": 10.0, "inside": 14.0, "outside": math.nan,
    "overall": 21.0, "vae": 30.0, "vae_inside": 31.0, "kept_inside": 14.0, "kept_outside": 29.0, "flicker": 2.0,
    "true_flicker": 1.0, "rank": 2, "colour": None, "text": None, "details": {},
}  # fmt: skip


def test_the_first_published_form_is_understood(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"summary": {}, "scores": [FIRST_FORM, {**FIRST_FORM, "seed": 2}]}))
    old = read_report(tmp_path / "old.json")
    assert old[0].result.inside == 14 and old[0].result.outside is None and old[0].result.followed is False
    new = [score(seed=seed, inside=16.0, rank=1, followed=True) for seed in (1, 2)]
    report = write_report(new, tmp_path, {"model": "two"}, tmp_path / "old.json")
    inside = next(row for row in report["against"] if row["task"] == "add" and row["column"] == "inside")
    assert inside["better_by"] == 2 and inside["paired"]
    text = (tmp_path / "scores.md").read_text()
    assert "Against" in text and "| add | inside | 16.0 | 14.0 | +2.0" in text
    json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON
    assert read_report(tmp_path / "scores.json")[0].result == new[0].result
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="not a report"):
        read_report(tmp_path / "other.json")


def test_the_table_has_a_row_per_task_and_dashes_for_what_does_not_apply():
    text = scores_text([score(rank=2, followed=False, inside=1.0), score("style", inside=2.0)])
    rows = [line for line in text.split("###")[1].splitlines() if line.startswith("|")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["add", "style", "all"]
    assert "100 ± 22 %" in rows[0] and "-" in rows[1]


# --- Runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_run_goes_on_where_it_was_and_writes_everything(tmp_path, model, pack, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda path: pack)
    lines = make_cases(pack, ["recolour", "subtitle_add"], per_task=2, frames=(5,), paraphrases=1)
    write_cases(lines, tmp_path / "cases.jsonl")
    (tmp_path / "pack.json").touch()
    command = [
        "--model", str(model), "--cases", str(tmp_path / "cases.jsonl"), "--work", str(tmp_path / "work"),
        "--pack", str(tmp_path),
        "--out", str(tmp_path / "out"), "--steps", "1", "--wordings", "1", "--worded", "1", "--sheets", "1",
    ]  # fmt: skip
    assert main([*command, "--per-task", "1"]) == 0
    first = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*.json")}
    assert sorted(first) == ["about.json", f"{lines[0].id}.json", f"{lines[2].id}.json"]
    assert main(command) == 0
    later = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*.json")}
    assert len(later) == 5
    assert all(later[name] == when for name, when in first.items() if name != "about.json")
    scores = read_report(tmp_path / "out" / "scores.json")
    assert [one.id for one in scores] == [line.id for line in lines]
    assert [len(one.wordings) for one in scores] == [1, 0, 1, 0]
    assert all(one.vae and one.kept and one.result.tower_distance is not None for one in scores)
    assert (tmp_path / "out" / "recolour.jpg").is_file()
    about = json.loads((tmp_path / "out" / "scores.json").read_text())["about"]
    assert about["steps"] == 1 and len(about["weights"]) == 12


@pytest.mark.skipif(not HAS_OCR, reason="rapidocr is not installed: OCR is not tested")
def test_what_a_machine_could_not_read_is_read_later(tmp_path, pack):  # noqa: F811
    line = make_cases(pack, ["subtitle_add"], 1, frames=(5,), paraphrases=1)[0]
    case = draw(pack, line)
    one = score_case(Scorer(pack, ocr=False).case(case), line, [case.target, case.source], case.source, case.target)
    assert has_unread_subtitle(one) and one.result.followed is None
    runner.write_score(tmp_path, one)
    runner.store(tmp_path, line, [case.target, case.source], case.target, 92)
    assert runner.read_later([line], tmp_path, pack) == 1
    read = runner.finished(tmp_path, line, 1)
    assert not has_unread_subtitle(read) and read.vae.text is not None and read.wordings[0].result.followed is False
    assert runner.read_later([line], tmp_path, pack) == 0


def test_another_wording_is_another_case(tmp_path, pack):  # noqa: F811
    line = make_cases(pack, ["style"], 1, frames=(5,), paraphrases=1)[0]
    case = draw(pack, line)
    runner.write_score(tmp_path, score_case(Scorer(pack).case(case), line, [case.target]))
    assert runner.finished(tmp_path, line)
    assert runner.finished(tmp_path, line, wordings=1) is None
    assert runner.finished(tmp_path, replace(line, instruction="something else")) is None


@pytest.mark.parametrize("command", ["run", "export", "cases", "score --results .", "read --work ."])
def test_without_the_material_one_sentence_says_how_to_get_it(command, tmp_path, capsys, monkeypatch):
    for name in ("load_editor", "load_tower"):
        monkeypatch.setattr(
            f"training.evaluation.held_out.editor.{name}", lambda *_: pytest.fail("a model was loaded before")
        )
    (tmp_path / "about.json").write_text("{}")
    words = [str(tmp_path) if word == "." else word for word in command.split()]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(tmp_path / "out"), "--pack", str(tmp_path / "pack")])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"training.synth.ingredients --out {tmp_path / 'pack'}" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_errors_are_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--cases", str(tmp_path / "none.jsonl"), "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "make one with" in capsys.readouterr().err
