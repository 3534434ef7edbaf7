"""The pack reader, on a miniature pack; the name and shot tables; colour words."""

import json
import pickle
import zipfile
from io import BytesIO
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from training.errors import PackError
from training.synth.material.names import curated_names
from training.synth.material.pack import Pack
from training.synth.material.palette import COLOURS, sprite_colour
from training.synth.material.sources import film_end, shots, stills

WIDTH, HEIGHT, FRAMES = 64, 36, 60


def sprite_entry(identity, style, target, holdout, frames=1):
    return {
        "id": identity,
        "name": "cat",
        "aliases": ["kitten"],
        "style": style,
        "category": "animal",
        "colour": "red",
        "target": target,
        "holdout": holdout,
        "frames": frames,
    }


def write_film(path, frames=FRAMES):
    with av.open(str(path), "w") as writer:
        stream = writer.add_stream("libx264", rate=24, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(frames):
            image = np.full((HEIGHT, WIDTH, 3), 4 * index, np.uint8)
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        writer.mux(stream.encode(None))


@pytest.fixture
def folder(tmp_path):
    sprites = [
        sprite_entry("fluent-cat", "fluent", True, False),
        sprite_entry("noto-cat", "noto", True, True),
        sprite_entry("animated-cat", "animated", True, False, frames=3),
        sprite_entry("fluent-mug", "fluent", False, True),
    ]
    with zipfile.ZipFile(tmp_path / "sprites.zip", "w") as archive:
        for entry in sprites:
            strip = np.zeros((entry["frames"] * 10, 8, 4), np.uint8)
            for index in range(entry["frames"]):
                strip[index * 10 : index * 10 + 10] = (250, 10 + 60 * index, 10, 255)
            buffer = BytesIO()
            Image.fromarray(strip).save(buffer, "WEBP", lossless=True)
            archive.writestr(f"{entry['id']}.webp", buffer.getvalue())
    (tmp_path / "stills").mkdir()
    stills = []
    for name, split in (("a", "train"), ("b", "test")):
        Image.new("RGB", (40, 30), (20, 30, 200)).save(tmp_path / f"stills/{name}.webp")
        stills.append({"file": f"stills/{name}.webp", "caption": f"still {name}", "split": split})
    write_film(tmp_path / "film.mp4")
    shots = [
        {"start": 0, "end": 20, "split": "train", "caption": "dark"},
        {"start": 25, "end": 60, "split": "test", "caption": "bright"},
    ]
    table = {
        "version": 1,
        "film": {"frames": FRAMES, "width": WIDTH, "height": HEIGHT, "fps": 24},
        "shots": shots,
        "stills": stills,
        "sprites": sprites,
    }
    (tmp_path / "pack.json").write_text(json.dumps(table))
    return tmp_path


def test_sprites_by_split_target_and_style(folder):
    pack = Pack.load(folder)
    assert [s.id for s in pack.sprites("train")] == ["fluent-cat", "animated-cat"]
    assert [s.id for s in pack.sprites("test")] == ["noto-cat", "fluent-mug"]
    assert [s.id for s in pack.sprites("test", target=True)] == ["noto-cat"]
    assert [s.id for s in pack.sprites(style="animated")] == ["animated-cat"]
    assert len(pack.sprites()) == 4


def test_sprite_frames_are_rgba_arrays_in_order(folder):
    animated = Pack.load(folder).sprites(style="animated")[0]
    assert [frame.shape for frame in animated.frames] == [(10, 8, 4)] * 3
    assert [int(frame[5, 4, 1]) for frame in animated.frames] == [10, 70, 130]
    assert animated.aliases == ("kitten",)


def test_stills_by_split(folder):
    pack = Pack.load(folder)
    (still,) = pack.stills("test")
    assert still.caption == "still b"
    assert still.image.shape == (30, 40, 3) and still.image.dtype == np.uint8
    assert len(pack.stills()) == 2


def test_film_gives_the_frames_asked_for(folder):
    pack = Pack.load(folder)
    shot = pack.shots("test")[0]
    frames = pack.film(shot, 3, 5)
    assert frames.shape == (5, HEIGHT, WIDTH, 3) and frames.dtype == np.uint8
    expected = 4 * (25 + 3 + np.arange(5))
    assert np.abs(frames.mean((1, 2, 3)) - expected).max() < 4
    assert len(pack.film(shot)) == len(shot) == 35
    hurried = pack.film(shot, 1, 5, step=2)
    np.testing.assert_array_equal(hurried, pack.film(shot, 1, 9)[::2])
    assert len(pack.film(shot, 1, step=2)) == 17


def test_film_refuses_frames_outside_the_shot(folder):
    pack = Pack.load(folder)
    shot = pack.shots("train")[0]
    for start, count, step in ((10, 11, 1), (-1, 3, 1), (0, 0, 1), (0, 11, 2)):
        with pytest.raises(ValueError, match="do not lie in a shot"):
            pack.film(shot, start, count, step)


def test_film_is_decoded_once_and_shared(folder):
    pack = Pack.load(folder)
    cache = pack.prepare_film()
    written = cache.stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(pack))
    assert again.prepare_film() == cache and cache.stat().st_mtime_ns == written
    shot = pack.shots("train")[0]
    pack.film(shot, 0, 1)
    assert len(pickle.dumps(pack)) < 100_000
    np.testing.assert_array_equal(again.film(shot, 2, 4), pack.film(shot, 2, 4))


