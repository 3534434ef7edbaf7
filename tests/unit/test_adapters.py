"""The published sets' rows, one sample of each form."""

import json

import pytest

from tests.unit.test_manifest import jsonl, read, write_tar
from training.data.files.manifest import Dropped

PUBLISHED = {
    "nhr_edit": (
        {"source_file_name": "images/00/1_original.jpg", "edited_file_name": "images/00/1_edited_0.jpg",
         "edit_instruction": "Remove the bird", "category": "remove"},
        ("images/00/1_original.jpg", "images/00/1_edited_0.jpg", "Remove the bird", 0),
    ),
    "gpt_image_edit": (
        {"image": ["input/1.png", "output/1.png"],
         "conversations": [{"from": "human", "value": "<image>\nAdd a hat"}, {"from": "gpt", "value": "<image>"}]},
        ("input/1.png", "output/1.png", "Add a hat", 0),
    ),
    "pico_banana": (
        {"open_image_input_url": "https://x/y.jpg", "text": "Recolour the car", "summarized_text": "Blue car",
         "output_image": "images/positive-edit/1.png", "local_input_image": "/openimages/1.jpg"},
        ("/openimages/1.jpg", "images/positive-edit/1.png", "Recolour the car", 0),
    ),
    "koala": (
        {"videoID": "abc_12", "url": "https://y", "timestamp": "['0:00:01', '0:00:05']", "caption": "A horse runs"},
        (None, "abc_12.mp4", "A horse runs", 0),
    ),
    "motion_bench": (
        {"video_path": "x/1.mp4", "motion_caption": "He waves"},
        (None, "x/1.mp4", "He waves", 0),
    ),
    "ditto_style": (
        {"source_path": "source/1.mp4", "instruction": "Make it a woodcut", "edited_path": "global_style1/1_0.mp4"},
        ("source/1.mp4", "global_style1/1_0.mp4", "Make it a woodcut", 0),
    ),
    "openve": (
        {"original_video": "o/1.mp4", "video": "e/1.mp4", "prompt": "Turn the sofa red", "edited_type": "local_change"},
        ("o/1.mp4", "e/1.mp4", "Turn the sofa red", 4),
    ),
    "reco": (
        {"src_video": "replace/src_videos/1.mp4", "tar_video": "replace/tar_videos/1.mp4",
         "instruction_final_refine": "Replace the cat", "instruction": "cat to dog"},
        ("replace/src_videos/1.mp4", "replace/tar_videos/1.mp4", "Replace the cat", 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_row(tmp_path, name):
    row, (source, target, prompt, offset) = PUBLISHED[name]
    (record,) = read(jsonl(tmp_path / "m.jsonl", row), name, "/set")
    found = None if record.source is None else record.source.path.removeprefix("/set/")
    assert found == source
    assert (record.target.path, record.prompt, record.offset) == (f"/set/{target}", prompt, offset)


def test_x2edit_shards(tmp_path):
    members = {
        "0.1.0.jpg": b"a", "0.2.jpg": b"b", "0.json": json.dumps({"instruction": "Add rain", "task": "x"}).encode(),
        "1.1.jpg": b"a", "1.2.jpg": b"b", "1.json": json.dumps({"caption_en": ["Red", "Crimson"]}).encode(),
        "2.1.0.jpg": b"a", "2.2.jpg": b"b", "2.json": json.dumps({"label": "Subjects200K", "caption_en": "x"}).encode(),
    }  # fmt: skip
    first, second, third = read(write_tar(tmp_path / "s.tar", members), "x2edit")
    assert (first.source.member, first.target.member, first.prompt) == ("0.1.0.jpg", "0.2.jpg", "Add rain")
    assert (second.source.member, second.prompt) == ("1.1.jpg", "Red")
    assert (third.reason, third.number) == ("outside the subset", 0)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("ditto_style", {"edited_path": "local/1_0.mp4"}, "outside the subset"),
        ("ditto_style", {"edited_path": "global_freeform1/1_0.mp4"}, "outside the subset"),
        ("openve", {"edited_type": "creative_edit"}, "outside the subset"),
        ("openve", {"edited_type": "Local Remove"}, "outside the subset"),
        ("gpt_image_edit", {"image": ["a", "b", "c"]}, "outside the subset"),
        ("gpt_image_edit", {"conversations": []}, "malformed row"),
        ("pico_banana", {"local_input_image": None}, "missing source"),
        ("nhr_edit", {"edit_instruction": ""}, "empty prompt"),
        ("koala", {"videoID": ""}, "empty clip"),
    ],
)
def test_rows_outside_a_subset_or_incomplete_are_reported(tmp_path, name, change, reason):
    (drop,) = read(jsonl(tmp_path / "m.jsonl", PUBLISHED[name][0] | change), name)
    assert isinstance(drop, Dropped)
    assert drop.reason == reason


def test_ditto_in_its_form_for_other_trainers(tmp_path):
    path = tmp_path / "ditto.csv"
    path.write_text("video,vace_video,prompt\nglobal_style2/1_3.mp4,source/1.mp4,Make it a woodcut\n")
    (record,) = read(path, "ditto_style", "/set")
    assert (record.source.path, record.target.path) == ("/set/source/1.mp4", "/set/global_style2/1_3.mp4")
