"""Two processes read one set of clips: one opens them for both, and neither sees what the other sees."""

import json

import pytest
from PIL import Image

from tests.distributed import data_line
from tests.distributed.processes import Session
from tests.media import barcode_frame

pytestmark = pytest.mark.distributed


def test_two_processes_share_a_catalogue_and_split_the_samples(tmp_path):
    lines = ["source,target,prompt"]
    for number in range(12):
        width = 64 if number % 2 else 96
        for role, turned in (("s", False), ("t", True)):
            frame = barcode_frame(number, width, 64)
            Image.fromarray(255 - frame if turned else frame).save(tmp_path / f"{role}{number}.png")
        lines.append(f"s{number}.png,t{number}.png,edit {number}")
    lines.append("s0.png,s0.png,nothing")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    session = Session(data_line.main, [str(tmp_path)], 2, tmp_path / "told.txt")
    session.join()
    files = [tmp_path / f"drawn-{rank}.json" for rank in range(2)]
    assert all(file.is_file() for file in files), session.words()
    one, other = (json.loads(file.read_text()) for file in files)
    assert [step["signature"] for step in one] == [step["signature"] for step in other]
    draws = [tuple(draw) for step in [*one, *other] for draw in step["draws"]]
    assert len(set(draws)) == len(draws) == 24
    for step in [*one, *other]:
        for (sample, _), text in zip(step["draws"], step["texts"], strict=True):
            assert text in (f"edit {sample}", "")
    assert len(list((tmp_path / "run" / "data").glob("catalogue-*.jsonl"))) == 1
    (drop,) = (tmp_path / "run" / "data" / "dropped.jsonl").read_text().splitlines()
    assert json.loads(drop)["reason"] == "source equals target"
