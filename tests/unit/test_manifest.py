"""Manifests of every form, and what is said of rows that cannot be read."""

import io
import json
import tarfile
from collections import Counter

import pytest

from tests.media import make_clip
from training.config import ManifestConfig, SetConfig
from training.data.files.checks import find_catalogue, read_set, usage_report
from training.data.files.clips import digest_of
from training.data.files.manifest import Dropped, Media, Record, manifest_files, rows
from training.errors import ConfigError

ROW = {"source_video": "a.mp4", "target_video": "b.mp4", "prompt": "Make it snowy"}


def read(path, adapter="pairs", root=""):
    return list(read_set(0, SetConfig(str(path), adapter, root)))


def only(path, **options):
    results = read(path, **options)
    assert len(results) == 1
    return results[0]


def jsonl(path, *values):
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values))
    return path


def write_tar(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


def test_jsonl_json_and_csv_say_the_same(tmp_path):
    jsonl(tmp_path / "m.jsonl", ROW)
    (tmp_path / "m.json").write_text(json.dumps([ROW]))
    (tmp_path / "m.csv").write_text("source_video,target_video,prompt\na.mp4,b.mp4,Make it snowy\n")
    found = [only(tmp_path / name) for name in ("m.jsonl", "m.json", "m.csv")]
    origins = [f"{tmp_path}/m.jsonl:1", f"{tmp_path}/m.json[0]", f"{tmp_path}/m.csv:2"]
    source, target = Media(f"{tmp_path}/a.mp4"), Media(f"{tmp_path}/b.mp4")
    assert found == [Record(source, target, "Make it snowy", 0, origin, 0) for origin in origins]


@pytest.mark.parametrize(
    "columns",
    [
        ("original_video", "video", "prompt"),
        ("src_video", "tgt_video", "instruction"),
        ("original_video", "edited_video", "edit_instruction"),
        ("source_image", "edited_image", "edit_prompt"),
    ],
)
def test_aliases(tmp_path, columns):
    record = only(jsonl(tmp_path / "m.jsonl", dict(zip(columns, ("a.mp4", "b.mp4", "Words"), strict=True))))
    assert (record.source.path, record.target.path) == (f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4")
    assert record.prompt == "Words"


def test_paths_are_relative_to_the_root_or_absolute(tmp_path):
    path = jsonl(tmp_path / "m.jsonl", ROW | {"target_video": "/far/b.mp4"})
    record = only(path, root="/media/set")
    assert (record.source.path, record.target.path) == ("/media/set/a.mp4", "/far/b.mp4")


@pytest.mark.parametrize(
    ("row", "reason", "said"),
    [
        ("{not json", "malformed row", "no JSON"),
        ("[1, 2]", "malformed row", "object"),
        ({"target_video": "b.mp4", "prompt": "x"}, "missing column", "source_video"),
        (ROW | {"target_video": ""}, "empty target", "target_video"),
        (ROW | {"video": "other.mp4"}, "ambiguous columns", "target_video and video"),
        (ROW | {"prompt": 3}, "malformed row", "text"),
        (ROW | {"source_video": "https://x.org/a.mp4"}, "not a local file", "download"),
        (ROW | {"offset": "soon"}, "malformed row", "offset"),
        (ROW | {"offset": -1}, "malformed row", "negative"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_and_not_guessed(tmp_path, row, reason, said):
    path = jsonl(tmp_path / "m.jsonl", ROW, "", row, ROW)
    good, bad, after = read(path)
    assert isinstance(good, Record) and isinstance(after, Record)
    assert (bad.origin, bad.reason) == (f"{path}:3", reason)
    assert said in bad.detail


def test_csv_rows_of_another_width_are_named(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text('source_video,target_video,prompt\na,b\na,b,"two\nlines"\na,b,c,d\n')
    short, good, long = read(path)
    assert (short.origin, long.origin) == (f"{path}:2", f"{path}:5")
    assert {short.reason, long.reason} == {"malformed row"}
    assert good.prompt == "two\nlines"


def test_shards_give_each_sample_with_its_place(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=3).read_bytes()
    other = make_clip(tmp_path / "other.mp4", frames=5).read_bytes()
    for number in range(3):
        members = {
            f"{number}.source.mp4": clip,
            f"{number}.target.mp4": other,
            f"{number}.json": json.dumps({"prompt": f"Edit {number}"}).encode(),
            "broken.json": b"{",
        }
        write_tar(tmp_path / f"s-{number:03d}.tar", members)
    results = read(f"{tmp_path}/s-{{000..002}}.tar")
    records = [result for result in results if isinstance(result, Record)]
    assert [record.prompt for record in records] == ["Edit 0", "Edit 1", "Edit 2"]
    assert [result.origin for result in results if isinstance(result, Dropped)] == [
        f"{tmp_path}/s-{number:03d}.tar:broken" for number in range(3)
    ]
    assert digest_of(records[2].target) == digest_of(Media(str(tmp_path / "other.mp4")))
    assert digest_of(records[2].source) == digest_of(Media(str(tmp_path / "clip.mp4")))
    assert read(f"{tmp_path}/s-*.tar") == results


def test_a_shard_with_texts_and_bare_media_is_a_set_of_clips(tmp_path):
    path = write_tar(tmp_path / "s.tar", {"a/0.mp4": b"x", "a/0.txt": b"A swan", "a/1.mp4": b"y"})
    first, second = read(path, "clips")
    assert (first.source, first.target.member, first.prompt) == (None, "a/0.mp4", "A swan")
    assert (second.target.member, second.prompt) == ("a/1.mp4", "")


def test_what_is_no_manifest_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ConfigError, match="gone"):
        manifest_files(str(tmp_path / "gone.jsonl"))
    write_tar(tmp_path / "s-0.tar", {})
    with pytest.raises(ConfigError, match="s-1"):
        manifest_files(str(tmp_path / "s-{0..1}.tar"))
    (tmp_path / "m.xml").write_text("")
    with pytest.raises(ConfigError, match="no manifest"):
        rows(tmp_path / "m.xml")
    (tmp_path / "zipped.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ConfigError, match="uncompressed"):
        list(rows(tmp_path / "zipped.tar"))
    with pytest.raises(ConfigError, match="pairs, clips"):
        read(jsonl(tmp_path / "m.jsonl", ROW), "pears")


def test_the_report_counts_every_row(tmp_path):
    make_clip(tmp_path / "a.mp4", frames=6)
    make_clip(tmp_path / "b.mp4", frames=6, width=120, height=80)
    path = jsonl(tmp_path / "m.jsonl", ROW, "{", ROW | {"prompt": "  "}, ROW | {"source_video": "gone.mp4"})
    config = ManifestConfig(sets=(SetConfig(str(path)),))
    catalogue = find_catalogue(config, tmp_path / "out")
    lines = usage_report(catalogue.dropped, config, catalogue.rows)
    assert Counter(drop.reason for drop in catalogue.dropped) == {
        "malformed row": 1, "empty prompt": 1, "unreadable": 1
    }  # fmt: skip
    assert len(catalogue) == 1
    assert lines[0].endswith("1 of 4 rows used")
    assert sorted(lines[1:]) == ["  dropped 1: empty prompt", "  dropped 1: malformed row", "  dropped 1: unreadable"]
