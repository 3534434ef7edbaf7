"""The doctor's minimum versions are those of requirements.txt, in a checkout and where the package is installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sama import doctor

ROOT = Path(__file__).parents[2]
REQUIREMENTS = [
    Requirement(line.partition("#")[0].strip())
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line.partition("#")[0].strip()
]


def lower_bound(requirement):
    return next(part.version for part in requirement.specifier if part.operator == ">=")


def test_minimum_versions_are_those_of_the_requirements():
    assert doctor.minimum_versions() == {one.name: lower_bound(one) for one in REQUIREMENTS if ">=" in str(one)}
    assert "torch" in doctor.minimum_versions()


@pytest.mark.parametrize("requirement", [one for one in REQUIREMENTS if one.name in ("torch", "av", "numpy")], ids=str)
def test_a_package_below_the_requirements_is_a_problem(requirement, monkeypatch, tmp_path):
    oldest = lower_bound(requirement)
    major, *minor = (int(part) for part in oldest.split("."))
    older = f"{major}.{minor[0] - 1}.9" if minor and minor[0] else f"{major - 1}.99.9"
    for version, ok in ((oldest, True), (f"{oldest}.1+cpu", True), (f"{major + 1}.0", True), (f"{older}+cu130", False)):
        monkeypatch.setattr(doctor.metadata, "version", lambda name, version=version: version)
        found = next(one for one in doctor.diagnose(folder=tmp_path) if one.name == requirement.name)
        assert found.ok == ok, version
        if not ok:
            assert found.detail == f"{older}+cu130 is too old"
            assert found.advice == f"Run: python -m pip install '{requirement.name}>={oldest}'"


def test_an_installed_package_knows_its_own_requirements(tmp_path):
    """Installed, there is no requirements.txt beside the package: its metadata say the same."""
    shutil.copytree(ROOT / "sama", tmp_path / "sama", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "requirements.txt").write_text("torch>=9.9\n")  # of another project
    assert minimum_versions_in(tmp_path) == "{}"
    metadata = tmp_path / "sama_editor-0.1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    requires = ["torch<2.60,>=2.50", 'numpy>=2; python_version >= "3"', "ftfy", "peft[extra]<1,>=0.21"]
    lines = ["Metadata-Version: 2.4", "Name: sama-editor", "Version: 0.1.0", *(f"Requires-Dist: {r}" for r in requires)]
    metadata.write_text("\n".join(lines) + "\n")
    assert minimum_versions_in(tmp_path) == "{'torch': '2.50', 'numpy': '2', 'peft': '0.21'}"


def minimum_versions_in(folder):
    code = "from sama.doctor import minimum_versions; print(minimum_versions())"
    command = [sys.executable, "-B", "-c", code]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
