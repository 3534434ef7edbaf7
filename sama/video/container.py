"""Opens video files safely: checks the kind and completeness of a file and chooses its main video stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from sama.errors import VideoError
from sama.video.animation import is_webp, picture_kind, webp_as_video
from sama.video.limits import VideoLimits

# Playlists (HLS, DASH, concat) are left out on purpose: they make the reader open other files and addresses.
_FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,gif,apng,dv,ivf,h264,hevc,m4v,mpegvideo,obu,wav,mp3,flac,aac"
)
_LOCAL = "file:"  # keeps a name such as "http:x.mp4" from being taken for an address
_MANY_PIXELS = 2560 * 1440
_PEEK_PACKETS = 2000
_VERBS = {"read": "read", "write": "written", "convert": "converted"}


def checked_path(path: str | os.PathLike[str], limits: VideoLimits) -> Path:
    """``path`` as a readable, non-empty file within ``limits.max_bytes``; raises :class:`VideoError` otherwise."""
    file = Path(path)
    if file.is_dir():
        raise VideoError(f"{file.name or file} is a folder; choose a video file.")
    if not file.exists():
        raise VideoError(f"There is no file {file.name or file}; check the path.")
    if not file.is_file():
        raise VideoError(f"{file.name} is not a regular file; choose a video file.")
    if not os.access(file, os.R_OK):
        raise VideoError(f"{file.name} cannot be read; check its permissions.")
    limits.check_file(file)
    return file


@contextmanager
def av_errors(name: str, action: str = "read") -> Iterator[None]:
    """Turn the media library's exceptions about the file ``name`` into one sentence.

    ``action`` is "read", "write", or "convert" for a user's file that is transcoded.
    """
    try:
        yield
    except VideoError:
        raise
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        if action != "read":
            raise VideoError(
                f"{name} could not be {_VERBS[action]}: its picture or sound does not fit the format; export the "
                "source as MP4 (H.264, AAC) first."
            ) from error
        raise VideoError(
            f"{name} is damaged, cut off or not a video; check that it plays, or export it again."
        ) from error
    except MemoryError as error:
        raise VideoError(f"{name} needs too much memory to {action}; use a smaller or shorter video.") from error
    except (av.error.FFmpegError, OSError) as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else "unknown reason"
        raise VideoError(f"{name} could not be {_VERBS[action]}: {reason}.") from error


@contextmanager
def open_input(path: str | os.PathLike[str], limits: VideoLimits) -> Iterator[InputContainer]:
    """Open a local media file for reading. Raises :class:`VideoError`, also for errors inside the block."""
    file = checked_path(path, limits)
    # max_pixels reaches the decoder, which then refuses a frame before it has allocated it.
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    if limits.max_pixels is not None:
        options["max_pixels"] = str(limits.max_pixels)
    with av_errors(file.name), ExitStack() as stack:
        picture = picture_kind(file)
        if picture is not None:
            raise VideoError(f"{file.name} is a picture ({picture}), not a video; choose a file with moving pictures.")
        place = stack.enter_context(webp_as_video(file, limits)) if is_webp(file) else f"{_LOCAL}{file}"
        container: InputContainer = stack.enter_context(av.open(place, mode="r", options=options))
        _refuse_cut_off(container, file)
        yield container


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """The file's video streams without those that are marked as cover art."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def codec_name(stream: VideoStream) -> str:
    """The codec's common name ("av1" also for libdav1d); "webp" for a converted animation."""
    if not stream.container.name.startswith(_LOCAL):
        return "webp"
    return str(stream.codec_context.codec.canonical_name)


def video_stream(container: InputContainer, path: str | os.PathLike[str], limits: VideoLimits) -> VideoStream:
    """The main video stream of the file ``path``, opened as ``container``. Its header is checked against ``limits``."""
    name = Path(path).name
    streams = moving_pictures(container)
    if not streams:
        kind = "only sound" if container.streams.audio else "no video"
        raise VideoError(f"{name} holds {kind}; choose a file with moving pictures.")
    stream = streams[0] if len(streams) == 1 else container.streams[_film_index(path, limits)]
    assert isinstance(stream, VideoStream)
    if stream.codec_context is None:
        raise VideoError(f"The video codec of {name} is unknown here; convert the video to H.264 (MP4) first.")
    limits.check_codec(codec_name(stream))
    if stream.width and stream.height:
        limits.check_size(stream.width, stream.height)
    stream.thread_type = "AUTO"
    # Every decoding thread keeps frames of its own, which at 4K and on a many-core machine adds up to gigabytes.
    threads = 4 if stream.width * stream.height > _MANY_PIXELS else 16
    stream.thread_count = min(threads, os.cpu_count() or 1)
    if limits.max_pixels is not None:
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


def _film_index(path: str | os.PathLike[str], limits: VideoLimits) -> int:
    """The index of the main one of several video streams: the default one among those with more than one frame, because
    cover pictures are often not marked as such."""
    with open_input(path, limits) as container:
        streams = moving_pictures(container)
        counts = dict.fromkeys((s.index for s in streams), 0)
        for number, packet in enumerate(container.demux(streams)):
            counts[packet.stream_index] += packet.size > 0
            if min(counts.values()) > 1 or number > _PEEK_PACKETS:
                break
        films = [s for s in streams if counts[s.index] > 1] or streams
        return next((s for s in films if s.disposition & Disposition.default), films[0]).index


def _refuse_cut_off(container: InputContainer, file: Path) -> None:
    """Raise VideoError for an MP4 whose index points behind the end of the file: its end is missing."""
    if "mp4" not in container.format.name:
        return  # other formats are read as far as they go, which is how a broken recording is rescued
    size = file.stat().st_size
    for stream in container.streams:
        entries = stream.index_entries
        if len(entries) and any(entry.pos + entry.size > size for entry in entries[-8:]):
            raise VideoError(f"{file.name} is cut off: its end is missing; copy or download it again.")
