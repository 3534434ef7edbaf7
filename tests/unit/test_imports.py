"""The house rules that imports must keep: who may import whom, and what `import sama` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "sama": {"ui", "training", "gradio", "spaces", "wandb", "integrations"},
    "ui": {"training", "integrations"},
    "training": {"ui", "gradio", "spaces", "integrations"},
    "integrations": {"ui", "training", "gradio", "spaces", "tests"},
}


COMMON = {"config", "errors", "values", "closed_yaml", "yaml_text"}
"""Modules of `training` that every room may import."""
ARROWS = {
    "core": {"parallel"},
    "parallel": set(),
    "data": {"core", "parallel"},
    "data/files": {"core", "parallel", "data"},
    "data/drawn": {"core", "parallel", "data", "data/files", "synth"},
    "stages": {"core", "parallel", "data"},
    "watch": {"core", "parallel", "data", "data/files", "data/drawn", "stages"},
    "synth": set(),
    "tiny": {"core", "data", "data/drawn", "stages", "synth", "evaluation"},
    "evaluation": {"core", "parallel", "data", "data/files", "data/drawn", "stages", "watch", "synth"},
    "filter": {"data/files", "evaluation"},
}
"""By the rooms of `training`: which other ones their files import, wherever the statement stands."""
COMMANDS = {"train.py", "dry_run.py", "export.py", "evaluate.py", "data/check.py"}
"""What is started by hand puts the rooms together and may import all of them; no room imports it."""

ROOMS = {
    "sama/device": ("sama.edit", "sama.video", "sama.workers"),
    "sama/model": ("sama.pipeline", "sama.edit", "sama.video"),
    "sama/pipeline": ("sama.edit", "sama.video"),
    "sama/edit/composing": ("sama.edit.editor", "sama.edit.painter", "sama.edit.request", "sama.edit.windows"),
    "sama/video": ("sama.model", "sama.pipeline", "sama.edit"),
    "sama/video/picture": ("sama.video.tracks", "sama.video.reading", "sama.video.writing", "sama.video.uploads"),
    "sama/video/tracks": ("sama.video.picture", "sama.video.reading", "sama.video.writing", "sama.video.uploads"),
}
"""What no file of a room imports, wherever the statement stands."""


def named_modules(path: Path) -> set[str]:
    """Full names of everything a file imports: modules, and `module.name` of what is taken from one."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_along_their_arrows(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        crossing = [name for name in named_modules(file) if f"{name}.".startswith(tuple(f"{r}." for r in ROOMS[room]))]
        assert not crossing, f"{file.relative_to(ROOT)} imports {', '.join(sorted(crossing))}"


def room_of(parts: tuple[str, ...]) -> str:
    """The room that a path below `training`, or the parts of a module's name, belong to: the longest that is known."""
    for length in (2, 1):
        if (room := "/".join(parts[:length])) in ARROWS:
            return room
    return parts[0].removesuffix(".py")


@pytest.mark.parametrize("room", ARROWS)
def test_training_imports_only_along_its_arrows(room):
    """Also inside functions and for type checkers alone; a submodule's package counts as the submodule's room."""
    training = ROOT / "training"
    folders = {folder.name for folder in training.iterdir() if (folder / "__init__.py").is_file()}
    assert folders == {known.partition("/")[0] for known in ARROWS}, "every folder has its arrows"
    files = [file for file in (training / room).rglob("*.py") if room_of(file.relative_to(training).parts) == room]
    assert files
    for file in files:
        name = file.relative_to(training).as_posix()
        for imported in named_modules(file) if name not in COMMANDS else ():
            package, *parts = imported.split(".")
            if package == "training" and parts:
                assert room_of(tuple(parts)) in ARROWS[room] | {room} | COMMON, f"training/{name} imports {imported}"
        relative = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative, f"training/{name} has an import without a full name"


def test_a_lora_of_the_large_model_on_files_loads_no_drawing_generator():
    """Neither its dry run nor what a run imports."""
    code = """
import sys
from training.train import main
import training.data.files.feed
assert main(["--config", "training/configs/lora_14b.yaml", "--dry-run"]) == 0
loaded = [name for name in sys.modules if name.startswith(("training.synth", "training.data.drawn", "training.tiny"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True, cwd=ROOT, timeout=120, stdout=subprocess.DEVNULL)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_downwards(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        crossing = imported_modules(file) & FORBIDDEN[package]
        assert not crossing, f"{file.relative_to(ROOT)} imports {', '.join(sorted(crossing))}"


def test_only_public_names_of_sama_are_used():
    for file in [*(ROOT / "training").rglob("*.py"), *(ROOT / "integrations").rglob("*.py")]:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sama":
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{file.relative_to(ROOT)} imports {private} from {node.module}"


def test_nothing_prints_in_libraries():
    for file in [file for package in ("sama", "ui", "integrations") for file in (ROOT / package).rglob("*.py")]:
        if file.name in ("cli.py", "__main__.py"):
            continue
        calls = [
            node
            for node in ast.walk(parsed(file))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert not calls, f"{file.relative_to(ROOT)} prints at line {calls[0].lineno}"


def test_import_sama_is_quick_and_touches_nothing():
    code = """
import sys, socket, builtins, time
def refuse(*a, **k): raise AssertionError("import sama opened a socket")
socket.socket.connect = refuse
wrote = []
real_open = builtins.open
def watched(file, mode="r", *a, **k):
    if set(mode) & set("wax+"): wrote.append(file)
    return real_open(file, mode, *a, **k)
builtins.open = watched
began = time.process_time()  # of this process alone, however busy the machine is
import sama
taken = time.process_time() - began
assert taken < 0.5, f"import sama takes {taken:.2f} s of a processor"
assert not wrote, wrote
assert "torch" not in sys.modules and "diffusers" not in sys.modules, "import sama loads heavy libraries"
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True, cwd=ROOT, timeout=120)


def test_names_of_the_package_are_there_on_first_use():
    import sama

    assert {"SamaPipeline", "SamaTransformer3DModel", "edit_video", "EditRequest"} <= set(sama.__all__)
    assert sama.SamaTransformer3DModel.__name__ == "SamaTransformer3DModel"
    with pytest.raises(AttributeError):
        _ = sama.NoSuchThing
