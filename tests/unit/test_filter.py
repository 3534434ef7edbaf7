"""The filter, run as its users run it, against a real server."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from tests.judging import Reply, good_scores, judge_server
from tests.media import barcode_frame, make_clip, make_text
from training.errors import JudgeError
from training.evaluation.shard import Shard
from training.filter.__main__ import main, subjects
from training.filter.criteria import PICTURE_THRESHOLDS, VIDEO_THRESHOLDS
from training.filter.pairs import Manifest

ROOT = Path(__file__).parents[2]
SMALL = ["--frames", "2", "--side", "48", "--retries", "2", "--timeout", "20"]


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "a.mp4", frames=5)
    make_clip(folder / "b.mp4", frames=5, constant=True)
    Image.fromarray(barcode_frame(1)).save(folder / "a.png")
    Image.fromarray(barcode_frame(2)).save(folder / "b.png")
    make_text(folder / "broken.mp4")
    return folder


def write_manifest(media, name, prompts, source="a.mp4", target="b.mp4"):
    path = media / name
    rows = [{"source_video": source, "target_video": target, "prompt": prompt, "of": "mine"} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(manifest, out, judge, *more):
    url = [] if judge is None else ["--url", judge.url, "--model", "eye"]
    return main(["--manifest", str(manifest), "--out", str(out), *url, *SMALL, *more])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_videos_and_pictures_are_asked_the_papers_questions_three_times(media, tmp_path):
    videos = write_manifest(media, "videos.jsonl", ["Make it snowy"])
    pictures = write_manifest(media, "pictures.jsonl", ["Make it night"], "a.png", "b.png")
    with judge_server() as judge:
        assert run(videos, tmp_path / "v", judge) == 0
        about_videos = list(judge.asked)
        assert run(pictures, tmp_path / "p", judge) == 0
        about_pictures = judge.asked[len(about_videos) :]
    criteria = Counter(name for asked in about_videos for name in VIDEO_THRESHOLDS if asked.wants(name))
    assert criteria == dict.fromkeys(VIDEO_THRESHOLDS, 3)
    assert len(about_videos) == 9
    assert all("<instruction>Make it snowy</instruction>" in asked.text for asked in about_videos)
    assert all(len(asked.pictures) == 4 for asked in about_videos)
    for asked in about_videos:  # the motion question shows the edited clip first
        assert asked.text.startswith("Edited" if asked.wants("motion_consistency") else "Original")
    same = [asked.body["seed"] for asked in about_videos if asked.wants("motion_consistency")]
    assert len(set(same)) == 3
    criteria = Counter(name for asked in about_pictures for name in VIDEO_THRESHOLDS if asked.wants(name))
    assert criteria == dict.fromkeys(PICTURE_THRESHOLDS, 3)
    assert all(len(asked.pictures) == 2 for asked in about_pictures)


VIDEO_CASES = [
    ({}, 9, True),
    ({"instruction_following": 8, "content_preservation": 8, "motion_consistency": 8}, 9, True),
    ({"instruction_following": 7.9}, 9, False),
    ({"visual_quality": 8}, 10, False),
    ({"content_preservation": 7}, 10, False),
    ({"motion_consistency": 7}, 10, False),
]
PICTURE_CASES = [
    ({}, 9, True),
    ({"instruction_following": 8}, 9, False),
    ({"visual_quality": 8}, 9, False),
    ({"content_preservation": 8}, 9, False),
]


@pytest.mark.parametrize(("kind", "cases"), [("mp4", VIDEO_CASES), ("png", PICTURE_CASES)], ids=["videos", "pictures"])
def test_the_papers_thresholds(media, tmp_path, kind, cases):
    prompts = [f"Edit {number}" for number in range(len(cases))]
    manifest = write_manifest(media, f"thresholds-{kind}.jsonl", prompts, f"a.{kind}", f"b.{kind}")

    def reply(asked):
        number = int(asked.text.partition("<instruction>Edit ")[2].partition("<")[0])
        others, value, _ = cases[number]
        return good_scores(asked, value, **others)

    with judge_server(reply) as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1") == 0
    assert [row["prompt"] for row in rows_of(tmp_path / "kept.jsonl")] == [
        prompt for prompt, (_, _, kept) in zip(prompts, cases, strict=True) if kept
    ]
    dropped = rows_of(tmp_path / "dropped.jsonl")
    assert all(len(row["filter"]["reasons"]) == 1 and " below " in row["filter"]["reasons"][0] for row in dropped)
    summary = json.loads((tmp_path / "summary.json").read_text())
    kinds = {"mp4": "videos", "png": "images"}[kind]
    assert summary["kept"] == {kinds: len(cases) - len(dropped)} and summary["dropped"] == {kinds: len(dropped)}
    assert f"| {kinds} | {len(cases) - len(dropped)} | {len(dropped)} |" in (tmp_path / "summary.md").read_text()


def test_three_runs_are_averaged(media, tmp_path):
    manifest = write_manifest(media, "average.jsonl", ["up", "down"])
    quality = {"up": [8, 9, 10], "down": [8, 9, 9]}

    def reply(asked):
        name = "up" if "<instruction>up<" in asked.text else "down"
        return good_scores(asked, 9, visual_quality=quality[name][asked.body["seed"] % 1000])

    with judge_server(reply) as judge:
        assert run(manifest, tmp_path, judge) == 0
    (kept,), (dropped,) = rows_of(tmp_path / "kept.jsonl"), rows_of(tmp_path / "dropped.jsonl")
    assert kept["filter"]["scores"]["visual_quality"] == 9
    assert dropped["filter"]["scores"]["visual_quality"] == pytest.approx(26 / 3)
    assert dropped["filter"]["reasons"] == ["visual_quality below 9"]
    assert {name: value for name, value in kept.items() if name != "filter"} == {
        "source_video": "a.mp4", "target_video": "b.mp4", "prompt": "up", "of": "mine",
    }  # fmt: skip


def test_what_is_kept_is_a_manifest(media, tmp_path):
    manifest = write_manifest(media, "again.jsonl", ["one", "two"])
    with judge_server() as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1") == 0
    kept = list(Manifest(str(tmp_path / "kept.jsonl"), root=str(media)))
    assert [pair.key for pair in kept] == [pair.key for pair in Manifest(str(manifest))]


def test_packed_shards_come_out_as_packed_shards(media, tmp_path):
    for number in range(2):
        with tarfile.open(media / f"packed-{number}.tar", "w") as shard:
            for name, kind in ((f"s{number}", "a"), (f"t{number}", "b")):
                shard.add(media / "a.mp4", f"set/{name}.source.mp4")
                shard.add(media / "b.mp4", f"set/{name}.target.mp4")
                prompt = f"{kind} {number}".encode()
                info = tarfile.TarInfo(f"set/{name}.prompt.txt")
                info.size = len(prompt)
                shard.addfile(info, io.BytesIO(prompt))
    manifest = str(media / "packed-{0..1}.tar")
    with judge_server(lambda asked: good_scores(asked, 9 if "<instruction>a" in asked.text else 4)) as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1") == 0
        assert all(len(asked.pictures) == 4 for asked in judge.asked)
    kept = list(Manifest(str(tmp_path / "kept" / "packed-*.tar")))
    assert [(pair.record.prompt, pair.sample) for pair in kept] == [("a 0", "set/s0"), ("a 1", "set/s1")]
    before = [pair for pair in Manifest(manifest) if pair.record.prompt.startswith("a")]
    for old, new in zip(before, kept, strict=True):
        assert old.key == new.key
        assert [content(media) for media in (old.record.source, old.record.target)] == [
            content(media) for media in (new.record.source, new.record.target)
        ]
    assert [row["filter"]["origin"] for row in rows_of(tmp_path / "kept.jsonl")] == [pair.origin for pair in before]
    for folder in ("one", "two"):
        (media / folder).mkdir()
        (media / folder / "same.tar").write_bytes((media / "packed-0.tar").read_bytes())
    with pytest.raises(JudgeError, match="same name"):
        Manifest(str(media / "*" / "same.tar"))


def content(media):
    with open(media.path, "rb") as file:
        file.seek(media.offset)
        return file.read(media.size)


def test_a_malformed_answer_is_asked_again_then_recorded_never_guessed(media, tmp_path):
    manifest = write_manifest(media, "malformed.jsonl", ["stubborn", "hesitant"])
    bad = ['{"instruction_following": "nine"', "I would say 9 out of 10.", '{"motion_consistency": 12}']

    def reply(asked):
        if not asked.wants("motion_consistency") or asked.body["seed"] % 1000 != 1:
            return good_scores(asked)
        if "stubborn" in asked.text or asked.body["seed"] < 2000:
            return Reply(bad[min(2, asked.body["seed"] // 1000)])
        return good_scores(asked)

    with judge_server(reply) as judge:
        assert run(manifest, tmp_path, judge) == 0
        seeds = sorted(
            asked.body["seed"]
            for asked in judge.asked
            if "stubborn" in asked.text and asked.wants("motion_consistency") and asked.body["seed"] % 1000 == 1
        )
        assert seeds == [1, 1001, 2001]  # another seed each time
        asked = len(judge.asked)
        assert run(manifest, tmp_path, judge) == 0
        assert len(judge.asked) == asked  # what failed for good is not asked again
        assert run(manifest, tmp_path, judge, "--attempts", "4") == 0
        assert len(judge.asked) == asked + 1  # unless somebody allows another attempt
    (kept,), (dropped,) = rows_of(tmp_path / "kept.jsonl"), rows_of(tmp_path / "dropped.jsonl")
    assert kept["prompt"] == "hesitant"
    assert dropped["filter"]["scores"] == {} and dropped["filter"]["reasons"][0].startswith("malformed: ")
    raw = [row for row in rows_of(tmp_path / "answers/answers-0-of-1.jsonl") if row.get("outcome") == "malformed"]
    assert {row["raw"] for row in raw} == set(bad)  # every raw answer is kept


def test_faults_on_the_way_cost_nothing(media, tmp_path):
    manifest = write_manifest(media, "faults.jsonl", [f"Edit {number}" for number in range(6)])
    count, second = Counter(), threading.Event()

    def reply(asked):
        if judge.most_at_once > 1:
            second.set()
        second.wait(10)  # the first question is open until another is asked beside it
        request = (asked.text, asked.body["seed"])
        count[request] += 1
        if count[request] > 1:
            return good_scores(asked)
        faults = [Reply(status=500), Reply(drop=True), Reply(status=429, headers={"Retry-After": "0"})]
        return faults[len(count) % 3]

    with judge_server(reply) as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1", "--concurrency", "4") == 0
        assert 1 < judge.most_at_once <= 4
    assert len(rows_of(tmp_path / "kept.jsonl")) == 6


def test_a_server_that_goes_away_ends_the_run_and_loses_nothing(media, tmp_path, capsys):
    manifest = write_manifest(media, "away.jsonl", [f"Edit {number}" for number in range(12)])
    with judge_server(lambda asked: Reply(drop=True) if len(judge.asked) > 8 else good_scores(asked)) as judge:
        status = run(manifest, tmp_path, judge, "--runs", "1", "--concurrency", "2", "--retries", "0")
        assert status == 1
        assert len(judge.asked) < 25
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "kept.jsonl").exists()
    assert run(manifest, tmp_path, None, "--merge", "--runs", "1") == 1
    assert "still lack answers" in capsys.readouterr().err
    assert not (tmp_path / "kept.jsonl").exists()
    assert run(manifest, tmp_path, None, "--merge", "--runs", "1", "--partial") == 0
    assert {"no answer"} == {row["filter"]["reasons"][0] for row in rows_of(tmp_path / "dropped.jsonl")}
    with judge_server() as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1") == 0
        assert len(judge.asked) == 36 - 8
    assert len(rows_of(tmp_path / "kept.jsonl")) == 12


def test_refusals_are_told_from_a_server_that_refuses_everything(media, tmp_path, capsys):
    manifest = write_manifest(media, "refused.jsonl", [f"Edit {number}" for number in range(4)])
    with judge_server(lambda asked: Reply(status=400, body=b'{"message": "at most 1 image"}')) as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1") == 1
    assert "at most 1 image" in capsys.readouterr().err
    with judge_server(lambda a: Reply(status=413, delay=0.05) if "Edit 2" in a.text else good_scores(a)) as judge:
        assert run(manifest, tmp_path, judge) == 0
        asked = len(judge.asked)
        assert run(manifest, tmp_path, judge) == 0  # refused once more, which is no surprise
        assert len(judge.asked) == asked + 9
    (dropped,) = rows_of(tmp_path / "dropped.jsonl")
    assert dropped["prompt"] == "Edit 2" and dropped["filter"]["reasons"][0].startswith("refused: HTTP 413")
    with judge_server(lambda asked: Reply(status=401)) as judge:
        assert run(manifest, tmp_path / "new", judge) == 1
        assert len(judge.asked) <= 10
    assert "--model and the key" in capsys.readouterr().err


def test_rows_and_files_that_cannot_be_used_are_dropped_with_reasons(media, tmp_path):
    manifest = media / "mixed.jsonl"
    rows = [
        {"source_video": "a.mp4", "target_video": "b.mp4", "prompt": "good"},
        {"source_video": "a.mp4", "target_video": "missing.mp4", "prompt": "missing"},
        {"source_video": "broken.mp4", "target_video": "b.mp4", "prompt": "broken"},
        {"source_video": "a.mp4", "prompt": "half"},
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{not json\n")
    with judge_server() as judge:
        assert run(manifest, tmp_path, judge, "--runs", "1") == 0
        assert len(judge.asked) == 3
    assert [row["prompt"] for row in rows_of(tmp_path / "kept.jsonl")] == ["good"]
    reasons = [row["filter"]["reasons"][0].partition(":")[0] for row in rows_of(tmp_path / "dropped.jsonl")]
    assert reasons == ["unreadable", "unreadable", "unreadable row", "unreadable row"]


def test_shards_do_every_pair_once_and_can_be_split_anew(media, tmp_path):
    prompts = [f"Edit {number}" for number in range(14)]
    manifest = write_manifest(media, "shards.jsonl", [*prompts, prompts[3], prompts[3]])  # listed three times
    whole = [subject.key for subject in subjects(Manifest(str(manifest)), Shard(0, 1))]
    parts = [{subject.key for subject in subjects(Manifest(str(manifest)), Shard(index, 3))} for index in range(3)]
    assert sum(len(part) for part in parts) == len(set(whole)) == 14
    assert set().union(*parts) == set(whole)
    with judge_server() as judge:
        for index in range(2):
            assert run(manifest, tmp_path, judge, "--runs", "1", "--shard", f"{index}/3") == 0
        assert not (tmp_path / "kept.jsonl").exists()
        assert run(manifest, tmp_path, judge, "--runs", "1") == 0  # the rest, by one process
        assert len(judge.asked) == 14 * 3
        requests = Counter((asked.text, asked.body["seed"]) for asked in judge.asked)
    assert set(requests.values()) == {1}
    assert len(rows_of(tmp_path / "kept.jsonl")) == 16


@pytest.mark.parametrize("after", [5, 41])
def test_a_killed_run_asks_nothing_twice_and_loses_nothing(media, tmp_path, after):
    """kill -9 while answers are coming in; the second run asks exactly what has no whole line yet."""
    manifest = write_manifest(media, "killed.jsonl", [f"Edit {number}" for number in range(8)])
    command = [sys.executable, "-m", "training.filter", "--manifest", str(manifest), "--out", str(tmp_path), *SMALL]
    answers = tmp_path / "answers" / "answers-0-of-1.jsonl"
    with judge_server(lambda asked: good_scores(asked, 9) if len(judge.asked) <= after else stuck(asked)) as judge:

        def stuck(asked):
            time.sleep(30)
            return good_scores(asked, 9)

        environment = os.environ | {"JUDGE_URL": judge.url, "JUDGE_MODEL": "eye"}
        process = subprocess.Popen([*command, "--concurrency", "3"], cwd=ROOT, env=environment)
        deadline = time.monotonic() + 60
        while len(judge.asked) < after + 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        first = {(asked.text, asked.body["seed"]) for asked in judge.asked[:after]}
    recorded = answers.read_bytes()
    assert recorded.endswith(b"\n")
    assert len(recorded.splitlines()) == 1 + after  # the settings and every answer that was given
    answers.write_bytes(recorded + b'{"key": "1234", "requ')  # as if the kill had come in the middle of a write
    with judge_server() as judge:
        assert main([*command[3:], "--url", judge.url, "--model", "eye"]) == 0
        second = [(asked.text, asked.body["seed"]) for asked in judge.asked]
    assert len(second) == 8 * 9 - after
    assert not first & set(second)
    assert len(first | set(second)) == 8 * 9
    assert answers.read_bytes().startswith(recorded)
    assert len(rows_of(tmp_path / "kept.jsonl")) == 8


def test_bad_options_are_one_sentence(media, tmp_path, capsys):
    manifest = write_manifest(media, "options.jsonl", ["x"])
    base = ["--manifest", str(manifest), "--out", str(tmp_path)]
    for options, words in (
        ([*base, "--model", "eye", "--url", ""], "--url"),
        ([*base, "--url", "http://127.0.0.1:1/v1", "--model", ""], "--model"),
        ([*base, "--url", "http://x/v1", "--model", "eye", "--extra", "[]"], "--extra"),
        ([*base, "--url", "http://x/v1", "--model", "eye", "--adapter", "clips"], "adapter"),
        (["--manifest", str(tmp_path / "none.jsonl"), "--out", str(tmp_path), "--merge"], "none.jsonl"),
    ):
        assert main(options) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    with pytest.raises(SystemExit) as stopped:
        main([*base, "--url", "http://x/v1", "--model", "eye", "--shard", "4/4"])
    assert stopped.value.code == 2 and "--shard: '4/4' is no part" in capsys.readouterr().err
