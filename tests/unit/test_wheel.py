"""The package as it is installed: built, unpacked, and run from elsewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from sama.presets import canvas_of
from sama.video import probe
from tests.media import make_clip
from tests.tiny import tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
NOT_OF_THE_CORE = ("gradio", "spaces", "moviepy", "mcp", "openai", "rapidocr", "ui", "training")
REFUSING = f"""
import importlib, importlib.abc, pkgutil, sys

class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_OF_THE_CORE}:
            raise AssertionError(f"the core imports {{name}}")

sys.meta_path.insert(0, Refusing())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that holds what installing both wheels adds; the weights among them are random."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"  # a copy, since building writes beside the sources
    shutil.copytree(ROOT / "sama", sources / "sama", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "wheels", sources / "wheels")
    for name in PARTS:
        shutil.copy(ROOT / name, sources)
    sizes = canvas_of("tiny").settings()
    tiny_pipeline(tower=False, **sizes).save_pretrained(sources / "assets" / "sama-tiny")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    projects = [str(sources), str(sources / "wheels" / "tiny")]
    subprocess.run([*command, "-w", str(folder), *projects], check=True, timeout=120)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=2, width=96, height=54)


def sama(site, cwd, *arguments, then=""):
    """Runs the installed command, and then some code, where modules of the page and of training cannot be imported."""
    (entry,) = re.findall(r"sama = (\S+)", next(site.glob("sama_editor-*.dist-info/entry_points.txt")).read_text())
    module, function = entry.split(":")
    code = f"{REFUSING}sys.argv[0] = 'sama'\nfrom {module} import {function}\nstatus = {function}()\n{then}"
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", f"{code}\nsys.exit(status)", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)


IMPORT_ALL = """
import sama
names = [module.name for module in pkgutil.walk_packages(sama.__path__, "sama.") if "__main__" not in module.name]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_the_installed_command_edits_with_the_installed_weights_and_the_core_alone(site, clip, tmp_path):
    done = sama(site, tmp_path, "edit", clip, "Make it snowy", "--steps", 1, "-o", "out.mp4", then=IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    name, imported = done.stdout.splitlines()
    assert name == "out.mp4"
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["model"] is None
    assert probe(tmp_path / "out.mp4").frames == 2
    sources = [file for file in (ROOT / "sama").rglob("*.py") if file.name != "__main__.py"]
    assert int(imported) == len(sources) - 1, "every module but the package itself"
    assert (site / "sama" / "py.typed").is_file()


def test_without_weights_the_installed_package_says_how_to_get_them(site, clip, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(site, bare, ignore=shutil.ignore_patterns("sama_editor_tiny"))
    for command in (["info", clip], ["edit", clip, "Make it snowy"]):
        refused = sama(bare, tmp_path, *command)
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert "--model" in line and "sama-editor-tiny" in line
    assert sorted(tmp_path.iterdir()) == [bare, clip]


def requirements(name):
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {line for line in lines if line and not line.startswith("-r")}


def test_what_the_wheel_asks_for_is_what_the_requirements_say():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {*project["dependencies"], *extras["app"]} == requirements("requirements.txt")
    assert not set(project["dependencies"]) & set(extras["app"])
    assert {*extras["train"]} <= requirements("requirements-dev.txt")
