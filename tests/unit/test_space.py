"""The app on a Space: what is uploaded, with which settings, and what the Hub's refusals are told as."""

import json
import re
from pathlib import Path

import httpx2
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from sama import cli
from sama.errors import EditError
from sama.presets import PRESETS
from sama.space import plan_space, upload_space
from tests.unit.test_imports import named_modules

ROOT = Path(__file__).parents[2]


def settings(space):
    return yaml.safe_load(space.front_matter)


def text(space, path):
    (source,) = (file.source for file in space.files if file.path == path)
    return (source if isinstance(source, bytes) else source.read_bytes()).decode()


def test_the_settings_suit_the_hardware():
    zero = settings(plan_space("me/sama"))
    assert (zero["sdk"], zero["app_file"], zero["python_version"]) == ("gradio", "app.py", "3.12")
    assert "suggested_hardware" not in zero and "preload_from_hub" not in zero
    assert settings(plan_space("me/sama", "cpu"))["suggested_hardware"] == "cpu-upgrade"
    large = settings(plan_space("me/sama", "gpu", "14b"))
    weights = PRESETS["14b"]
    assert large["preload_from_hub"] == [f"{weights.weights_repo} {weights.weights_file} {weights.weights_revision}"]
    assert large["suggested_hardware"] == "l40sx1"
    assert len(zero["short_description"]) <= 60, "the Hub refuses longer ones"


def test_its_requirements_are_the_projects_with_the_prescribed_versions():
    space = plan_space("me/sama")
    lines = text(space, "requirements.txt").splitlines()
    assert "torch==2.11.0" in lines and f"gradio=={settings(space)['sdk_version']}" in lines
    ours = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    names = [re.split("[<>=]", line)[0] for line in lines]
    assert names == [re.split("[<>=]", line)[0] for line in ours if line]
    assert set(lines) - set(ours) == {"torch==2.11.0", f"gradio=={settings(space)['sdk_version']}"}


def test_the_uploaded_files_are_all_that_the_app_imports_and_shows(tmp_path):
    """Everything that the app imports and shows, and nothing that it does not need."""

    class Api:
        def create_repo(self, repo, **options):
            self.created = (repo, options)
            return f"https://example.org/spaces/{repo}"

        def upload_folder(self, folder_path, **options):
            self.options = options
            Path(folder_path).rename(tmp_path / "space")
            Path(folder_path).mkdir()

    api, space = Api(), plan_space("me/sama")
    assert upload_space(space, api, private=True) == "https://example.org/spaces/me/sama"
    repo, options = api.created
    assert repo == "me/sama" and options["repo_type"] == "space" and options["space_sdk"] == "gradio"
    assert options["space_hardware"] == "zero-a10g" and options["private"] is True and options["exist_ok"]
    assert options["space_variables"] == [{"key": "SAMA_PRESET", "value": "tiny"}]
    assert api.options["repo_type"] == "space" and api.options["delete_patterns"] == "*"
    there = {
        path.relative_to(tmp_path / "space").as_posix() for path in (tmp_path / "space").rglob("*") if path.is_file()
    }
    assert there == {file.path for file in space.files}
    assert not [
        path for path in there if path.startswith(("training/", "tests/", "docs/", ".")) or "__pycache__" in path
    ]
    for path in (path for path in there if path.endswith(".py")):
        for name in named_modules(tmp_path / "space" / path):
            package, *parts = name.split(".")
            if (ROOT / package).is_dir():
                place = "/".join([package, *parts])
                held = {f"{place}.py", f"{place}/__init__.py", f"{place.rpartition('/')[0]}.py"}
                assert held & there or f"{place.rpartition('/')[0]}/__init__.py" in there, f"{path} imports {name}"
    shown = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ui").rglob("*")
        if path.suffix in (".js", ".css", ".html")
    }
    assert shown and shown <= there
    index = json.loads((tmp_path / "space/assets/sama-tiny/model_index.json").read_text())
    assert {f"assets/sama-tiny/{part}/config.json" for part in ("transformer", "vae") if part in index} <= there


def test_a_dry_run_lists_files_and_settings(capsys):
    assert cli.main(["space", "--repo", "me/sama", "--dry-run"]) == 0
    out = capsys.readouterr().out
    weights = ROOT / "assets/sama-tiny/transformer/diffusion_pytorch_model.safetensors"
    assert f"{weights.stat().st_size:,}  assets/sama-tiny/transformer/" in out
    assert "  app.py\n" in out and 'python_version: "3.12"' in out and "for me/sama on zero" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repo", "sama"], "write user/name"),
        (["--repo", "me/sama", "--hardware", "cpu", "--preset", "14b"], "needs a GPU"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words, capsys):
    assert cli.main(["space", *arguments, "--dry-run"]) == 2
    assert words in capsys.readouterr().err


def test_outside_a_checkout_it_says_so(tmp_path):
    with pytest.raises(EditError, match="run this in a checkout"):
        plan_space("me/sama", root=tmp_path)


REQUEST = httpx2.Request("POST", "https://example.org")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalTokenNotFoundError("no token"), "hf auth login"),
        (
            HfHubHTTPError("402 Payment Required", response=httpx2.Response(402, request=REQUEST)),
            "402 Payment Required",
        ),
        (httpx2.ConnectError("no network"), "could not be reached"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(error, words):
    class Api:
        def create_repo(self, *_, **__):
            raise error

    with pytest.raises(EditError, match=words):
        upload_space(plan_space("me/sama"), Api())


def test_what_a_machine_leaves_behind_is_not_uploaded(tmp_path):
    for name in ("sama", "ui", "assets/sama-tiny", "assets/examples"):
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "__pycache__" / "a.pyc").touch()
        (tmp_path / name / ".DS_Store").touch()
        (tmp_path / name / "kept.txt").touch()
    for name in ("app.py", "packages.txt", "LICENSE", "NOTICE"):
        (tmp_path / name).touch()
    (tmp_path / "README.md").write_text("---\nsdk_version: 6.31.0\n---\n")
    (tmp_path / "requirements.txt").write_text("torch>=2\n")
    paths = {file.path for file in plan_space("me/sama", root=tmp_path).files}
    assert len(paths) == 10 and "ui/kept.txt" in paths and not [path for path in paths if "pyc" in path or "/." in path]
