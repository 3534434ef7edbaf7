"""Folders of jobs and clips under gradio's cache, and their removal when nobody has used them for a while.

A folder's age counts from its last use: running jobs and open pages call `keep` regularly. gradio also removes old
files of its cache, so `keep` marks the files, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ui.media.limits import CACHE_SECONDS

PREFIX = "sama-"


def new_folder() -> Path:
    """A folder of one job, under gradio's cache, with a name that cannot be guessed. Unused ones are removed."""
    root = _cache()
    root.mkdir(parents=True, exist_ok=True)
    sweep()
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))


def keep(paths: Iterable[str | os.PathLike[str] | None]) -> None:
    """Note that the job folders at or around these paths are in use. Other paths and None are left alone."""
    root = _cache()
    for path in paths:
        for folder in () if path is None else (Path(path), Path(path).parent):
            if folder.parent == root and folder.name.startswith(PREFIX):
                with suppress(OSError):  # removed by its owner in the meantime
                    for used in (folder, *folder.iterdir()):
                        os.utime(used)


def is_uploaded(path: str | os.PathLike[str]) -> bool:
    """Whether the path is that of a file that gradio took from a visitor: in its cache, and not in a job's folder."""
    root, file = _cache().resolve(), Path(path).resolve()
    return file.is_file() and file.is_relative_to(root) and not file.relative_to(root).parts[0].startswith(PREFIX)


def sweep(age: float = CACHE_SECONDS) -> None:
    """Remove the job folders that nobody has used for `age` seconds."""
    limit = time.time() - age
    for folder in _cache().glob(PREFIX + "*"):
        with suppress(OSError):
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder, ignore_errors=True)


def _cache() -> Path:
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder())
