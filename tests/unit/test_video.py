"""Reading video, on real files: counted facts, upright frames, exact times, and nothing broken gets through."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sama.errors import VideoError
from sama.video import UPLOAD_LIMITS, FrameReader, VideoLimits, normalise_upload, probe, read_clip

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import media

ROOT = Path(__file__).resolve().parents[2]
NTSC = Fraction(30000, 1001)


# What a file is


def test_probe_tells_counted_facts(tmp_path):
    info = probe(media.make_clip(tmp_path / "a.mp4", frames=30, fps=NTSC, audio="aac"))
    assert (info.width, info.height, info.frames, info.fps) == (96, 64, 30, NTSC)
    assert info.duration == pytest.approx(1.001)
    assert (info.codec, info.has_audio, info.rotation, info.bit_depth) == ("h264", True, 0, 8)
    assert not info.variable_frame_rate


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".ts", ".avi"])
def test_probe_agrees_with_decoding_in_every_container(tmp_path, suffix):
    codec = {".webm": "libvpx", ".avi": "mpeg4"}.get(suffix, "libx264")
    path = media.make_clip(tmp_path / f"a{suffix}", frames=31, codec=codec, fps=25)
    info = probe(path)
    assert info.frames == len(media.numbers(path)) == 31
    assert info.fps == 25
    assert info.duration == pytest.approx(31 / 25, abs=2e-3)
    assert not info.variable_frame_rate


@pytest.mark.parametrize("factor", [0, 7])
def test_headers_that_lie_about_the_length_change_nothing(tmp_path, factor):
    good = media.make_clip(tmp_path / "good.mp4", frames=20)
    info = probe(media.make_lying_duration(tmp_path / "lie.mp4", good, factor))
    assert (info.frames, info.fps, info.duration) == (20, 24, pytest.approx(20 / 24))


def test_variable_frame_rate_is_seen_and_times_are_exact(tmp_path):
    times = media.uneven_times(10)
    path = media.make_clip(tmp_path / "a.mp4", frames=10, times=times)
    assert probe(path).variable_frame_rate
    with FrameReader(path) as reader:
        assert [frame.pts for frame in reader] == times[:-1]


@pytest.mark.parametrize(
    ("rotation", "mirrored"), [(0, True), (90, False), (90, True), (180, False), (270, False), (270, True)]
)
def test_rotation_and_mirroring_are_applied(tmp_path, rotation, mirrored):
    upright = read_clip(media.make_clip(tmp_path / "a.mp4", frames=1))[0]
    path = media.make_clip(tmp_path / "b.mp4", frames=1, rotation=rotation, mirrored=mirrored)
    with av.open(str(path)) as container:
        matrix = np.frombuffer(bytes(next(container.decode(video=0)).side_data["DISPLAYMATRIX"]), np.int32)
    # Where a player puts the picture's first pixel: the matrix maps x to (a, b) and y to (c, d), y pointing down.
    a, b, c, d = np.sign(matrix[[0, 1, 3, 4]])
    shown = read_clip(path)[0]
    height, width = upright.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    target_x, target_y = a * x + c * y, b * x + d * y
    expected = np.empty_like(shown)
    expected[target_y - target_y.min(), target_x - target_x.min()] = upright
    assert shown.shape == ((width, height, 3) if rotation in (90, 270) else (height, width, 3))
    assert np.abs(shown.astype(int) - expected).mean() < 1
    assert (probe(path).width, probe(path).height) == shown.shape[1::-1]


def test_pixels_that_are_not_square_are_stretched(tmp_path):
    wide = media.make_clip(tmp_path / "wide.mp4", sample_aspect=Fraction(2), frames=3)
    tall = media.make_clip(tmp_path / "tall.mp4", sample_aspect=Fraction(8, 9), frames=3)
    turned = media.make_clip(tmp_path / "turned.mp4", sample_aspect=Fraction(2), rotation=90, frames=3)
    assert [(probe(p).width, probe(p).height) for p in (wide, tall, turned)] == [(192, 64), (96, 72), (64, 192)]
    assert media.numbers(wide) == media.numbers(tall) == [0, 1, 2]
    assert read_clip(turned).shape == (3, 192, 64, 3)


@pytest.mark.parametrize(
    "clip",
    [
        {"codec": "libx265", "pix_fmt": "yuv420p10le"},
        {"pix_fmt": "yuv420p10le"},
        {"width": 97, "height": 63, "pix_fmt": "yuv444p"},
        {"width": 64, "height": 96},
        {"frames": 1},
        {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
        {"codec": "libsvtav1"},
    ],
)
def test_every_frame_arrives_in_order(tmp_path, clip):
    path = media.make_clip(tmp_path / "a.mp4", **clip)
    info = probe(path)
    assert media.numbers(path) == list(range(clip.get("frames", 12)))
    assert info.frames == clip.get("frames", 12)
    assert (info.width, info.height) == (clip.get("width", 96), clip.get("height", 64))
    assert info.codec in UPLOAD_LIMITS.codecs
    assert info.bit_depth == (10 if "10" in clip.get("pix_fmt", "") else 8)
    original = media.barcode_frame(0, info.width, info.height)
    assert np.abs(read_clip(path, 0, 1)[0].astype(int) - original).mean() < 4


@pytest.mark.parametrize("start", [0, 7, 299, 300, 349, 350, 351, 511])
def test_cutting_by_index_is_exact(tmp_path, start):
    # Open groups of pictures: after a key frame come pictures that need the group before it.
    options = {"preset": "fast", "x264-params": "open-gop=1:bframes=5:keyint=50"}
    path = media.make_clip(tmp_path / "a.mp4", frames=512, options=options)
    with FrameReader(path, start=start, count=3) as reader:
        got = [(media.read_barcode(frame.image), frame.index, frame.pts) for frame in reader]
    assert got == [(n, n, Fraction(n, 24)) for n in range(start, min(512, start + 3))]


def test_reading_scales_and_stops(tmp_path):
    path = media.make_clip(tmp_path / "a.mp4", frames=12, width=192, height=128)
    clip = read_clip(path, start=2, count=4, size=(96, 64))
    assert clip.shape == (4, 64, 96, 3)
    assert [media.read_barcode(image) for image in clip] == [2, 3, 4, 5]
    assert read_clip(path, start=10, count=50).shape[0] == 2
    with pytest.raises(VideoError, match="no frame 12"):
        read_clip(path, start=12)


# What is refused


def broken_files(folder: Path) -> dict[str, Path]:
    good = media.make_clip(folder / "good.mp4", frames=40)
    index_first = media.make_clip(folder / "first.mp4", frames=40, mux_options={"movflags": "+faststart"})
    (folder / "empty.mp4").touch()
    (folder / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n")
    return {
        "empty": folder / "empty.mp4",
        "not a video": media.make_text(folder / "text.mp4"),
        "cut off or": media.make_truncated(folder / "index_lost.mp4", good),
        "its end is missing": media.make_truncated(folder / "end_lost.mp4", index_first),
        "damaged": media.make_damaged(folder / "noise.mp4", good),
        "only sound": media.make_sound_only(folder / "sound.m4a"),
        "holds only sound": media.make_sound_only(folder / "sound.wav"),
        "no file": folder / "missing.mp4",
        "folder": folder,
        "damaged, cut off or not": folder / "list.mp4",
    }


def test_broken_files_get_one_sentence(tmp_path):
    for words, path in broken_files(tmp_path).items():
        for attempt in (probe, read_clip):
            with pytest.raises(VideoError) as caught:
                attempt(path)
            message = str(caught.value)
            assert words in message, (path.name, message)
            assert message.endswith(".") and "\n" not in message
            assert str(tmp_path) not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    path = media.make_clip(tmp_path / "a.mp4", frames=1)
    path.chmod(0)
    with pytest.raises(VideoError, match="permissions"):
        probe(path)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (VideoLimits(max_bytes=100), "MB"),
        (VideoLimits(max_side=95), "96 x 64"),
        (VideoLimits(max_pixels=96 * 64 - 1), "megapixels"),
        (VideoLimits(max_seconds=0.4), "longer than 0.4 seconds"),
        (VideoLimits(max_frames=11), "more than 11 frames"),
        (VideoLimits(max_fps=23), "24 frames per second"),
        (VideoLimits(max_total_pixels=96 * 64 * 12 - 1), "unpacks"),
        (VideoLimits(codecs=frozenset({"vp9"})), "codec h264"),
    ],
)
def test_limits_hold(tmp_path, limits, words):
    path = media.make_clip(tmp_path / "a.mp4", frames=12)
    with pytest.raises(VideoError, match=words):
        probe(path, limits)
    if limits.max_fps is None:
        with pytest.raises(VideoError, match=words):
            media.numbers(path, limits=limits)


def test_limits_hold_for_the_displayed_size(tmp_path):
    path = media.make_clip(tmp_path / "a.mp4", sample_aspect=Fraction(16), frames=1, width=640)
    with pytest.raises(VideoError, match="10240 x 64"):
        probe(path)


def test_a_small_file_of_huge_frames_is_refused(tmp_path):
    bomb = media.make_bomb(tmp_path / "bomb.mp4", side=4096, frames=2)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(VideoError, match="4096 x 4096"):
        probe(bomb, UPLOAD_LIMITS)
    with pytest.raises(VideoError, match="4096 x 4096"):
        normalise_upload(bomb, tmp_path / "clean.mp4")


def test_an_hour_of_small_packets_is_refused_by_length(tmp_path):
    path = media.repeat_packets(tmp_path / "hour.mp4", media.make_clip(tmp_path / "a.mp4", frames=24), 3600)
    with pytest.raises(VideoError, match="longer than"):
        probe(path, UPLOAD_LIMITS)
    assert probe(path).frames == 24 * 3600


# What it costs


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak from Linux's /proc")
def test_memory_stays_flat_at_4k(tmp_path):
    """Reading and writing 4K takes a memory that does not grow with the frames: far below 3 GB."""
    short = media.make_clip(tmp_path / "a.mp4", frames=8, width=3840, height=2160)
    source = media.repeat_packets(tmp_path / "b.mp4", short, 4)
    script = (
        "import json, re, sys\n"
        "from pathlib import Path\n"
        "from sama.video import FrameReader, VideoWriter\n"
        "with FrameReader(sys.argv[1]) as reader, VideoWriter(sys.argv[2], 3840, 2160, 24) as writer:\n"
        "    peaks = []\n"
        "    for frame in reader:\n"
        "        writer.write(frame.image, frame.pts)\n"
        # Not ru_maxrss: a child starts with the peak of the process that forked it.
        "        status = Path('/proc/self/status').read_text()\n"
        "        peaks.append(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) / 1024)\n"
        "print(json.dumps(peaks))\n"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out.mp4")]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    peaks = json.loads(output)
    assert len(peaks) == 32
    assert peaks[-1] < 1500, peaks[-1]
    assert peaks[-1] - peaks[24] < 60


def test_importing_is_quick_and_light():
    script = "import sys, sama.video; print(sorted({'torch', 'cv2', 'diffusers'} & set(sys.modules)))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5
