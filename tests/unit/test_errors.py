"""The modules of user errors: free of heavy imports, and every error survives the way to another process."""

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = ("sama.errors", "training.errors")


@pytest.mark.parametrize("module", MODULES)
def test_errors_need_only_the_standard_library(module):
    code = f"""
import sys
import {module}
loaded = {{name.split(".")[0] for name in sys.modules if not name.startswith("_")}}
foreign = loaded - set(sys.stdlib_module_names) - {{"sama", "training", "sitecustomize"}}
assert not foreign, foreign
"""
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("module", MODULES)
def test_errors_survive_pickling(module):
    errors = importlib.import_module(module)
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == module]
    assert len(kinds) > 3
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("Cut the clip first.")))
        assert type(error) is kind
        assert str(error) == "Cut the clip first."


def test_public_places_give_the_same_classes():
    import sama.checkpoints
    import sama.edit
    import sama.errors
    import sama.video

    assert sama.edit.EditError is sama.errors.EditError
    assert sama.edit.EditFailedError is sama.errors.EditFailedError
    assert sama.video.VideoError is sama.errors.VideoError
    assert sama.checkpoints.CheckpointError is sama.errors.CheckpointError
