"""Files that people have: read as they are meant, and what cannot be kept is said in one sentence."""

from __future__ import annotations

import io
import itertools
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sama.edit.request import free_output
from sama.errors import VideoError
from sama.video import FrameReader, VideoWriter, normalise_upload, probe, read_clip
from sama.video.codecs import holds_alpha
from sama.video.picture.color import Coding, hlg_nits, pq_nits, pq_signal, to_bt709

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests import inputs, media

FLATTENED = "Transparency: not kept, shown on black."


def full_pass(source: Path, result: Path) -> list[str]:
    """Write every frame again, as an edit that changes nothing; returns what is said about it."""
    info = probe(source)
    alpha = info.alpha and holds_alpha(result)
    with (
        FrameReader(source, alpha=alpha) as reader,
        VideoWriter(result, info.width, info.height, info.fps, source=source, alpha=alpha) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.pts, frame.alpha)
    return list(dict.fromkeys([*info.notices, *reader.notices, *writer.notices]))


def facts(path: Path) -> tuple:
    info = probe(path)
    return info.frames, info.fps, info.duration, info.variable_frame_rate


# HDR


def test_light_of_hdr_signals_is_that_of_the_standards():
    # BT.2408: reference white is 75 % of HLG and 58 % of PQ, both 203 nits; 18 % grey is 38 % of HLG, 26 nits.
    assert hlg_nits(np.full(3, 0.75)) == pytest.approx(203, abs=0.5)
    assert hlg_nits(np.full(3, 0.38)) == pytest.approx(26, abs=0.5)
    assert pq_nits(np.array([0.5806888, 0.7518271, 1])) == pytest.approx([203, 1000, 10000], rel=1e-4)
    nits = np.array([0.0, 0.1, 26, 203, 4000])
    assert pq_nits(pq_signal(nits)) == pytest.approx(nits, abs=1e-4)


def test_tones_keep_their_order_and_both_ends():
    grey = np.linspace(0, 1, 101)[:, None].repeat(3, 1)
    for coding in (Coding(inputs.HLG, 9), Coding(inputs.PQ, 9), Coding(inputs.PQ, 9, 4000.0)):
        mapped = to_bt709(grey, coding)
        assert mapped[0] == pytest.approx(0, abs=0.01) and mapped[-1] == pytest.approx(1, abs=0.01)
        assert np.ptp(mapped, axis=1).max() < 1e-3  # grey stays grey
        assert (np.diff(mapped[:, 0]) >= -1e-6).all()
    # A dark tone is as bright as it was; what is white in HDR is nearly white.
    assert to_bt709(np.full((1, 3), pq_signal(np.array(20.0))), Coding(inputs.PQ, 9)) == pytest.approx(
        (20 / 203) ** (1 / 2.2), abs=0.005
    )
    assert 0.85 < to_bt709(np.full((1, 3), 0.75), Coding(inputs.HLG, 9))[0, 0] < 0.93


def colour_chart(red: tuple[float, float, float]) -> np.ndarray:
    """Eight greys above, BT.709's red (as given) below: (48, 64, 3) in [0, 1]."""
    chart = np.repeat(np.repeat(np.linspace(0.1, 0.8, 8), 8)[None, :, None], 48, 0).repeat(3, 2)
    chart[24:] = red
    return chart


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "transfer"),
    [
        ("a.mp4", "libx265", "yuv420p10le", inputs.HLG),
        ("a.mov", "libx265", "yuv420p10le", inputs.PQ),
        ("a.webm", "libvpx-vp9", "yuv420p", inputs.PQ),
        ("a.mkv", "libvpx-vp9", "yuv420p", inputs.HLG),
        ("b.mov", "prores_ks", "yuv422p10le", inputs.HLG),
        ("b.mkv", "libx264", "yuv420p10le", inputs.PQ),
        ("b.mp4", "libsvtav1", "yuv420p10le", inputs.HLG),
        ("c.mp4", "libx264", "yuv420p", inputs.HLG),
    ],
)
def test_hdr_is_tone_mapped_and_said(tmp_path, name, codec, pix_fmt, transfer):
    # BT.709's red is this colour of BT.2020, at 100 nits.
    share = np.array([0.6274, 0.0691, 0.0164]) * 100
    red = pq_signal(share)
    if transfer == inputs.HLG:
        light = share / 1000 / (0.2126 * 0.1) ** (0.2 / 1.2)
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        red = np.where(light <= 1 / 12, np.sqrt(3 * light), a * np.log(np.maximum(12 * light - b, 1e-9)) + c)
    chart = colour_chart(tuple(red))
    source = inputs.make_coded(tmp_path / name, chart, transfer, codec=codec, pix_fmt=pix_fmt)
    notices = full_pass(source, tmp_path / "out.mp4")
    assert notices == [f"HDR ({'PQ' if transfer == inputs.PQ else 'HLG'}): tone-mapped to SDR."]
    shown = read_clip(tmp_path / "out.mp4")[0].astype(float)
    expected = to_bt709(chart, Coding(transfer, 9)) * 255
    greys = np.s_[8:16, 4::8]
    assert np.abs(shown[greys] - expected[greys]).max() < 6
    assert np.abs(chart[greys] * 255 - expected[greys]).max() > 25  # the chart would show a curve that was kept
    r, g, b = shown[32:44, 16:48].mean(axis=(0, 1))
    assert r > 150 and g < 60 and b < 60
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
        assert (frame.color_trc, frame.color_primaries, frame.format.name) == (1, 1, "yuv420p")


