"""Files and folders that are written whole or not at all."""

import errno
from pathlib import Path

import pytest

from sama.files import disk_full, whole_file, whole_folder


class HalfwayError(Exception):
    pass


def test_a_file_appears_with_all_of_its_content(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with whole_file(target) as part:
        part.write_text("half")
        assert target.read_text() == "old"
        part.write_text("whole")
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_fails_leaves_the_earlier_one_alone(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(HalfwayError), whole_file(target) as part:
        part.write_text("half")
        raise HalfwayError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    target = tmp_path / "a.txt"
    with whole_file(target) as first, whole_file(target) as second:
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # its block ended last
    assert list(tmp_path.iterdir()) == [target]


def test_the_longest_name_can_be_written(tmp_path):
    target = tmp_path / ("n" * 255)
    with whole_file(target) as part:
        part.write_text("whole")
    assert target.read_text() == "whole"


def test_a_folder_takes_the_place_of_the_earlier_one(tmp_path):
    target = tmp_path / "parent" / "model"
    for content in ("old", "new"):
        with whole_folder(target) as part:
            (part / content).write_text(content)
        assert [path.name for path in target.iterdir()] == [content]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_fails_leaves_the_earlier_one_alone(tmp_path):
    target = tmp_path / "model"
    with whole_folder(target) as part:
        (part / "old").write_text("old")
    with pytest.raises(HalfwayError), whole_folder(target) as part:
        (part / "half").write_text("half")
        raise HalfwayError
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_take_its_name_gives_the_earlier_one_back(tmp_path, monkeypatch):
    target = tmp_path / "model"
    with whole_folder(target) as part:
        (part / "old").write_text("old")
    rename = Path.rename

    def refusing(self, to):
        if self.name.endswith(".new"):
            raise OSError(errno.EACCES, "refused")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OSError, match="refused"), whole_folder(target) as part:
        (part / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_known_by_number_or_words():
    assert disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_full(RuntimeError("write failed: No space left on device"))
    assert not disk_full(OSError(errno.EACCES, "Permission denied"))
