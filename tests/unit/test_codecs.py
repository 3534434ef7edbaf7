"""Codecs for editing programs and archives: what is in the file, its transparency and its sound."""

import av
import numpy as np
import pytest

from sama import cli
from sama.errors import VideoError
from sama.video import FrameReader, VideoWriter, probe, read_clip
from sama.video.codecs import holds_alpha
from tests.media import audio_packets, make_clip
from tests.tiny import tiny_pipeline


def frames(count=3, height=54, width=96):
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8)
    return [np.roll(picture, 5 * number, axis=1) for number in range(count)]


@pytest.mark.parametrize(
    ("codec", "name", "profile", "pix_fmt", "width", "height"),
    [
        ("prores", "out.mov", "HQ", "yuv422p10le", 96, 54),
        ("prores", "out.mkv", "HQ", "yuv422p10le", 96, 55),
        ("prores", "out.mov", "4444", "yuv444p12le", 97, 55),  # pairs of columns share a colour in 4:2:2
        ("ffv1", "out.mkv", None, "bgr0", 96, 54),
        ("ffv1", "out.mkv", None, "bgr0", 97, 55),
    ],
)
def test_frames_come_back(tmp_path, codec, name, profile, pix_fmt, width, height):
    clip, path = frames(width=width, height=height), tmp_path / name
    with VideoWriter(path, width, height, 24, codec=codec) as writer:
        for picture in clip:
            writer.write(picture)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == codec and stream.codec_context.pix_fmt == pix_fmt
        assert profile is None or stream.codec_context.profile == profile
    back = read_clip(path)
    error = np.abs(back.astype(int) - np.stack(clip))
    assert back.shape == (3, height, width, 3)
    assert error.max() == 0 if codec == "ffv1" else error.mean() < 4


@pytest.mark.parametrize(("codec", "name", "tolerance"), [("prores", "out.mov", 2), ("ffv1", "out.mkv", 0)])
def test_transparency_comes_back(tmp_path, codec, name, tolerance):
    path, alpha = tmp_path / name, np.tile(np.linspace(0, 255, 96).astype(np.uint8), (54, 1))
    assert holds_alpha(path)
    with VideoWriter(path, 96, 54, 24, codec=codec, alpha=True) as writer:
        for picture in frames():
            writer.write(picture, alpha=alpha)
    assert probe(path).alpha
    with FrameReader(path, alpha=True) as reader:
        for frame in reader:
            assert np.abs(frame.alpha.astype(int) - alpha).max() <= tolerance


def test_an_edit_is_written_with_its_sound_and_its_transparency(tmp_path, capsys):
    tiny_pipeline(tower=False).save_pretrained(tmp_path / "model")
    sound, source = make_clip(tmp_path / "sound.mp4", frames=2, width=96, height=54, audio="aac"), tmp_path / "a.mov"
    alpha = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (54, 1))
    with VideoWriter(source, 96, 54, 24, source=sound, alpha=True) as writer:
        for picture in frames(2):
            writer.write(picture, alpha=alpha)
    given = ["edit", str(source), "Make it snowy", "--model", str(tmp_path / "model"), "--steps", "1", "--quiet"]
    assert cli.main([*given, "--codec", "prores"]) == 0
    result = tmp_path / "a-edited.mov"
    assert capsys.readouterr().out.strip() == str(result)
    info = probe(result)
    assert (info.codec, info.alpha, info.frames, info.has_audio) == ("prores", True, 2, True)
    packets = [data for _, data in audio_packets(result)]
    assert packets and packets == [data for _, data in audio_packets(sound)]
    for codec, name in (("prores", "b.mp4"), ("ffv1", "b.mov"), ("dnxhd", "b.mov")):
        assert cli.main([*given, "--codec", codec, "-o", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name} cannot hold {codec}; give the output" in line or "no codec 'dnxhd'; choose one of" in line
        assert not (tmp_path / name).exists()


def test_unknown_codecs_are_refused(tmp_path):
    with pytest.raises(VideoError, match="no codec 'dnxhd'"):
        VideoWriter(tmp_path / "a.mov", 96, 54, 24, codec="dnxhd")