def test_the_peak_of_a_pq_clip_is_its_masters(tmp_path):
    bright = np.full((48, 64, 3), float(pq_signal(np.array(500.0))))
    shown = {}
    for peak in (1000, 4000):
        gamut = "G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)"
        master = f"master-display={gamut}L({peak}0000,1)"
        source = inputs.make_coded(tmp_path / f"{peak}.mp4", bright, inputs.PQ, extra=master)
        shown[peak] = read_clip(source)[0].mean()
        expected = to_bt709(bright, Coding(inputs.PQ, 9, float(peak))).mean() * 255
        assert shown[peak] == pytest.approx(expected, abs=2)
    assert shown[1000] > shown[4000] + 3


def test_hdr_becomes_sdr_at_any_size_and_on_the_page(tmp_path):
    chart = colour_chart((0.4, 0.4, 0.4))
    source = inputs.make_coded(tmp_path / "a.mp4", chart, inputs.HLG)
    expected = to_bt709(chart, Coding(inputs.HLG, 9))[0, 4::8] * 255
    assert np.abs(read_clip(source, size=(128, 96))[0, 16, 8::16] - expected).max() < 5
    info = normalise_upload(source, tmp_path / "clean.mp4")
    assert info.notices == ("HDR (HLG): tone-mapped to SDR.",)
    assert np.abs(read_clip(tmp_path / "clean.mp4")[0, 12, 4::8] - expected).max() < 6


@pytest.mark.parametrize(("transfer", "primaries"), [(inputs.BT709, 1), (13, 1), (2, 2)])
def test_ten_bits_of_sdr_stay_as_they_are(tmp_path, transfer, primaries):
    chart = colour_chart((0.7, 0.2, 0.2))
    source = inputs.make_coded(tmp_path / "a.mp4", chart, transfer, primaries)
    assert full_pass(source, tmp_path / "out.mp4") == []
    shown, expected = read_clip(tmp_path / "out.mp4")[0, 8:16, 4::8], chart[8:16, 4::8] * 255
    assert np.abs(shown - expected).max() < 5


@pytest.mark.parametrize(("primaries", "name"), [(9, "BT.2020"), (12, "Display P3")])
def test_wide_colours_of_sdr_are_converted(tmp_path, primaries, name):
    chart = colour_chart((0.6, 0.5, 0.4))
    source = inputs.make_coded(tmp_path / "a.mp4", chart, 1, primaries)
    assert full_pass(source, tmp_path / "out.mp4") == [f"Wide colours ({name}): converted to BT.709."]
    shown = read_clip(tmp_path / "out.mp4")[0].astype(float)
    assert np.abs(shown[8:16, 4::8] - chart[8:16, 4::8] * 255).max() < 5  # greys have no gamut
    r, _, b = shown[32:44, 16:48].mean(axis=(0, 1))
    assert r - b > 0.2 * 255 + 4  # as seen, the colour is as strong as it was, so its numbers are further apart


# Interlacing


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"x264-params": "interlaced=1:tff=1", "preset": "ultrafast"}),
        ("a.ts", "mpeg2video", {"flags": "+ilme+ildct", "top": "1", "q": "2"}),
        ("a.mkv", "mpeg4", {"flags": "+ildct", "top": "1", "q": "2"}),
    ],
)
def test_interlaced_clips_are_deinterlaced_and_said(tmp_path, name, codec, options):
    source = inputs.make_interlaced(tmp_path / name, codec, options)
    with av.open(str(source)) as container:
        woven = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert full_pass(source, tmp_path / "out.mp4") == ["Interlaced: deinterlaced."]
    shown = read_clip(tmp_path / "out.mp4")
    assert facts(tmp_path / "out.mp4") == facts(source) and len(shown) == len(woven) == 6
    assert min(map(inputs.combing, woven)) > 5 > 2 > max(map(inputs.combing, shown))
    assert len(read_clip(source, 2, 3)) == 3


