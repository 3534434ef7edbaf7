"""The package as it is installed: built, unpacked, and run from elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sama.presets import canvas_of
from sama.video import probe
from tests.media import make_clip
from tests.tiny import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "requirements.txt")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what installing the wheel adds; random weights lie among its data."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a copy, since building writes beside the sources
    shutil.copytree(ROOT / "sama", sources / "sama", ignore=shutil.ignore_patterns("__pycache__", "assets"))
    for name in PARTS:
        shutil.copy(ROOT / name, sources)
    sizes = canvas_of("tiny").settings()
    tiny_pipeline(tower=False, **sizes).save_pretrained(sources / "sama" / "assets" / "sama-tiny")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(folder), str(sources)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=2, width=96, height=54)


def sama(site, cwd, *arguments):
    command = [sys.executable, "-m", "sama", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)


def test_the_installed_package_edits_with_the_weights_it_carries(site, clip, tmp_path):
    done = sama(site, tmp_path, "edit", clip, "Make it snowy", "--steps", 1, "-o", "out.mp4")
    assert (done.returncode, done.stdout.strip()) == (0, "out.mp4"), done.stderr
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["model"] is None
    assert probe(tmp_path / "out.mp4").frames == 2


def test_without_weights_the_installed_package_says_how_to_get_them(site, clip, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(site, bare, ignore=shutil.ignore_patterns("assets"))
    for command in (["info", clip], ["edit", clip, "Make it snowy"]):
        refused = sama(bare, tmp_path, *command)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert "--model" in line and "repository" in line
    assert sorted(tmp_path.iterdir()) == [bare, clip]
