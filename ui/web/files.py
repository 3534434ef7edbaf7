"""Which files a visitor may send: by name and by first bytes, before anything is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath

from sama.video import UPLOAD_LIMITS

FIRST_BYTES = 400
"""How much of a file `refusal` looks at: two packets of an MPEG transport stream."""
_SETTINGS_BYTES = 100_000
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def _iso(head: bytes) -> bool:
    return head[4:8] in _ISO_BOXES


def _matroska(head: bytes) -> bool:
    return head.startswith(b"\x1a\x45\xdf\xa3")


def _riff(head: bytes) -> bool:
    return head.startswith((b"RIFF", b"RIFX")) and head[8:12] in (b"AVI ", b"AVIX", b"WEBP")


def _transport(head: bytes) -> bool:
    return any(head[first : first + 1] == b"\x47" and head[first + size : first + size + 1] in (b"\x47", b"")
               for first, size in ((0, 188), (4, 192)))  # fmt: skip


def _program(head: bytes) -> bool:
    return head.startswith((b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3"))


def _starts(*signs: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signs)


_VIDEOS = (
    _iso, _matroska, _riff, _transport, _program,
    _starts(b"FLV", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"OggS", b"GIF87a", b"GIF89a", b"\x89PNG\r\n\x1a\n"),
)  # fmt: skip
_PICTURES = (
    _riff, _iso,
    _starts(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*"),
)  # fmt: skip
_SIGNS = {
    ".mp4 .m4v .mov .qt .3gp .3g2 .webm .mkv .avi .ts .mts .m2ts .mpg .mpeg .m2v .flv .wmv .asf .ogv .ogg .gif .webp"
    " .apng .mxf": _VIDEOS,
    ".png .jpg .jpeg .bmp .tif .tiff .avif .heic": _PICTURES,
    ".json": (lambda head: head.lstrip().startswith(b"{"),),
}
_BY_SUFFIX = {suffix: signs for suffixes, signs in _SIGNS.items() for suffix in suffixes.split()}


def refusal(name: str, head: bytes, whole: bool) -> str | None:
    """The sentence that refuses a file, or None for one that may be a video, a picture, or settings.

    name: as the visitor calls it. head: its first bytes, FIRST_BYTES or more where it has them.
    whole: whether `head` is all of it.
    """
    suffix = PurePath(name).suffix.lower()
    signs = _BY_SUFFIX.get(suffix)
    if signs is None:
        return f"{_shown(name)} is not a kind of file that is edited here; send an MP4, MOV, WebM, MKV, AVI or GIF."
    if whole and not head:
        return f"{_shown(name)} is empty; choose another file."
    if suffix == ".mxf":  # begins anywhere in its first 64 kB
        return None
    if not any(sign(head) for sign in signs):
        return f"{_shown(name)} is not a {suffix} file, or is damaged; check that it plays, or choose another file."
    return None


def size_refusal(name: str, size: int) -> str | None:
    """The sentence that refuses a file of at least so many bytes, or None for one that is not too large."""
    suffix = PurePath(name).suffix.lower()
    limit = _SETTINGS_BYTES if suffix == ".json" else UPLOAD_LIMITS.max_bytes or 0
    if size <= limit:
        return None
    much = f"{limit // 1_000_000} MB" if limit >= 1_000_000 else f"{limit // 1000} kB"
    return f"{_shown(name)} is larger than the maximum allowed size of {much}; send a shorter or smaller one."


def _shown(name: str) -> str:
    """A file by its name, without what might be taken for markup."""
    last = PurePath(name.replace("\\", "/")).name
    plain = "".join(sign for sign in last if sign.isprintable() and sign not in "<>{}&")[-60:]
    return f"The file “{plain}”" if plain else "The file"