def test_progressive_clips_are_left_alone(tmp_path):
    assert full_pass(media.make_clip(tmp_path / "a.mp4", frames=3), tmp_path / "out.mp4") == []


# Transparency

ALPHAS = [
    ("a.webm", "libvpx-vp9", "yuva420p"),
    ("b.webm", "libvpx", "yuva420p"),
    ("a.mov", "prores_ks", "yuva444p10le"),
    ("b.mov", "qtrle", "argb"),
    ("a.apng", "apng", "rgba"),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), ALPHAS)
def test_transparency_is_kept_where_it_can_be_and_else_said(tmp_path, name, codec, pix_fmt):
    source = inputs.make_alpha(tmp_path / name, codec, pix_fmt)
    assert probe(source).alpha
    disc = inputs.disc()
    for suffix in (".webm", ".mov", ".mkv"):
        result = tmp_path / f"out{suffix}"
        assert full_pass(source, result) == []
        with FrameReader(result, alpha=True) as reader:
            frames = list(reader)
        assert len(frames) == 3 and probe(result).alpha
        assert np.abs(frames[1].alpha.astype(int) - disc[..., 3]).mean() < 4, suffix
        assert np.abs(frames[1].image[24:40, 36:60].astype(int) - (230, 0, 0)).mean() < 12
    assert full_pass(source, tmp_path / "out.mp4") == [FLATTENED]
    shown = read_clip(tmp_path / "out.mp4")[1].astype(int)
    assert np.abs(shown[..., 0] - disc[..., 0] * (disc[..., 3] / 255)).mean() < 6 and shown[:4, :4].max() < 12


def test_opaque_pixels_in_a_format_with_transparency_are_no_loss(tmp_path):
    source = media.make_clip(tmp_path / "a.mov", frames=2, codec="prores_ks", pix_fmt="yuva444p10le")
    assert not probe(source).alpha
    assert full_pass(source, tmp_path / "out.mp4") == []
    assert normalise_upload(source, tmp_path / "clean.mp4").notices == ()


# Which stream


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "mjpeg"), (".mp4", "mjpeg"), (".mov", "png")])
@pytest.mark.parametrize("first", [True, False])
def test_the_film_is_edited_and_not_its_cover(tmp_path, suffix, codec, first):
    film = media.make_clip(tmp_path / "film.mp4", frames=5)
    source = inputs.make_with_cover(tmp_path / f"a{suffix}", film, codec, first)
    info = probe(source)
    assert (info.width, info.height, info.frames, info.codec) == (96, 64, 5, "h264")
    assert full_pass(source, tmp_path / "out.mp4") == ["Not kept: cover picture."]
    assert media.numbers(tmp_path / "out.mp4") == list(range(5))


def test_of_two_films_the_first_is_edited_and_the_other_named(tmp_path):
    small = media.make_clip(tmp_path / "film.mp4", frames=5)
    other = media.make_clip(tmp_path / "other.mp4", frames=5, width=64, height=64, constant=True)
    with av.open(str(small)) as a, av.open(str(other)) as b, av.open(str(tmp_path / "two.mkv"), "w") as writer:
        copies = [writer.add_stream_from_template(reader.streams.video[0]) for reader in (a, b)]
        for reader, copy in zip((a, b), copies, strict=True):
            for packet in reader.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    writer.mux(packet)
    assert full_pass(tmp_path / "two.mkv", tmp_path / "out.mp4") == ["Not kept: another video track."]
    assert media.numbers(tmp_path / "out.mp4") == list(range(5))


# Times that a container lacks

B_FRAMES = {
    "h264": {"codec": "libx264", "options": {"preset": "fast", "bf": "3"}},
    "xvid": {"codec": "mpeg4", "options": {"bf": "2", "q": "2"}},
}


