"""Judged benchmarks, from case list to table, against a real server; the editor's own results end to end."""

import json
import math
from pathlib import Path

import pytest

from sama.shapes import Bucket, Canvas
from sama.video import probe
from tests.judging import Reply, good_scores, judge_server
from tests.media import make_clip
from tests.tiny import tiny_pipeline
from training.errors import JudgeError
from training.evaluation.benches import published
from training.evaluation.benches.__main__ import main
from training.evaluation.benches.benchmarks import BENCHMARKS, OPENVE, RECO, VIE
from training.evaluation.benches.cases import read_case_list, result_of
from training.evaluation.benches.editing import produce

SMALL = ["--side", "48", "--retries", "1", "--timeout", "20"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder of source clips and a folder of results, with a list in our own form."""
    folder = tmp_path_factory.mktemp("bench")
    make_clip(folder / "duck.mp4", frames=12)
    results = folder / "results"
    for task in VIE.tasks:
        (results / task).mkdir(parents=True)
    return folder


def write_list(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def vie_case(number, task):
    return {"id": f"c{number}", "task": task, "source_video": "duck.mp4", "prompt": f"Edit {number}"}


def run(name, cases, results, judge, *more):
    url = [] if judge is None else ["--url", judge.url, "--model", "eye"]
    return main([name, "--cases", str(cases), "--results", str(results), *url, *SMALL, *more])


def test_vie_from_list_to_table(bench, capsys):
    tasks = ["Add", "Object Swap", "Color Change", "Remove", "Tone / Weather Change"]
    rows = [vie_case(number, task) for number, task in enumerate(tasks)] + [vie_case(9, "Reference Base Swap")]
    cases = write_list(bench / "vie.jsonl", [*rows, vie_case(7, "add")])
    results = bench / "results"
    for number, task in enumerate(["add", "swap", "swap", "remove", "style"]):
        make_clip(results / task / f"c{number}.mp4", frames=12, fps=12)
    swaps = {"<instruction>Edit 1<": {"instruct_follow": 10, "preservation": 9, "quality": 8},
             "<instruction>Edit 2<": {"instruct_follow": 4, "preservation": 5, "quality": 6}}  # fmt: skip

    def reply(asked):
        return good_scores(asked, 6, **next((grades for mark, grades in swaps.items() if mark in asked.text), {}))

    with judge_server(reply) as judge:
        assert run("vie", cases, results, judge, "--name", "ours", "--out", str(bench / "vie")) == 0
        assert len(judge.asked) == 5
        assert all(len(asked.pictures) == 16 for asked in judge.asked)
        assert run("vie", cases, results, judge, "--name", "ours", "--out", str(bench / "vie")) == 0
        assert len(judge.asked) == 5  # nothing is asked twice
    assert "1 cases of Reference Base Swap" in capsys.readouterr().out
    scores = json.loads((bench / "vie" / "scores.json").read_text())
    assert scores["judge"] == "eye" and scores["published"]["judge"] == "GPT-4o"
    swap = scores["tasks"]["swap"]
    assert [swap[name] for name in VIE.columns] == [7, 7, 7, 7]
    assert (swap["graded"], swap["cases"]) == (2, 2)
    assert (scores["tasks"]["add"]["graded"], scores["tasks"]["add"]["cases"]) == (1, 2)
    assert [row["id"] for row in scores["missing"]] == ["c7"]
    table = (bench / "vie" / "scores.md").read_text()
    assert "## Add (1 of 2 cases)" in table
    assert "| SAMA (published) | GPT-4o | 9.733 | 9.514 | 8.771 | 9.34 |" in table
    assert "| **ours** | eye | 7.00 | 7.00 | 7.00 | 7.00 |" in table
    assert "cannot be compared" in table and "1 cases have no result" in table


def test_a_new_result_is_judged_anew(bench, tmp_path):
    cases = write_list(bench / "one.jsonl", [vie_case(1, "add")])
    with judge_server() as judge:
        for value in (50, 51):
            make_clip(tmp_path / "c1.mp4", frames=value // 10, fps=12)
            assert run("vie", cases, tmp_path, judge) == 0
            assert run("vie", cases, tmp_path, judge) == 0
        assert len(judge.asked) == 1  # an identical file (5 frames both times) is the same result
        make_clip(tmp_path / "c1.mp4", frames=6, fps=12)
        assert run("vie", cases, tmp_path, judge) == 0
        assert len(judge.asked) == 2
    assert (tmp_path / "judged-vie" / "scores.md").is_file()


def test_openve_reads_the_published_list_and_keeps_its_rule(bench, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    tasks = ("global_style", "local_add", "local_add")
    lines = ["edited_type,prompt,original_video"]
    for number, task in enumerate(tasks):
        name = f"{number:04}_{task}_Apply_the_Impression"
        make_clip(videos / f"{name}.mp4", frames=4)
        make_clip(tmp_path / f"{name}.mp4", frames=4, constant=True)
        lines.append(f'{task},"Do it, well",videos/{name}.mp4')
    cases = tmp_path / "benchmark_videos.csv"
    cases.write_text("\n".join(lines) + "\n")

    def reply(asked):
        if asked.wants("instruction_compliance") and "Is the asked thing there" in asked.text:
            return good_scores(asked, 5, instruction_compliance=3)
        return good_scores(asked, 5, visual_quality_and_stability=2)

    with judge_server(reply) as judge:
        assert run("openve", cases, tmp_path, judge) == 0
        assert len(judge.asked) == 3
    scores = json.loads((tmp_path / "judged-openve" / "scores.json").read_text())
    assert scores["tasks"]["style"]["Score"] == 4  # (5 + 5 + 2) / 3
    assert scores["tasks"]["add"]["Score"] == 3  # the other two count no higher than the first
    table = (tmp_path / "judged-openve" / "scores.md").read_text()
    assert "| SAMA (published) | Gemini 2.5 Pro | 4.05 | 2.59 | 3.93 | 3.32 | 2.54 | 3.63 | 3.11 |" in table
    assert f"| **{tmp_path.name}** | eye | 4.00 | - | - | - | 3.00 | - | - |" in table
    assert "| graded cases |  | 1/1 | 0/0 | 0/0 | 0/0 | 2/2 | 0/0 | 0/0 |" in table


def test_reco_reads_the_published_lists_and_takes_geometric_means(bench, tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "replace.txt").write_text(
        "# a comment\nduck.mp4: Replace the duck with a swan, please: now. | ref/swan.png\n\n"
        "duck.mp4: Replace the duck with a boat. \n"
    )
    (configs / "style.txt").write_text("duck.mp4: Convert the video into a Sketch style.\n")
    cases = read_case_list(configs, RECO, bench).cases
    assert [(case.task, case.id) for case in cases] == [
        ("replace", "duck_Replace_the_duck_with_a_swan_please _now"),
        ("replace", "duck_Replace_the_duck_with_a_boat"),
        ("style", "duck_Convert_the_video_into_a_Sketch_style"),
    ]
    assert cases[0].instruction == "Replace the duck with a swan, please: now."
    assert cases[0].source == bench / "duck.mp4"
    results = tmp_path / "results"
    (results / "style").mkdir(parents=True)
    for case in cases[:2]:
        make_clip(results / f"{case.id}.mp4", frames=12, constant=True)
    make_clip(results / "style" / f"{cases[2].id}.mp4", frames=12, width=48, height=32)
    grades = {"semantic_accuracy": 8, "scope_precision": 1, "content_preservation": 8}

    def reply(asked):
        if "boat" in asked.text:
            return good_scores(asked, 0)  # an edit that did nothing
        return good_scores(asked, 9, **grades)

    with judge_server(reply) as judge:
        assert run("reco", configs, results, judge, "--videos", str(bench), "--out", str(tmp_path / "out")) == 0
        assert {len(asked.pictures) for asked in judge.asked} == {11}
        assert {picture.size for asked in judge.asked for picture in asked.pictures} == {(96, 32)}
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    style = scores["tasks"]["style"]
    accuracy = math.prod(grades.values()) ** (1 / 3)
    assert style["S_EA"] == pytest.approx(accuracy) and style["S_VN"] == pytest.approx(9)
    assert style["S"] == pytest.approx((accuracy + 18) / 3)
    assert scores["tasks"]["replace"]["S"] == pytest.approx(style["S"] / 2)
    assert (
        "| SA | SP | CP | AN | SN | MN | VF | TS | ES | S_EA | S_VN | S_VQ | S |"
        in (tmp_path / "out" / "scores.md").read_text()
    )


def test_a_case_that_cannot_be_graded_is_in_no_average(bench, tmp_path):
    cases = write_list(bench / "bad.jsonl", [vie_case(1, "add"), vie_case(2, "add")])
    for number in (1, 2):
        make_clip(tmp_path / f"c{number}.mp4", frames=4 + number)
    with judge_server(lambda a: Reply("Lovely!") if "Edit 2" in a.text else good_scores(a, 8)) as judge:
        assert run("vie", cases, tmp_path, judge) == 0
        assert len(judge.asked) == 1 + 3
    scores = json.loads((tmp_path / "judged-vie" / "scores.json").read_text())
    assert scores["tasks"]["add"]["Avg."] == 8
    assert scores["failed"][0]["id"] == "c2" and scores["failed"][0]["reason"].startswith("malformed")
    assert "1 cases could not be graded" in (tmp_path / "judged-vie" / "scores.md").read_text()


def test_a_server_that_is_away_writes_no_table(bench, tmp_path, capsys):
    cases = write_list(bench / "away.jsonl", [vie_case(1, "add")])
    make_clip(tmp_path / "c1.mp4", frames=4)
    with judge_server(lambda asked: Reply(status=500)) as judge:
        assert run("vie", cases, tmp_path, judge, "--retries", "0") == 1
    assert "lack answers" in capsys.readouterr().err
    assert not (tmp_path / "judged-vie" / "scores.md").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"task": "dance", "source_video": "a.mp4", "prompt": "x"}], "no task 'dance'"),
        ([{"source_video": "a.mp4", "prompt": "x"}], "task"),
        ([{"task": "add", "source_video": "a.mp4"}], "prompt"),
        ([vie_case(1, "add"), vie_case(1, "add")], "'c1' of task add twice"),
        ([[1]], "malformed row"),
    ],
)
def test_a_list_that_is_wrong_is_told_where(tmp_path, rows, words):
    with pytest.raises(JudgeError, match=words):
        read_case_list(write_list(tmp_path / "cases.jsonl", rows), VIE)


def test_bad_places_are_one_sentence(tmp_path, bench, capsys):
    cases = write_list(bench / "places.jsonl", [vie_case(1, "add")])
    url = ["--url", "http://127.0.0.1:9/v1", "--model", "eye"]
    for options, words in (
        (["vie", "--cases", str(tmp_path / "none"), "--results", str(tmp_path), *url], "no case list"),
        (["vie", "--cases", str(tmp_path), "--results", str(tmp_path), *url], "<task>.txt"),
        (["vie", "--cases", str(cases), "--results", str(tmp_path), *url], "no result of VIE-Bench"),
        (["vie", "--cases", str(cases), "--results", str(tmp_path)], "--url"),
        (["vie", "--cases", str(cases), "--results", str(tmp_path), *url, "--shard", "0/2"], "--edit"),
        (["vie", "--cases", str(cases), "--results", str(tmp_path), "--edit", "--weights", "nowhere"], "nowhere"),
    ):
        assert main(options) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_published_rows_fit_their_tables(benchmark):
    assert set(benchmark.published) <= set(benchmark.tasks)
    assert set(benchmark.questions) == set(benchmark.tasks)
    for rows in benchmark.published.values():
        assert "SAMA" in rows
        assert {len(row) for row in rows.values()} == {len(benchmark.columns)}


def test_published_averages_are_those_of_their_parts():
    """A slip of the pen in a row shows: the averages follow from the other columns, up to rounding."""
    for rows in published.VIE.values():
        for row in rows.values():
            assert row[3] == pytest.approx(sum(row[:3]) / 3, abs=0.0011)
    for rows in published.RECO.values():
        for row in rows.values():
            assert row[12] == pytest.approx(sum(row[9:12]) / 3, abs=0.011)
            for group in range(3):  # means of geometric means lie below those of the scores, but not far
                assert -0.4 < row[9 + group] - sum(row[3 * group : 3 * group + 3]) / 3 < 0.01
    assert [published.VIE[task]["SAMA"][3] for task in ("add", "swap", "remove", "style")] == [
        8.711, 9.340, 9.144, 9.259,
    ]  # fmt: skip
    assert [row["SAMA"][12] for row in published.RECO.values()] == [8.92, 9.10, 8.09, 9.25]


def test_our_editor_makes_the_results_and_they_are_judged(bench, tmp_path):
    """End to end: edit the cases with a (tiny, random) pipeline, go on after a stop, judge what came out."""
    rows = [vie_case(1, "add"), vie_case(2, "style"), {**vie_case(3, "add"), "source_video": "gone.mp4"}]
    cases = write_list(bench / "edit.jsonl", rows)
    listed = read_case_list(cases, VIE).cases
    results = tmp_path / "results"
    options = {"preset": "tiny", "steps": 1, "frames": 5}
    pipeline = tiny_pipeline(tower=False, **Canvas((Bucket(64, 48),), window=5, overlap=2).settings())
    assert produce(listed[:1], results, pipeline, **options) == []
    first = Path(results / "add" / "c1.mp4")
    when = first.stat().st_mtime_ns
    failed = produce(listed, results, pipeline, **options)
    assert [(case.id, "gone.mp4" in reason) for case, reason in failed] == [("c3", True)]
    assert first.stat().st_mtime_ns == when
    assert result_of(listed[1], results) == results / "style" / "c2.mp4"
    assert probe(results / "style" / "c2.mp4").frames == 5
    with judge_server() as judge:
        assert run("vie", cases, results, judge) == 0
        assert len(judge.asked) == 2
        assert len(judge.asked[0].pictures) == 10  # the clip of 12 frames is compared over the 5 that were edited
    scores = json.loads((results / "judged-vie" / "scores.json").read_text())
    assert scores["tasks"]["style"]["Avg."] == 9 and [case["id"] for case in scores["missing"]] == ["c3"]
    assert OPENVE.task("Subtitles Edit") == "subtitle"


def test_the_command_edits_its_share(bench, tmp_path):
    weights = tmp_path / "weights"
    tiny_pipeline(tower=False, default_steps=1).save_pretrained(weights)
    cases = write_list(bench / "share.jsonl", [vie_case(number, "add") for number in range(3)])
    share = ["--edit", "--weights", str(weights), "--device", "cpu", "--edit-frames", "5", "--steps", "1"]
    assert run("vie", cases, tmp_path / "out", None, *share, "--shard", "1/3") == 0
    assert [path.name for path in sorted((tmp_path / "out").rglob("*.mp4"))] == ["c1.mp4"]
