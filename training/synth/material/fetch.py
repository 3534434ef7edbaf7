"""Fetches packages by name through their registries' own clients, checks them and opens them.

By hand, since pooch fetches addresses of files, and these packages are found by npm, pip and apt-get themselves.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.errors import IngredientError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A package to download: client, name, the pattern of its file name and, where the file is fixed, its SHA-256."""

    client: str
    name: str
    pattern: str
    sha256: str | None = None


PACKAGES: dict[str, Package] = {
    "fluent": Package(
        "npm",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "animated": Package(
        "npm",
        "@lobehub/fluent-emoji-anim-1@1.0.0",
        "lobehub-fluent-emoji-anim-1-1.0.0.tgz",
        "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
    ),
    "emojibase": Package(
        "npm",
        "emojibase-data@17.0.0",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    "moviepy": Package(
        "pip-source",
        "moviepy==2.2.1",
        "moviepy-2.2.1.tar.gz",
        "c80cb56815ece94e5e3e2d361aa40070eeb30a09d23a24c4e684d03e16deacb1",
    ),
    "scikit-image": Package("pip", "scikit-image==0.26.0", "scikit_image-0.26.0-*.whl"),
    "noto": Package("apt", "fonts-noto-color-emoji", "fonts-noto-color-emoji_*.deb"),
    "lomiri-wallpapers-16.04": Package("apt", "lomiri-wallpapers-16.04", "lomiri-wallpapers-16.04_*.deb"),
    "libjxl-testdata": Package("apt", "libjxl-testdata", "libjxl-testdata_*.deb"),
    "dejavu": Package("apt", "fonts-dejavu-core", "fonts-dejavu-core_*.deb"),
}

_COMMANDS: dict[str, list[str]] = {
    "npm": ["npm", "pack", "--silent"],
    "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"],
    "pip-source": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"],
    "apt": ["apt-get", "download", "--quiet"],
}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_package(package: Package, downloads: Path) -> Path:
    """Download a package unless it is there already; returns its file."""
    found = sorted(downloads.glob(package.pattern))
    if not found:
        log.info("fetching %s", package.name)
        command = [*_COMMANDS[package.client], package.name]
        if shutil.which(command[0]) is None:
            raise IngredientError(f"{command[0]} is needed to fetch {package.name}; install it and run this again.")
        result = subprocess.run(command, cwd=downloads, capture_output=True, text=True, check=False)
        found = sorted(downloads.glob(package.pattern))
        if result.returncode != 0 or not found:
            reason = (result.stderr or result.stdout).strip().splitlines()[-1:] or ["no message"]
            raise IngredientError(f"could not fetch {package.name} with {package.client}: {reason[0]}")
    check_file(found[-1], package.sha256)
    return found[-1]


def check_file(path: Path, sha256: str | None) -> None:
    """Raise IngredientError if the file has another SHA-256; None accepts any."""
    if sha256 is not None and _sha256(path) != sha256:
        raise IngredientError(f"{path.name} is not the expected file (SHA-256 differs); delete {path} and try again.")


def unpack_deb(path: Path, destination: Path) -> Path:
    """Unpacks a Debian package below `destination`, without installing it."""
    if shutil.which("dpkg-deb") is None:
        raise IngredientError("dpkg-deb is needed to open Debian packages; run this on Debian or Ubuntu.")
    subprocess.run(["dpkg-deb", "-x", str(path), str(destination)], check=True)
    return destination


def tar_members(path: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a tar archive under `prefix`: name below it, and bytes."""
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith(prefix):
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name.removeprefix(prefix), file.read()