@pytest.mark.parametrize("kind", B_FRAMES)
def test_times_of_an_avi_are_rebuilt(tmp_path, kind):
    source = media.make_clip(tmp_path / "a.avi", frames=36, audio="libmp3lame", audio_rate=44_100, **B_FRAMES[kind])
    assert facts(source) == (36, 24, 1.5, False)
    with FrameReader(source) as reader:
        assert [(media.read_barcode(f.image), f.pts) for f in reader] == [(n, Fraction(n, 24)) for n in range(36)]
    assert media.numbers(source, start=30, count=3) == [30, 31, 32]
    full_pass(source, tmp_path / "out.mp4")
    assert facts(tmp_path / "out.mp4") == (36, 24, 1.5, False)
    assert media.frame_times(tmp_path / "out.mp4") == [Fraction(n, 24) for n in range(36)]
    assert media.audio_packets(tmp_path / "out.mp4")[0][0] == 0
    assert [data for _, data in media.audio_packets(tmp_path / "out.mp4")] == [
        data for _, data in media.audio_packets(source)
    ]


def test_an_avi_copied_from_a_file_with_b_frames_has_a_constant_rate(tmp_path):
    film = media.make_clip(tmp_path / "a.ts", frames=36, **B_FRAMES["h264"])
    with av.open(str(film)) as reader, av.open(str(tmp_path / "a.avi"), "w") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        copy.time_base = Fraction(1, 24)
        for number, packet in enumerate(p for p in reader.demux(video=0) if p.size):
            packet.stream, packet.time_base = copy, Fraction(1, 24)
            packet.pts = packet.dts = number + 2 if number else 0  # the first one's time cannot be below 0
            writer.mux(packet)
    assert facts(tmp_path / "a.avi") == (36, 24, 1.5, False)
    assert media.numbers(tmp_path / "a.avi") == list(range(36))
    with FrameReader(tmp_path / "a.avi") as reader:
        assert [frame.pts for frame in reader] == [Fraction(n, 24) for n in range(36)]


def test_a_late_start_in_an_avi_is_exact(tmp_path):
    options = {"preset": "fast", "x264-params": "open-gop=1:bframes=5:keyint=50"}
    source = media.make_clip(tmp_path / "a.avi", frames=320, options=options)
    assert media.numbers(source, start=310, count=3) == [310, 311, 312]


# Sound


@pytest.mark.parametrize(
    ("source", "codec", "result", "kept"),
    [
        ("a.mov", "pcm_s24le", "out.mp4", False),
        ("a.mov", "pcm_f32le", "out.mp4", False),
        ("a.mkv", "pcm_s16le", "out.m4v", False),
        ("a.avi", "pcm_s16le", "out.mp4", False),
        ("a.mov", "pcm_mulaw", "out.mp4", False),
        ("a.mkv", "mp2", "out.mp4", False),
        ("a.mov", "pcm_f32le", "out.webm", False),
        ("a.mkv", "pcm_f32le", "out.mov", False),
        ("a.mov", "pcm_s24le", "out.mov", True),
        ("a.mov", "pcm_s16le", "out.mkv", True),
        ("a.mkv", "flac", "out.mp4", True),
        ("a.mov", "alac", "out.mp4", True),
    ],
)
def test_sound_is_the_same_in_a_codec_that_players_can_read(tmp_path, source, codec, result, kept):
    video = "mpeg4" if source.endswith(".avi") else "libx264"
    clip = media.make_clip(tmp_path / source, frames=24, codec=video, audio=codec, audio_seconds=1.0)
    notices = full_pass(clip, tmp_path / result)
    with av.open(str(tmp_path / result)) as container:
        (stream,) = container.streams.audio
        now = stream.codec_context.codec.canonical_name
    assert (now == codec.removeprefix("lib")) == kept
    # PCM in MP4 is what other players take for noise, although this library reads its own.
    assert not (result.endswith((".mp4", ".m4v")) and now.startswith("pcm"))
    before, after = media.sound_of(clip), media.sound_of(tmp_path / result)
    assert media.correlation(before, after) > 0.99
    assert np.std(after) == pytest.approx(np.std(before), rel=0.05)
    assert len(after) == pytest.approx(len(before), abs=2500)
    if now == "aac":
        times = [time for time, _ in media.audio_packets(tmp_path / result)]
        assert len({b - a for a, b in itertools.pairwise(times[:-1])}) == 1
    assert notices == ([] if kept else [f"Sound: {codec.removeprefix('lib')} became {now}, which players of such a file can read."])  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("codec", "options", "audio", "rate"),
    [
        ("libx264", {"preset": "ultrafast"}, "libmp3lame", 44_100),
        ("mpeg4", {"bf": "2"}, "libmp3lame", 44_100),
        ("mpeg4", {}, "libmp3lame", 22_050),
        ("libx264", {"preset": "fast", "bf": "3"}, "ac3", 44_100),
        ("mjpeg", {}, "pcm_s16le", 11_025),
    ],
)
def test_an_avi_is_taken_on_the_page(tmp_path, codec, options, audio, rate):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    source = media.make_clip(
        tmp_path / "holiday.avi", frames=36, codec=codec, pix_fmt=pixels, options=options, audio=audio, audio_rate=rate
    )
    info = normalise_upload(source, tmp_path / "clean.mp4")
    assert (info.frames, info.fps, info.duration, info.has_audio) == (36, 24, 1.5, True)
    assert media.numbers(tmp_path / "clean.mp4") == list(range(36))
    assert media.correlation(media.sound_of(source), media.sound_of(tmp_path / "clean.mp4")) > 0.98


