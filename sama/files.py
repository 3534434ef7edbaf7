"""Files and folders that are written whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["disk_full", "whole_file", "whole_folder"]


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a path to write to; the file takes the name `path` when the block ends well, and is removed otherwise.

    It lies in the folder of `path`, which must exist. A file that is already at `path` is replaced, or kept when the
    block raises. Several threads and processes may write the same file: the last one wins.
    """
    target = Path(path)
    part = _beside(target, "part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty folder to fill; it takes the name `path` when the block ends well, and is removed otherwise.

    Missing parents are made. A folder that is already at `path` is replaced, or kept when the block raises.
    """
    target = Path(path)
    part, old = _beside(target, "new"), _beside(target, "old")
    part.mkdir(parents=True)
    try:
        yield part
        with suppress(FileNotFoundError):
            target.rename(old)
        try:
            part.rename(target)
        except OSError:
            with suppress(FileNotFoundError):
                old.rename(target)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)


def disk_full(error: BaseException) -> bool:
    """Whether a file could not be written because the disk is full or its quota used up. Some writers say so only in
    their message."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(word in str(error) for word in ("No space left", "os error 28", "os error 27", "File too large"))


def _beside(path: Path, kind: str) -> Path:
    """A new hidden name in the folder of `path`; short, because `path` may have the longest name there can be."""
    return path.with_name(f".{secrets.token_hex(8)}.{kind}")
