import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.measuring import write_result
from benchmarks.training_settings import SETTINGS, parse_setting, results_table

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.training_speed", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment, check=False)


def test_both_kinds_of_training_are_measured(tmp_path):
    done = run("--out", str(tmp_path), "--toy", "--here", "14b_lora_81", "1.3b_full_81:every=2:steps=3")
    assert done.returncode == 0, done.stderr[-2000:]
    lora = json.loads((tmp_path / "14b_lora_81.json").read_text())
    full = json.loads((tmp_path / "1.3b_full_81-every_2-steps_3.json").read_text())
    assert (len(lora["seconds"]), len(full["seconds"])) == (2, 3)
    assert 0 < lora["trained"] < lora["parameters"]
    assert full["trained"] == full["parameters"]
    for result in (lora, full):
        assert result["tokens"] == 2 * 12 + 65
        assert result["skipped_steps"] == 0
        assert result["mfu"] is None, "the peak of a CPU is not known"
        assert result["tokens_per_second"] == pytest.approx(result["tokens"] / result["step_seconds"])
    rows = results_table(tmp_path).splitlines()
    assert len(rows) == 4
    assert "| 14b lora, 5 x 32 x 48, not compiled | 1 x cpu | 89 | full | native |" in rows[3]


def test_results_of_several_sessions_are_kept_in_one_file(tmp_path):
    setting, kept = {**vars(SETTINGS["tiny"])}, tmp_path / "docs" / "speed.json"
    for session, names in (("one", "ab"), ("two", "bc")):
        for name in names:
            write_result(tmp_path / session, {"name": name, "setting": setting, "error": f"{name} of {session}"})
        done = run("--out", str(tmp_path / session), "--keep", str(kept))
        assert done.returncode == 0, done.stderr
    printed = run("--table", str(kept)).stdout
    assert [row.split("|")[5].strip() for row in printed.splitlines()[2:]] == ["a of one", "b of two", "c of two"]
    assert printed == results_table(kept)
    nothing = run("--out", str(tmp_path / "none"), "--keep", str(kept))
    assert nothing.returncode == 2 and "no results in" in nothing.stderr
    assert printed == results_table(kept)


def test_a_setting_is_varied_by_name():
    setting = parse_setting("14b_lora_81:checkpointing=offload:every=2:compile=false:limit_gib=70.5")
    assert (setting.checkpointing, setting.every, setting.compile, setting.limit_gib) == ("offload", 2, False, 70.5)
    assert setting.frames == SETTINGS["14b_lora_81"].frames


@pytest.mark.parametrize("text", ["14b_lora", "tiny:frame=5"])
def test_what_there_is_not_is_refused_with_what_there_is(text):
    done = run(text)
    assert done.returncode == 2
    assert "choose from" in done.stderr


def test_a_failure_has_a_row(tmp_path):
    setting = {**vars(SETTINGS["14b_lora_81"])}
    write_result(tmp_path, {"name": "a", "setting": setting, "error": "OutOfMemoryError: 78 GiB | used"})
    assert "OutOfMemoryError: 78 GiB / used" in results_table(tmp_path)