def test_six_channels_stay_six(tmp_path):
    source = media.make_clip(tmp_path / "a.mkv", frames=12, audio="flac", audio_layout="5.1")
    for make in (lambda path: normalise_upload(source, path), lambda path: full_pass(source, path)):
        make(tmp_path / "clean.mp4")
        with av.open(str(tmp_path / "clean.mp4")) as container:
            assert container.streams.audio[0].codec_context.channels == 6
    notices = full_pass(source, tmp_path / "out.webm")
    with av.open(str(tmp_path / "out.webm")) as container:
        assert container.streams.audio[0].codec_context.channels == 6
    assert notices == ["Sound: flac became opus, which players of such a file can read."]


def test_a_pause_in_the_sound_stays_a_pause(tmp_path):
    source = media.make_clip(tmp_path / "a.mkv", frames=48, audio="pcm_s16le", audio_seconds=2.0)
    with av.open(str(source)) as reader, av.open(str(tmp_path / "b.mkv"), "w") as writer:
        copies = {s.index: writer.add_stream_from_template(s) for s in reader.streams}
        for packet in reader.demux():
            now = float((packet.pts or 0) * packet.time_base)
            if packet.size and not (packet.stream.type == "audio" and 0.5 <= now < 1.2):
                packet.stream = copies[packet.stream_index]
                writer.mux(packet)
    full_pass(tmp_path / "b.mkv", tmp_path / "out.mp4")
    sound = media.sound_of(tmp_path / "out.mp4")
    assert len(sound) == pytest.approx(96_000, abs=3000)
    assert np.std(sound[30_000:54_000]) < 0.01 < np.std(sound[60_000:90_000])


# A size that changes


def test_a_size_that_changes_is_letterboxed_and_said(tmp_path):
    source = inputs.make_growing(tmp_path / "a.mp4", [(96, 64), (64, 96)])
    assert full_pass(source, tmp_path / "out.mp4") == ["The size changes on the way: fitted into 96 x 64."]
    shown = read_clip(tmp_path / "out.mp4").astype(int)
    assert shown.shape == (8, 64, 96, 3)
    assert shown[:4].min() > 220
    tall = shown[6, :, :, 0]
    small = read_clip(source, size=(48, 48)).astype(int)[6, :, :, 0]  # the same shares of another shape
    assert small[:, :12].max() < 30 and small[:, -12:].max() < 30 and small[2:-2, 16:32].min() > 220
    assert tall[:, :24].max() < 30 and tall[:, -24:].max() < 30 and tall[2:-2, 30:66].min() > 220
    assert normalise_upload(source, tmp_path / "clean.mp4").notices == (
        "The size changes on the way: fitted into 96 x 64.",
    )


def test_a_size_that_grows_in_shape_fills_the_picture(tmp_path):
    source = inputs.make_growing(tmp_path / "a.mkv", [(96, 64), (192, 128), (48, 32)])
    assert "96 x 64" in full_pass(source, tmp_path / "out.mp4")[0]
    assert read_clip(tmp_path / "out.mp4").min() > 220


# Animations and pictures


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".apng"])
def test_animations_are_taken_on_page_and_command_line_alike(tmp_path, suffix):
    source = inputs.make_animation(tmp_path / f"a{suffix}")
    info = normalise_upload(source, tmp_path / "clean.mp4")
    for path in (source, tmp_path / "clean.mp4"):
        assert (probe(path).frames, probe(path).duration) == (4, pytest.approx(0.16, abs=0.002))
        assert media.numbers(path) == [0, 1, 2, 3]
    assert info.notices == ()
    full_pass(source, tmp_path / "out.mp4")
    assert media.numbers(tmp_path / "out.mp4") == [0, 1, 2, 3]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".avif"])
def test_a_still_picture_is_named_as_one(tmp_path, suffix):
    source = inputs.make_animation(tmp_path / f"a{suffix}", still=True)
    for attempt in (probe, read_clip, lambda path: normalise_upload(path, tmp_path / "clean.mp4")):
        with pytest.raises(VideoError, match=f"^a{suffix} is a picture"):
            attempt(source)


