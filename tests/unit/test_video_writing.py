"""Written video keeps what its source had: size, rate, count, times and sound; and is whole or not there."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sama.errors import VideoError
from sama.video import (
    FrameReader,
    VideoLimits,
    VideoWriter,
    normalise_upload,
    pack_side_by_side,
    probe,
    read_clip,
    write_clip,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import media

NTSC = Fraction(30000, 1001)


def full_pass(source: Path, destination: Path) -> None:
    """Read every frame and write it again, as an edit that changes nothing."""
    info = probe(source)
    with (
        FrameReader(source) as reader,
        VideoWriter(destination, info.width, info.height, info.fps, source=source) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.pts)


# What is written


@pytest.mark.parametrize(
    "clip",
    [
        {"fps": NTSC, "frames": 30, "audio": "aac"},
        {"fps": Fraction(24000, 1001), "audio": "aac", "audio_seconds": 2.0},
        {"times": media.uneven_times(11), "frames": 11, "audio": "aac"},
        {"start_time": Fraction(1, 2), "audio": "aac", "audio_seconds": 1.0},
        {"frames": 1, "audio": "aac"},
        {"frames": 1},
        {"width": 97, "height": 63, "pix_fmt": "yuv444p", "audio": "libmp3lame"},
        {"width": 64, "height": 96, "fps": 60},
    ],
)
def test_a_full_pass_keeps_size_rate_count_length_and_sound(tmp_path, clip):
    source = media.make_clip(tmp_path / "in.mp4", **clip)
    result = tmp_path / "out.mp4"
    full_pass(source, result)
    before, after = probe(source), probe(result)
    for fact in ("width", "height", "frames", "fps", "duration", "has_audio", "variable_frame_rate"):
        assert getattr(after, fact) == getattr(before, fact), fact
    assert media.frame_times(result) == media.frame_times(source)
    assert media.container_seconds(result) == media.container_seconds(source)
    assert media.numbers(result) == list(range(before.frames))
    if before.has_audio:
        assert media.audio_packets(result) == media.audio_packets(source)


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".webm"])
def test_other_containers(tmp_path, suffix):
    source = media.make_clip(tmp_path / "in.mp4", frames=24, fps=NTSC, audio="libopus")
    result = tmp_path / f"out{suffix}"
    full_pass(source, result)
    info = probe(result)
    assert (info.frames, info.fps) == (24, NTSC)
    assert info.codec == ("vp9" if suffix == ".webm" else "h264")
    assert media.numbers(result) == list(range(24))
    sound = media.audio_packets(result)
    if suffix == ".mov":  # QuickTime cannot hold Opus: the sound is encoded anew, and no longer or shorter
        assert sound[-1][0] == pytest.approx(media.audio_packets(source)[-1][0], abs=0.06)
    else:
        assert [data for _, data in sound] == [data for _, data in media.audio_packets(source)]


def test_a_rate_that_the_source_clock_rounds_comes_out_exact(tmp_path):
    source = media.make_clip(tmp_path / "in.mkv", frames=31, fps=NTSC)
    full_pass(source, tmp_path / "out.mp4")
    assert media.container_seconds(tmp_path / "out.mp4")[2] == NTSC
    assert media.frame_times(tmp_path / "out.mp4") == [number / NTSC for number in range(31)]


def test_a_range_takes_its_part_of_the_sound(tmp_path):
    source = media.make_clip(tmp_path / "in.mp4", frames=48, audio="aac")
    start, end = Fraction(12, 24), Fraction(36, 24)
    with (
        FrameReader(source, 12, 24) as reader,
        VideoWriter(tmp_path / "out.mp4", 96, 64, 24, source, start, end) as out,
    ):
        for frame in reader:
            out.write(frame.image, frame.pts)
    expected = [(time - start, data) for time, data in media.audio_packets(source) if start <= time < end]
    assert media.audio_packets(tmp_path / "out.mp4") == expected
    assert media.numbers(tmp_path / "out.mp4") == list(range(12, 36))
    assert probe(tmp_path / "out.mp4").duration == 1.0


def test_the_same_frames_give_the_same_file(tmp_path):
    source = media.make_clip(tmp_path / "in.mp4", audio="aac")
    for suffix in (".mp4", ".mkv"):
        full_pass(source, tmp_path / f"one{suffix}")
        full_pass(source, tmp_path / f"two{suffix}")
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


@pytest.mark.parametrize(("width", "height", "matrix"), [(96, 64, 6), (1280, 720, 1)])
def test_colours_survive_and_are_tagged(tmp_path, width, height, matrix):
    patches = np.array([[200, 30, 40], [30, 180, 60], [40, 60, 210], [128, 128, 128]], np.uint8)
    image = np.repeat(np.repeat(patches[None], height, 0), width // 4, 1)
    write_clip(tmp_path / "a.mp4", [image] * 2, 24)
    assert np.abs(read_clip(tmp_path / "a.mp4")[0, :, 8::16].astype(int) - image[:, 8::16]).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == (matrix, 1, 1, 1)
        assert frame.format.name == "yuv420p"


def test_the_index_comes_first(tmp_path):
    write_clip(tmp_path / "a.mp4", [media.barcode_frame(n) for n in range(4)], 24)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path, 96, 64, 24) as writer:
        for number in range(40):
            writer.write(media.barcode_frame(number))
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_abandoning_a_writer_leaves_nothing(tmp_path):
    def frames():
        with VideoWriter(tmp_path / "a.mp4", 96, 64, 24) as writer:
            writer.write(media.barcode_frame(0))
            yield

    generator = frames()
    next(generator)
    generator.close()
    writer = VideoWriter(tmp_path / "b.mp4", 96, 64, 24).__enter__()
    writer.write(media.barcode_frame(0))
    assert len(list(tmp_path.iterdir())) == 1
    del writer
    assert list(tmp_path.iterdir()) == []


def test_a_file_may_be_written_over_its_own_source(tmp_path):
    path = media.make_clip(tmp_path / "a.mp4", audio="aac")
    before = media.audio_packets(path)
    full_pass(path, path)
    assert media.audio_packets(path) == before
    assert media.numbers(path) == list(range(12))


def test_impossible_outputs_are_refused(tmp_path):
    for path, words in [
        (tmp_path / "a.txt", "suffix"),
        (tmp_path / "none" / "a.mp4", "does not exist"),
        (tmp_path / "a.mp4", "no frames"),
    ]:
        with pytest.raises(VideoError, match=words):
            write_clip(path, [], 24) if words == "no frames" else VideoWriter(path, 96, 64, 24)
    with pytest.raises(VideoError, match="no frames"), VideoWriter(tmp_path / "a.mp4", 96, 64, 24):
        pass
    with VideoWriter(tmp_path / "b.mp4", 96, 64, 24) as writer:
        writer.write(media.barcode_frame(0), Fraction(1))
        with pytest.raises(ValueError, match="shape"):
            writer.write(np.zeros((10, 10, 3), np.uint8))
        with pytest.raises(ValueError, match="ascend"):
            writer.write(media.barcode_frame(1), Fraction(1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.mp4"]


# Uploads and packing


def test_an_upload_becomes_a_clean_file(tmp_path):
    source = media.make_clip(
        tmp_path / "phone.mov", frames=10, width=1600, height=900, codec="libx265", rotation=270,
        pix_fmt="yuv420p10le", audio="pcm_s16le", fps=30,
    )  # fmt: skip
    info = normalise_upload(source, tmp_path / "clean.mp4")
    assert (info.width, info.height, info.frames, info.fps, info.rotation) == (720, 1280, 10, 30, 0)
    assert (info.codec, info.bit_depth, info.has_audio) == ("h264", 8, True)
    assert info == probe(tmp_path / "clean.mp4")
    with av.open(str(tmp_path / "clean.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["clean.mp4", "phone.mov"]


def test_a_refused_upload_leaves_nothing(tmp_path):
    source = media.make_clip(tmp_path / "a.mp4", frames=30, width=640, height=360)
    noise = media.make_damaged(tmp_path / "noise.mp4", source)
    folder = tmp_path / "uploads"
    folder.mkdir()
    for path, options, words in [
        (noise, {}, "damaged"),
        (source, {"limits": VideoLimits(max_frames=29)}, "more than 29 frames"),
        (source, {"timeout": 0.1}, "too long or too much memory"),
        (source, {"memory_bytes": 150 * 2**20}, "too much memory"),
    ]:
        with pytest.raises(VideoError, match=words):
            normalise_upload(path, folder / "clean.mp4", **options)
        assert list(folder.iterdir()) == []


def test_packing_keeps_panels_in_step(tmp_path):
    source = media.make_clip(tmp_path / "in.mp4", frames=26, audio="aac")
    original = read_clip(source)
    size = pack_side_by_side([original, iter(original[:, ::-1]), original], tmp_path / "p.mp4", 24, audio_from=source)
    info = probe(tmp_path / "p.mp4")
    assert size == (96, 64) and (info.width, info.height, info.frames) == (288, 64, 26)
    with FrameReader(tmp_path / "p.mp4") as reader:
        for frame in reader:
            assert media.read_barcode(frame.image[:, :96]) == frame.index
            assert media.read_barcode(frame.image[::-1, 96:192]) == frame.index
            assert media.read_barcode(frame.image[:, 192:]) == frame.index
    assert media.audio_packets(tmp_path / "p.mp4") == media.audio_packets(source)
    with av.open(str(tmp_path / "p.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [index for index, packet in enumerate(packets) if packet.is_keyframe] == [0, 24]


def test_packing_scales_wide_panels_and_evens_odd_ones(tmp_path):
    wide = np.stack([media.barcode_frame(7, 1500, 100)])
    assert pack_side_by_side([wide] * 3, tmp_path / "w.mp4", 24) == (1364, 90)
    assert probe(tmp_path / "w.mp4").width == 4092
    odd = np.stack([media.barcode_frame(7, 97, 63)])
    assert pack_side_by_side([odd, odd], tmp_path / "o.mp4", 24) == (96, 62)


def test_packing_refuses_unequal_clips(tmp_path):
    clip = np.stack([media.barcode_frame(number) for number in range(3)])
    for panels, words in [
        ([clip, clip[:2]], "different lengths"),
        ([clip, clip[:, :32]], "different sizes"),
        ([clip[:0], clip[:0]], "no frames"),
        ([], "no clips"),
    ]:
        with pytest.raises(VideoError, match=words):
            pack_side_by_side(panels, tmp_path / "p.mp4", 24)
    assert list(tmp_path.iterdir()) == []


def test_an_odd_number_of_rows_is_encoded_alike_every_time(tmp_path):
    """7 x 7 macroblocks: what x264's AVX-512 code does with an odd number of rows differs from file to file."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (9, 12, 3), dtype=np.uint8)
    grain = random.integers(0, 12, (17, 112, 112, 3), dtype=np.uint8)
    frames = [cv2.resize(np.roll(coarse, n, 1), (112, 112), interpolation=cv2.INTER_CUBIC) for n in range(17)]
    files = set()
    for _ in range(40):
        with VideoWriter(tmp_path / "same.mp4", 112, 112, Fraction(24)) as writer:
            for frame, noise in zip(frames, grain, strict=True):
                writer.write(frame // 2 + noise)
        files.add((tmp_path / "same.mp4").read_bytes())
    assert len(files) == 1
