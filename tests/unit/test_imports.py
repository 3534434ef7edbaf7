"""The house rules that imports must keep: who may import whom, and what `import sama` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "sama": {"ui", "training", "gradio", "spaces", "wandb"},
    "ui": {"training"},
    "training": {"ui", "gradio", "spaces"},
}


ROOMS = {
    "sama/model": ("sama.pipeline", "sama.edit", "sama.video"),
    "sama/pipeline": ("sama.edit", "sama.video"),
    "sama/video": ("sama.model", "sama.pipeline", "sama.edit"),
    "sama/video/picture": ("sama.video.tracks", "sama.video.reading", "sama.video.writing", "sama.video.uploads"),
    "sama/video/tracks": ("sama.video.picture", "sama.video.reading", "sama.video.writing", "sama.video.uploads"),
    "training/core": (
        *("training.stages", "training.data", "training.synth", "training.tiny", "training.evaluation"),
        "training.filter",
    ),
    "training/parallel": (
        *("training.stages", "training.data", "training.watch", "training.synth", "training.tiny"),
        *("training.evaluation", "training.filter"),
    ),
    "training/data/files": (
        *("training.data.drawn", "training.synth", "training.tiny", "training.evaluation", "training.filter"),
    ),
    "training/data/drawn": ("training.tiny", "training.evaluation", "training.filter"),
    "training/stages": ("training.synth", "training.evaluation", "training.filter"),
    "training/watch": ("training.tiny", "training.evaluation", "training.filter"),
    "training/synth": (
        *("training.core", "training.parallel", "training.stages", "training.data", "training.watch"),
        *("training.tiny", "training.evaluation", "training.filter"),
    ),
    "training/evaluation": ("training.tiny", "training.filter"),
}
"""What no file of a room imports, wherever the statement stands."""


def named_modules(path: Path) -> set[str]:
    """Full names of everything a file imports: modules, and `module.name` of what is taken from one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_training_on_files_does_not_load_the_drawing_generator():
    code = """
import sys
import training.train, training.stages.editor, training.stages.lora, training.data.files.feed
loaded = [name for name in sys.modules if name.startswith(("training.synth", "training.data.drawn", "training.tiny"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True, cwd=ROOT, timeout=120)


def imported_modules(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_training_uses_only_public_names_of_sama():
    for file in (ROOT / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sama":
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{file.relative_to(ROOT)} imports {private} from {node.module}"


def test_nothing_prints_in_libraries():
    for file in [*(ROOT / "sama").rglob("*.py"), *(ROOT / "ui").rglob("*.py")]:
        if file.name in ("cli.py", "__main__.py"):
            continue
        calls = [
            node
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
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