def test_a_damaged_webp_gets_one_sentence(tmp_path):
    source = inputs.make_animation(tmp_path / "a.webp", frames=12)
    source.write_bytes(source.read_bytes()[:-2000])
    for attempt in (read_clip, lambda path: normalise_upload(path, tmp_path / "clean.mp4")):
        with pytest.raises(VideoError, match=r"^a\.webp is damaged or cut off"):
            attempt(source)


# Slow motion


def test_slow_motion_is_taken_whole_and_faster_clips_are_thinned(tmp_path):
    phone = media.make_clip(tmp_path / "a.mp4", frames=48, fps=240)
    info = normalise_upload(phone, tmp_path / "clean.mp4")
    assert (info.frames, info.fps, info.duration, info.notices) == (48, 240, 0.2, ())
    camera = media.make_clip(tmp_path / "b.mp4", frames=96, fps=480)
    info = normalise_upload(camera, tmp_path / "clean.mp4")
    assert (info.frames, info.fps, info.duration) == (48, 240, pytest.approx(0.2, abs=0.003))
    assert info.notices == ("480 frames per second: one of 2 was kept.",)
    assert media.numbers(tmp_path / "clean.mp4") == list(range(0, 96, 2))


# Labels


@pytest.mark.parametrize(("name", "subtitles"), [("a.mp4", "mov_text"), ("a.mkv", "srt"), ("a.mov", "mov_text")])
@pytest.mark.parametrize("result", ["out.mp4", "out.mkv", "out.webm", "out.mov", "upload.mp4"])
def test_title_date_chapters_and_subtitles_are_kept(tmp_path, name, subtitles, result):
    film = media.make_clip(tmp_path / "film.mkv", frames=12, audio="aac")
    source = inputs.make_labelled(tmp_path / name, film, subtitles)
    if result == "upload.mp4":
        said = list(normalise_upload(source, tmp_path / result).notices)
    else:
        said = [notice for notice in full_pass(source, tmp_path / result) if not notice.startswith("Sound")]
    before, after = inputs.labels_of(source), inputs.labels_of(tmp_path / result)
    names = {"title": "title", "creation_time": "date of recording", "location": "place", "comment": "comment"}
    lost = [words for key, words in names.items() if key in before and after.get(key) != before[key]]
    assert said == ([f"Not kept: {', '.join(lost)}."] if lost else [])
    assert after["title"] == "Holiday" and after["creation_time"] == before["creation_time"]
    with av.open(str(tmp_path / result)) as container:
        chapters = [(float(c["start"] * c["time_base"]), c["metadata"]["title"]) for c in container.chapters()]
        assert container.streams.subtitles[0].language == "eng"
    assert chapters == [(0.0, "one"), (0.25, "two")]
    shift = inputs.subtitles_of(source)[0][0] - 0.1
    assert inputs.subtitles_of(tmp_path / result) == [
        (pytest.approx(0.1 + shift, abs=0.03), pytest.approx(0.4 + shift, abs=0.03), "Hallo")
    ]


def test_labels_follow_a_cut(tmp_path):
    source = inputs.make_labelled(tmp_path / "a.mkv", media.make_clip(tmp_path / "film.mkv", frames=12), "srt")
    start, end = Fraction(4, 24), Fraction(9, 24)
    with (
        FrameReader(source, 4, 5) as reader,
        VideoWriter(tmp_path / "out.mkv", 96, 64, 24, source, start, end) as writer,
    ):
        for frame in reader:
            writer.write(frame.image, frame.pts)
    with av.open(str(tmp_path / "out.mkv")) as container:
        chapters = [(c["start"] * c["time_base"], c["metadata"]["title"]) for c in container.chapters()]
    assert [(round(float(at), 3), title) for at, title in chapters] == [(0.0, "one"), (0.083, "two")]
    ((begin, stop, words),) = inputs.subtitles_of(tmp_path / "out.mkv")
    assert (begin, stop, words) == (0, pytest.approx(float(end - start), abs=0.002), "Hallo")
    assert probe(tmp_path / "out.mkv").duration == pytest.approx(5 / 24, abs=0.002)