def test_a_film_of_another_length_leaves_no_cache(folder):
    write_film(folder / "film.mp4", frames=50)
    with pytest.raises(PackError, match="50 frames"):
        Pack.load(folder).prepare_film()
    assert not list(folder.glob("*.npy*")) and not list(folder.glob(".film-*"))


def test_shots_by_length(folder):
    pack = Pack.load(folder)
    assert [shot.caption for shot in pack.shots(min_frames=30)] == ["bright"]


def test_a_missing_pack_says_how_to_make_it(tmp_path):
    with pytest.raises(PackError, match=r"python -m training\.synth\.ingredients --out"):
        Pack.load(tmp_path / "nothing")


def test_a_broken_pack_says_how_to_make_it(folder):
    (folder / "sprites.zip").write_bytes(b"not a zip")
    with pytest.raises(PackError, match=r"broken.*python -m training"):
        Pack.load(folder)


def test_names_are_plain_and_targets_unique():
    names = list(curated_names().values())
    targets = [entry.name for entry in names if entry.target]
    assert len(targets) == len(set(targets)) and 180 <= len(targets) <= 230
    assert len({entry.category for entry in names}) == 12
    taken = {entry.name for entry in names}
    for entry in names:
        assert entry.name and entry.name == entry.name.strip().lower() and entry.name.isascii()
        assert not set(entry.aliases) & (taken - {entry.name}), entry


def test_shots_do_not_overlap_and_keep_a_test_share():
    film = shots()
    assert all(before.end <= after.start for before, after in pairwise(film)) and film[-1].end <= film_end()
    lengths = [shot.end - shot.start for shot in film]
    assert min(lengths) >= 33  # the longest clips that are drawn
    assert len(film) > 110 and {shot.split for shot in film} == {"train", "test"}
    held_out = sum(shot.end - shot.start for shot in film if shot.split == "test")
    assert 0.1 < held_out / sum(lengths) < 0.2
    assert len({still.name for still in stills()}) == len(stills())


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((230, 40, 40), "red"),
        ((250, 140, 30), "orange"),
        ((250, 220, 60), "yellow"),
        ((60, 170, 60), "green"),
        ((50, 110, 230), "blue"),
        ((130, 60, 200), "purple"),
        ((250, 130, 190), "pink"),
        ((120, 75, 40), "brown"),
        ((20, 20, 22), "black"),
        ((245, 245, 245), "white"),
        ((128, 128, 130), "gray"),
    ],
)
def test_colour_words(rgb, word):
    image = np.zeros((6, 6, 4), np.uint8)
    image[:, :4] = (*rgb, 255)
    assert word in COLOURS
    assert sprite_colour(image) == word


def test_a_transparent_image_has_no_colour():
    with pytest.raises(ValueError, match="opaque"):
        sprite_colour(np.zeros((4, 4, 4), np.uint8))
