"""Puts the app on a Hugging Face Space: what it needs is collected, and uploaded without git.

The Hub refuses weights and clips in plain git, history included; `huggingface_hub` stores them where they belong. The
app runs from a checkout, so this does, too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from sama.errors import EditError
from sama.presets import get_preset

if TYPE_CHECKING:
    from huggingface_hub import HfApi, SpaceHardware

ROOT = Path(__file__).parents[1]
FOLDERS = ("sama", "ui", "assets/sama-tiny", "assets/examples")
FILES = ("app.py", "packages.txt", "LICENSE", "NOTICE")
TORCH = "torch==2.11.0"
"""The newest that ZeroGPU lists (2.8.0, 2.9.1, 2.10.0, 2.11.0 in August 2026) and that this project runs on."""

HARDWARE: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "zero": ("zero-a10g", None),
        "cpu": ("cpu-upgrade", "cpu-upgrade"),
        "gpu": ("l40sx1", "l40sx1"),
    }
)
"""By name: what the Hub calls it, and what the front matter suggests to whoever duplicates the Space; ZeroGPU has no
name there."""


@dataclass(frozen=True)
class SpaceFile:
    """One file of a Space: its path there, and its bytes or the file that has them."""

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Space:
    """A Space as it will be uploaded. front_matter: the settings at the top of its README."""

    repo: str
    hardware: str
    preset: str
    front_matter: str
    files: tuple[SpaceFile, ...]

    @property
    def variables(self) -> dict[str, str]:
        """Environment of the app there."""
        return {"SAMA_PRESET": self.preset}


def plan_space(repo: str, hardware: str = "zero", preset: str = "tiny", root: Path = ROOT) -> Space:
    """What a Space would hold. Needs no network.

    repo: `user/name`. hardware: a key of `HARDWARE`. root: a checkout of this project.
    Raises EditError for names that cannot be, and for a folder that is no checkout.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise EditError(f"{repo!r} is no name of a Space; write user/name.")
    if hardware not in HARDWARE:
        raise EditError(f"There is no hardware {hardware!r}; choose one of {', '.join(HARDWARE)}.")
    if preset != "tiny" and hardware == "cpu":
        raise EditError(f"The preset {preset!r} needs a GPU; choose the hardware zero or gpu, or the preset tiny.")
    if get_preset(preset).folder is None and get_preset(preset).weights_repo is None:
        raise EditError(f"No weights are released for the preset {preset!r}; choose tiny or 14b.")
    missing = [name for name in (*FOLDERS, *FILES, "README.md", "requirements.txt") if not (root / name).exists()]
    if missing:
        raise EditError(f"{root} has no {missing[0]}: run this in a checkout of the project, not an installed package.")
    front = _front_matter(root, hardware, preset)
    written = (
        SpaceFile("README.md", f"---\n{front}---\n\n{_ABOUT}".encode()),
        SpaceFile("requirements.txt", _requirements(root, front).encode()),
    )
    return Space(repo, hardware, preset, front, tuple(sorted([*written, *_copied(root)], key=lambda file: file.path)))


def upload_space(space: Space, api: HfApi, private: bool = False) -> str:
    """Create the Space, or replace what it holds, in one commit; its address.

    Raises EditError when the Hub refuses: not logged in, no such user, or hardware that the account may not have.
    """
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        url = api.create_repo(
            space.repo, repo_type="space", space_sdk="gradio", exist_ok=True, private=private,
            space_hardware=cast("SpaceHardware", HARDWARE[space.hardware][0]),
            space_variables=[{"key": key, "value": value} for key, value in space.variables.items()],
        )  # fmt: skip
        with TemporaryDirectory() as folder:
            _stage(space, Path(folder))
            api.upload_folder(
                repo_id=space.repo, repo_type="space", folder_path=folder, delete_patterns="*",
                commit_message="The app and its model",
            )  # fmt: skip
    except LocalTokenNotFoundError as error:
        raise EditError("You are not logged in to the Hub; run `hf auth login` with a token that may write.") from error
    except HfHubHTTPError as error:
        said = next(iter(str(error).strip().splitlines()), "no reason given")
        raise EditError(
            f"The Hub refused the Space ({said}). Free accounts may have ZeroGPU Spaces only (--hardware zero), and "
            "the token needs the right to write."
        ) from error
    except TransportError as error:
        raise EditError("The Hub could not be reached; check the network and run the command again.") from error
    return str(url)


def _front_matter(root: Path, hardware: str, preset: str) -> str:
    """The settings of the project's own README, changed for the hardware and the preset, as lines."""
    found = re.match(r"---\n(.*?\n)---\n", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise EditError(f"{root / 'README.md'} has no front matter; get the file again.")
    lines = [
        line for line in found[1].splitlines() if not line.startswith(("suggested_hardware:", "preload_from_hub:"))
    ]
    suggested = HARDWARE[hardware][1]
    if suggested is not None:
        lines.append(f"suggested_hardware: {suggested}")
    weights = get_preset(preset)
    if weights.weights_repo is not None:
        # At build time: the start has half an hour. Text encoder and VAE are fetched then.
        lines += [
            "preload_from_hub:",
            f"  - {weights.weights_repo} {weights.weights_file} {weights.weights_revision}",
            "startup_duration_timeout: 1h",
        ]
    return "\n".join(lines) + "\n"


def _requirements(root: Path, front: str) -> str:
    """The project's requirements, with the versions that the Space's hardware and SDK prescribe."""
    sdk = re.search(r"^sdk_version: (\S+)$", front, re.MULTILINE)
    if sdk is None:
        raise EditError("The front matter names no sdk_version; get README.md again.")
    pinned = {"torch": TORCH, "gradio": f"gradio=={sdk[1]}"}
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line.partition("#")[0].strip() for line in lines]
    return "".join(f"{pinned.get(re.split(r'[<>=!~ ]', line)[0], line)}\n" for line in wanted if line)


def _copied(root: Path) -> list[SpaceFile]:
    found = [root / name for name in FILES]
    for folder in FOLDERS:
        found += [path for path in (root / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    paths = {path: path.relative_to(root) for path in found}
    return [
        SpaceFile(short.as_posix(), path)
        for path, short in paths.items()
        if not any(part.startswith(".") for part in short.parts)
    ]


def _stage(space: Space, folder: Path) -> None:
    """Put the files into an empty folder."""
    for file in space.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.source, bytes):
            target.write_bytes(file.source)
        else:
            shutil.copyfile(file.source, target)


_ABOUT = """# SAMA

Change a video by telling it what to change: drop a clip, type "Make it snowy", and get the same clip with only that
changed: same motion, length, frame rate, size and sound.

The weights of the embedded model are described in `assets/sama-tiny/README.md`; attributions are in `NOTICE`.
"""