def test_what_has_no_place_in_a_result_is_named(tmp_path):
    film = media.make_clip(tmp_path / "film.mp4", frames=3)
    assert full_pass(inputs.make_labelled(tmp_path / "a.mov", film, timecode=True), tmp_path / "out.mp4") == [
        "Not kept: timecode."
    ]
    with av.open(str(film)) as reader, av.open(str(tmp_path / "b.mkv"), "w") as writer:
        copy, pictures = writer.add_stream_from_template(reader.streams.video[0]), writer.add_stream("dvdsub")
        writer.add_attachment("font.ttf", "font/ttf", b"font")
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
        line = av.Packet(b"\0\x04\0\x04")
        line.stream, line.pts, line.dts, line.time_base = pictures, 0, 0, Fraction(1, 1000)
        writer.mux(line)
    assert full_pass(tmp_path / "b.mkv", tmp_path / "out.mp4") == ["Not kept: subtitles, attachments."]


# Names


@pytest.mark.parametrize("stem", ["é" * 120, "x" * 250, "🦢" * 62])
def test_a_long_name_is_shortened(tmp_path, stem):
    source = media.make_clip(tmp_path / "a.mp4", frames=2)
    clip = source.rename(tmp_path / f"{stem}.mp4")
    names = []
    for _ in range(2):
        output = free_output(clip)
        assert output.stem.startswith(stem[:40]) and output.stem.rstrip("0123456789-").endswith("-edited")
        assert len(output.with_suffix(".json").name.encode()) <= 255
        full_pass(clip, output)
        names.append(output.name)
        assert media.numbers(output) == [0, 1]
    assert len(set(names)) == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([clip.name, *names])


@pytest.mark.parametrize("name", ["-dash.mp4", "new\nline.mp4", "emoji 🦢 %d 'q\" $x.mp4", "noext", "http:x.mp4"])
def test_names_that_look_like_something_else(tmp_path, name):
    clip = media.make_clip(tmp_path / "a.mp4", frames=2).rename(tmp_path / name)
    full_pass(clip, free_output(clip))
    assert media.numbers(free_output(clip).with_name(f"{clip.stem}-edited.mp4")) == [0, 1]


# No message names a file of ours


def test_a_refused_upload_is_named_as_the_visitor_knows_it(tmp_path):
    clip = media.make_clip(tmp_path / "holiday.mp4", frames=6)
    cut = media.make_truncated(tmp_path / "cut.mp4", clip)
    noise = media.make_damaged(tmp_path / "noise.mp4", clip)
    full = tmp_path / "full"
    full.mkdir()
    for path in (cut, noise):
        with pytest.raises(VideoError) as caught:
            normalise_upload(path, tmp_path / "clean.mp4")
        assert path.name in str(caught.value) and "clean" not in str(caught.value)
    # A write that fails in the middle is told of by the visitor's name too.
    with (
        pytest.raises(VideoError, match=r"^holiday\.mp4 could not be converted"),
        VideoWriter(tmp_path / "clean.mp4", 96, 64, 24, name="holiday.mp4") as writer,
    ):
        shutil.rmtree(full)
        writer._output.close()
        writer.write(media.barcode_frame(0))
        writer._stream.encode(None)
        writer.write(media.barcode_frame(1))


# What passed already


def test_turned_hevc(tmp_path):
    source = media.make_clip(tmp_path / "a.mov", frames=4, codec="libx265", rotation=90)
    assert (probe(source).width, probe(source).height, probe(source).rotation) == (64, 96, 90)
    full_pass(source, tmp_path / "out.mp4")
    assert (probe(tmp_path / "out.mp4").rotation, read_clip(tmp_path / "out.mp4").shape) == (0, (4, 96, 64, 3))


@pytest.mark.parametrize("seconds", [4.0, 0.5])
@pytest.mark.parametrize("start", [0, Fraction(1, 2)])
def test_sound_of_another_length_or_start(tmp_path, seconds, start):
    source = media.make_clip(tmp_path / "a.mp4", frames=36, audio="aac", audio_seconds=seconds, start_time=start)
    full_pass(source, tmp_path / "out.mp4")
    assert media.audio_packets(tmp_path / "out.mp4") == media.audio_packets(source)
    assert media.frame_times(tmp_path / "out.mp4") == media.frame_times(source)


def test_an_edit_list_that_hides_frames(tmp_path):
    options = {"preset": "fast", "bf": "3", "g": "12"}
    film = media.make_clip(tmp_path / "a.mp4", frames=36, audio="aac", options=options)
    with av.open(str(film)) as reader, av.open(str(tmp_path / "cut.mp4"), "w") as writer:
        copies = {s.index: writer.add_stream_from_template(s) for s in reader.streams}
        for packet in reader.demux():
            if packet.size:  # what is before 5/24 s needs only be there for decoding
                shift = round(Fraction(5, 24) / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts - shift, packet.dts - shift, copies[packet.stream_index]
                )  # fmt: skip
                writer.mux(packet)
    info = probe(tmp_path / "cut.mp4")
    assert media.numbers(tmp_path / "cut.mp4") == list(range(36 - info.frames, 36))
    assert info.frames == 31 and info.fps == 24
    full_pass(tmp_path / "cut.mp4", tmp_path / "out.mp4")
    assert media.numbers(tmp_path / "out.mp4") == list(range(5, 36))


