"""docs/api.md is what the docstrings say, its links lead somewhere, and the examples run."""

import importlib
import inspect
import re
import runpy
import sys
from pathlib import Path

import pytest

import sama
from benchmarks.api_page import CONTENTS, PAGE, documented, page
from tests.media import make_clip
from tests.tiny import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def text():
    return page()


def test_the_page_is_up_to_date(text):
    assert PAGE.read_text(encoding="utf-8") == text, "run python -m benchmarks.api_page"
    assert {*sama.__all__} - {"ModelMixin"} <= {*CONTENTS["sama"]}
    assert f"sama {sama.__version__}" in text


def test_links_within_the_page_lead_to_one_heading_each(text):
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    headings = [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-")
                for line in re.findall(r"^#+ (.*)$", prose, flags=re.M)]  # fmt: skip
    assert len(headings) == len(set(headings)), "two headings of one name"
    links = re.findall(r"\]\(#([^)]+)\)", prose)
    assert len(links) > 25 and set(links) <= set(headings)
    assert all((PAGE.parent / file).exists() for file in re.findall(r"\]\(([^#)][^)]*)\)", prose))


def test_names_in_the_docstrings_exist():
    seen = 0
    for owner, found in documented():
        said = inspect.getdoc(found) or ""
        assert said, f"{owner} has no docstring"
        for name in re.findall(r"`(sama(?:\.\w+)+)`", said):
            assert resolves(name), f"{owner} names {name}"
            seen += 1
    assert seen > 15


def resolves(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    model = tmp_path / "model"
    tiny_pipeline(tower=False).save_pretrained(model)
    clip = make_clip(tmp_path / "in.mp4", frames=2, width=96, height=54)
    run(monkeypatch, "edit_a_file.py", clip, "Make it snowy", tmp_path / "out.mp4", model)
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out.mp4'}: 2 frames, ")
    run(monkeypatch, "frames_and_plan.py", model)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "frames (1, 5, 64, 96, 3), plan (1, 4, 65, 32)"
    assert [line.split()[2] for line in lines[1:]] == ["1", "2", "3", "4"] and "is 1.00 like" in lines[-1]
    assert {file.name for file in (ROOT / "examples").glob("*.py")} == {"edit_a_file.py", "frames_and_plan.py"}
