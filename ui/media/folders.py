"""Folders of jobs and clips, and their removal when nobody has used them for a while.

They lie beside gradio's cache, not in it: everything in the cache can be fetched by whoever knows its address. A file
that a page shows is copied there by gradio, alone and under a name of its own, so that the address of a result tells
nobody where its source or its words are.

A folder's age counts from its last use: running jobs and open pages call `keep` regularly. When a page is closed its
folders are soon removed, unless another page goes on with them, as after a reload.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from ui.media.limits import CACHE_SECONDS, LEAVE_SECONDS

PREFIX = "sama-"
_OWNER, _UPLOAD = ".owner", ".upload"


def new_folder() -> Path:
    """A folder of one job, with a name of 128 random bits. Unused ones are removed."""
    sweep()
    folder = _root() / f"{PREFIX}{secrets.token_hex(16)}"
    folder.mkdir(mode=0o700, parents=True)
    if session := _current_session():
        (folder / _OWNER).write_text(_named(session))
    return folder


def job_folder(name: object) -> Path | None:
    """The job folder of this name; None for what is no such name, and for one that is gone."""
    if not isinstance(name, str) or not re.fullmatch(rf"{PREFIX}[0-9a-f]{{32}}", name):
        return None
    folder = _root() / name
    return folder if folder.is_dir() else None


def keep(paths: Iterable[str | os.PathLike[str] | None], shown: bool = False) -> None:
    """Note that the job folders at or around these paths are in use. Other paths and None are left alone.

    shown: whether gradio's copies of their files are kept, too.
    """
    for path in paths:
        for folder in () if path is None else (Path(path), Path(path).parent):
            if _is_job(folder):
                with suppress(OSError):  # removed by its owner in the meantime
                    for used in (folder, *folder.iterdir()):
                        os.utime(used, follow_symlinks=False)
                        if shown and (copy := _copy_of(used)) is not None:
                            os.utime(copy)


def came_from(folder: Path, upload: str | os.PathLike[str]) -> None:
    """Note that a folder's clip was made from an uploaded file, which is then removed with the folder."""
    if is_uploaded(upload):
        with suppress(OSError):
            (folder / _UPLOAD).symlink_to(Path(upload).resolve())


def leave(session: str) -> None:
    """Remove the folders of a page that was closed, in a while, unless one of them is used again before."""
    when = time.time() - CACHE_SECONDS + LEAVE_SECONDS
    for folder in _folders():
        with suppress(OSError):
            if (folder / _OWNER).read_text() == _named(session) and folder.stat().st_mtime > when:
                os.utime(folder, (when, when))


def remove(folder: Path) -> None:
    """Remove a job's folder with gradio's copies of its files and the upload that it came from, unless another folder
    has the same file."""
    if not _is_job(folder):
        return
    with suppress(OSError):
        files = [file for file in folder.iterdir() if file.name != _OWNER]
        others = [file for other in _folders() if other != folder for file in other.iterdir()]
        for file in files:
            twins = [other for other in others if other.name == file.name]
            if file.name == _UPLOAD:
                _forget(file.readlink(), [twin.readlink() for twin in twins])
            elif (copy := _copy_of(file)) is not None:
                size = file.stat().st_size
                _forget(copy, [_copy_of(twin) for twin in twins if twin.stat().st_size == size])
    shutil.rmtree(folder, ignore_errors=True)


def is_uploaded(path: str | os.PathLike[str]) -> bool:
    """Whether the path is that of a file that gradio took from a visitor, or made for one: in its cache."""
    file = Path(path).resolve()
    return file.is_file() and file.is_relative_to(_cache().resolve())


def sweep(age: float = CACHE_SECONDS) -> None:
    """Remove the job folders that nobody has used for `age` seconds."""
    limit = time.time() - age
    for folder in _folders():
        with suppress(OSError):
            if folder.stat().st_mtime < limit:
                remove(folder)


def _folders() -> Iterator[Path]:
    return _root().glob(PREFIX + "*")


def _is_job(folder: Path) -> bool:
    return folder.parent == _root() and folder.name.startswith(PREFIX)


def _forget(file: Path, still_used: Iterable[Path | None]) -> None:
    """Remove a file of gradio's cache, and its folder there, unless it is used."""
    if file not in still_used and file.is_relative_to(_cache().resolve()):
        file.unlink(missing_ok=True)
        with suppress(OSError):
            file.parent.rmdir()


def _copy_of(file: Path) -> Path | None:
    """gradio's copy of a file, which it makes when a page shows it; None where there is none."""
    if file.is_symlink() or not file.is_file():
        return None
    copy = _cache().resolve() / _hash(str(file), file.stat().st_size) / file.name
    return copy if copy.is_file() else None


@lru_cache(maxsize=1024)
def _hash(file: str, size: int) -> str:  # noqa: ARG001 - a file that has grown is another
    """The name of the folder that gradio copies a file to."""
    from gradio.processing_utils import hash_file

    return hash_file(file)


def _named(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


def _current_session() -> str:
    """The session that gradio calls a function for; "" outside of one."""
    from gradio.context import LocalContext

    return str(getattr(LocalContext.request.get(None), "session_hash", "") or "")


def _root() -> Path:
    cache = _cache()
    return cache.with_name(cache.name + "-jobs")


def _cache() -> Path:
    from gradio.utils import get_upload_folder

    return Path(get_upload_folder())