@pytest.mark.parametrize(
    ("codec", "pix_fmt"), [("libx264", "yuvj420p"), ("libx264", "gray"), ("libx264rgb", "rgb24"), ("libx264", "nv12")]
)
def test_ranges_and_layouts_of_colour(tmp_path, codec, pix_fmt):
    source = media.make_clip(tmp_path / "a.mp4", frames=2, codec=codec, pix_fmt=pix_fmt)
    expected = media.barcode_frame(0).astype(int)
    if pix_fmt == "gray":
        luma = expected @ [0.299, 0.587, 0.114]  # as stored, in numbers that players read as 16 to 235
        expected = np.clip((luma - 16) * 255 / 219, 0, 255)[..., None].repeat(3, 2)
    assert full_pass(source, tmp_path / "out.mp4") == []
    assert np.abs(read_clip(tmp_path / "out.mp4")[0] - expected).mean() < 5


@pytest.mark.parametrize("size", [(2, 2), (1600, 32), (16, 1200)])
def test_extreme_sizes(tmp_path, size):
    source = media.make_clip(tmp_path / "a.mp4", frames=2, width=size[0], height=size[1], constant=True)
    full_pass(source, tmp_path / "out.mp4")
    assert (probe(tmp_path / "out.mp4").width, probe(tmp_path / "out.mp4").height) == size


class Pipe(io.RawIOBase):
    """A file that cannot be gone back in."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data) -> int:
        self.data += data
        return len(data)

    def writable(self) -> bool:
        return True


def test_a_webm_without_a_length(tmp_path):
    pipe = Pipe()
    clip = media.make_clip(tmp_path / "a.webm", frames=9, codec="libvpx")
    with av.open(str(clip)) as reader, av.open(pipe, "w", format="webm") as writer:
        copy = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.size:
                packet.stream = copy
                writer.mux(packet)
    (tmp_path / "b.webm").write_bytes(pipe.data)
    with av.open(str(tmp_path / "b.webm")) as container:
        assert container.duration is None
    assert facts(tmp_path / "b.webm")[:2] == (9, 24) and media.numbers(tmp_path / "b.webm") == list(range(9))


def test_several_sound_tracks_are_all_kept(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as writer:
        film = media.make_clip(tmp_path / "film.mp4", frames=12)
        with av.open(str(film)) as reader:
            copy = writer.add_stream_from_template(reader.streams.video[0])
            codecs = ("pcm_s16le", "flac", "libopus")
            tracks = [writer.add_stream(codec, rate=48_000, layout="mono") for codec in codecs]
            for packet in reader.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    writer.mux(packet)
        for track in tracks:
            for frame in media._tone(0.5):
                writer.mux(track.encode(frame))
            writer.mux(track.encode(None))
    full_pass(tmp_path / "a.mkv", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [s.codec_context.codec.canonical_name for s in container.streams.audio] == ["aac", "flac", "opus"]
    for track in range(3):
        heard = media.sound_of(tmp_path / "out.mp4", track)
        assert media.correlation(media.sound_of(tmp_path / "a.mkv", track), heard) > 0.99


@pytest.mark.parametrize(
    ("suffix", "fps", "mux_options"),
    [
        (".mkv", Fraction("23.976"), {}),
        (".mp4", 1, {}),
        (".mp4", 120, {}),
        (".ts", 24, {"output_ts_offset": "95443"}),
        (".mp4", 24, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    ],
)
def test_rates_and_clocks(tmp_path, suffix, fps, mux_options):
    source = media.make_clip(tmp_path / f"a{suffix}", frames=10, fps=fps, audio="aac", mux_options=mux_options)
    full_pass(source, tmp_path / "out.mp4")
    assert media.numbers(tmp_path / "out.mp4") == list(range(10))
    assert probe(tmp_path / "out.mp4").frames == 10
    assert probe(tmp_path / "out.mp4").duration == pytest.approx(float(10 / fps), rel=0.06)
    if "movflags" not in mux_options:
        assert float(probe(source).fps) == pytest.approx(float(fps), rel=1e-3)
