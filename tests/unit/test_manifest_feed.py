"""From files to batches: real clips, a tiny random pipeline."""

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import islice
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BertModel, SiglipVisionModel

from sama.model.pretext import PRETEXT_TASKS
from sama.shapes import Bucket
from sama.video import read_clip, write_clip
from tests.media import barcode_frame, make_clip, read_barcode
from tests.tiny import SEMANTIC_DIM, TEXT_DIM, tiny_pipeline
from tests.unit.test_manifest import write_tar
from training.config import DataConfig, ManifestConfig, SetConfig, TrainConfig
from training.core.randomness import sample_generator
from training.data.check import main as check
from training.data.encoders import Encoders
from training.data.files.buckets import Signature
from training.data.files.clips import look
from training.data.files.feed import ManifestData, ManifestFeed, data_summary
from training.data.files.manifest import Media
from training.data.files.paired import draw_task
from training.data.files.sampler import Draw
from training.errors import ConfigError, DataError
from training.parallel.processes import DataRank

CPU = torch.device("cpu")
WIDE, SQUARE = Signature(5, 96, 48), Signature(1, 64, 64)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Buckets that a random VAE encodes in no time; all else is as in a run."""
    monkeypatch.setattr("training.data.files.buckets.tiny_buckets", lambda: (Bucket(96, 48), Bucket(64, 64)))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Four pairs of clips and six of pictures, and three clips with captions."""
    folder = tmp_path_factory.mktemp("media")
    rows = []
    for number in range(4):
        make_clip(folder / f"s{number}.mp4", frames=9, width=96, height=54)
        make_clip(folder / f"t{number}.mp4", frames=9 + number % 2, width=96, height=54, options={"crf": "30"})
        invert(folder / f"t{number}.mp4", folder / f"s{number}.mp4", 9)
        rows.append({"source_video": f"s{number}.mp4", "target_video": f"t{number}.mp4", "prompt": f"add cat {number}"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(6):
        Image.fromarray(barcode_frame(number, 96, 96)).save(folder / f"s{number}.png")
        Image.fromarray(255 - barcode_frame(number, 96, 96)).save(folder / f"t{number}.webp", lossless=True)
    lines = "".join(f"s{number}.png,t{number}.webp,make it red {number}\n" for number in range(6))
    (folder / "images.csv").write_text("original_image,edited_image,instruction\n" + lines)
    rows = [{"video": f"s{number}.mp4", "caption": f"a swan {number}"} for number in range(3)]
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def invert(path, source, frames):
    """`source` with light and dark exchanged, as another clip of the same frames."""
    write_clip(path, 255 - read_clip(source)[:frames], 24)


def configuration(output, base, *sets, stage="sft", data=None, objective=None, **manifest):
    manifest = {"buckets": "tiny", "frames": (1, 5), "image_batch": 2, "image_share": 0.5} | manifest
    config = TrainConfig(stage=stage, output=str(output), base=base, precision="float32", seed=3)
    chosen = DataConfig(source="manifest", workers=0, manifest=ManifestConfig(sets=tuple(sets), **manifest))
    config = replace(config, data=replace(chosen, **(data or {})))
    return replace(config, objective=replace(config.objective, **(objective or {})))


def pairs(media):
    return SetConfig(str(media / "pairs.jsonl"))


def images(media):
    return SetConfig(str(media / "images.csv"))


def clips(media):
    return SetConfig(str(media / "clips.jsonl"), adapter="clips")


def feed(config, rank=0, places=1):
    encoders = Encoders(config.base, config.tower, CPU, config.precision)
    return ManifestFeed(config, encoders, DataRank(rank, places, CPU))


def batches(source, count):
    return list(islice(source.batches(), count))


def same(one, other):
    parts = ("source", "target", "text", "anchors")
    return all(torch.equal(getattr(one, part), getattr(other, part)) for part in parts)


def test_files_become_batches(tmp_path, base, media):
    source = feed(configuration(tmp_path, base, pairs(media), images(media), data={"text_dropout": 0.0}))
    found = batches(source, 6)
    shapes = {tuple(batch.target.shape[1:]) for batch in found}
    assert shapes == {(16, 1, 8, 8), (16, 2, 6, 12)}
    for batch in found:
        size = len(batch.target)
        assert batch.source.shape == batch.target.shape
        assert batch.text.shape == (size, 64, TEXT_DIM)
        assert batch.anchors.shape == (size, 65, SEMANTIC_DIM)
        assert not torch.equal(batch.source, batch.target)
    data = source.data
    index = int(np.flatnonzero(data.catalogue.pictures)[0])
    read = source.dataset.read(Draw(index, 0), SQUARE)
    expected = torch.from_numpy(np.array(Image.open(media / "s0.png").resize((64, 64), Image.Resampling.BICUBIC)))
    assert torch.equal(read.source.pixels[0], expected)
    assert (read.prefix, read.text) == ("[Video edit]", "make it red 0")
    encoders = source.encoders
    step = next(iter(source.sampler))
    batch, read = source.encode(source.dataset[step]), source.dataset[step].samples
    torch.testing.assert_close(batch.target[:1], encoders.latents(read[0].target.pixels[None]))
    torch.testing.assert_close(batch.source[:1], encoders.latents(read[0].source.pixels[None]))
    prompts = [encoders.prompt(sample.text) for sample in read]
    torch.testing.assert_close(batch.text, encoders.text_states(prompts))
    torch.testing.assert_close(batch.anchors[:1], encoders.anchors(read[0].target.pixels[:1].permute(0, 3, 1, 2)))


def test_the_number_of_workers_changes_nothing(tmp_path, base, media):
    alone = configuration(tmp_path / "a", base, pairs(media), clips(media), stage="pretrain")
    helped = replace(alone, output=str(tmp_path / "b"), data=replace(alone.data, workers=2))
    for one, other in zip(batches(feed(alone), 6), batches(feed(helped), 6), strict=True):
        assert same(one, other)


def test_a_resumed_feed_goes_on_with_the_next_batch(tmp_path, base, media):
    config = configuration(tmp_path, base, pairs(media), images(media), data={"workers": 1})
    whole = batches(feed(config), 7)
    first = feed(config)
    running = first.batches()
    for _ in range(3):
        next(running)
    state = first.state_dict()
    assert {"epoch", "taken", "places"} == set(state) and all(isinstance(value, int) for value in state.values())
    second = feed(config)
    second.load_state_dict(json.loads(json.dumps(state)))
    for one, other in zip(whole[3:], batches(second, 4), strict=True):
        assert same(one, other)


def test_the_global_generator_is_left_alone(tmp_path, base, media):
    source = feed(configuration(tmp_path, base, pairs(media), images(media)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(source, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_places_share_the_work(tmp_path, base, media):
    config = configuration(tmp_path, base, images(media), image_batch=1)
    left, right = feed(config, 0, 2), feed(config, 1, 2)
    for one, other in zip(batches(left, 6), batches(right, 6), strict=True):
        assert one.target.shape == other.target.shape
        assert not torch.equal(one.target, other.target)


def dataset(config):
    return ManifestData(config).dataset()


def test_frames_are_the_right_ones(tmp_path, base, media):
    def seen(**changes):
        offset = changes.pop("offset", 0)
        row = {"source": "s0.mp4", "target": "fast.mp4", "prompt": "x", "offset": offset}
        (media / "one.jsonl").write_text(json.dumps(row) + "\n")
        chosen = SetConfig(str(media / "one.jsonl"))
        read = dataset(configuration(tmp_path, base, chosen, **changes)).read(Draw(0, 0), WIDE)
        source = [read_barcode(frame) for frame in read.source.pixels.numpy()]
        assert read.target.pixels.shape == (5, 48, 96, 3)
        return source, [read_barcode(255 - frame) for frame in read.target.pixels.numpy()]

    invert(media / "fast.mp4", media / "s0.mp4", 9)
    assert seen() == ([0, 1, 2, 3, 4],) * 2
    assert seen(offset=4) == ([4, 5, 6, 7, 8],) * 2
    assert seen(fps=12.0) == ([0, 2, 4, 6, 8],) * 2
    assert seen(extract="uniform") == ([0, 2, 4, 6, 8],) * 2


def test_a_source_at_another_rate_is_read_at_the_targets_times(tmp_path, base, media):
    make_clip(media / "slow.mp4", frames=18, width=96, height=54, fps=48)
    row = {"source": "slow.mp4", "target": "t0.mp4", "prompt": "x"}
    (media / "rates.jsonl").write_text(json.dumps(row) + "\n")
    read = dataset(configuration(tmp_path, base, SetConfig(str(media / "rates.jsonl")))).read(Draw(0, 0), WIDE)
    assert [read_barcode(frame) for frame in read.source.pixels.numpy()] == [0, 2, 4, 6, 8]
    assert [read_barcode(255 - frame) for frame in read.target.pixels.numpy()] == [0, 1, 2, 3, 4]


def test_both_clips_lose_the_same_margins_on_both_sides(tmp_path, base):
    for name, (width, height) in (("s", (160, 120)), ("t", (320, 246))):
        picture = np.zeros((height, width, 3), np.uint8)
        picture[..., 0] = np.linspace(0, 255, height)[:, None]
        picture[..., 1] = np.linspace(0, 255, width)[None]
        picture[..., 2] = 0 if name == "s" else 200
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "m.jsonl").write_text('{"source": "s.png", "target": "t.png", "prompt": "x"}\n')
    data = dataset(configuration(tmp_path / "o", base, SetConfig(str(tmp_path / "m.jsonl"))))
    read = data.read(Draw(0, 0), Signature(1, 96, 48))
    source, target = read.source.pixels[0].float(), read.target.pixels[0].float()
    assert (source - target)[..., :2].abs().max() < 6
    assert source[0, :, 0].mean() + source[-1, :, 0].mean() == pytest.approx(255, abs=5)
    assert source[0, :, 0].mean() > 40, "nothing was cut off"
    assert source[:, 0, 1].mean() < 5 and source[:, -1, 1].mean() > 250, "a side was cut that fits"


def test_folders_of_frames_and_shards_read_like_files(tmp_path, base, media):
    for role, turn in (("s", False), ("t", True)):
        for number in range(12):
            frame = barcode_frame(number, 96, 54)
            (tmp_path / role).mkdir(exist_ok=True)
            Image.fromarray(255 - frame if turn else frame).save(tmp_path / role / f"frame{number}.png")
    members = {"0.source.mp4": "s0.mp4", "0.target.mp4": "t0.mp4"}
    contents = {name: (media / file).read_bytes() for name, file in members.items()}
    write_tar(tmp_path / "s.tar", contents | {"0.prompt.txt": b"add cat 0"})
    (tmp_path / "m.jsonl").write_text('{"source": "s", "target": "t", "prompt": "x"}\n')
    config = configuration(
        tmp_path / "o", base, SetConfig(str(tmp_path / "m.jsonl")), SetConfig(str(tmp_path / "s.tar")), pairs(media)
    )
    data = dataset(config)
    read = data.read(Draw(0, 0), Signature(9, 96, 48))
    assert [read_barcode(frame) for frame in read.source.pixels.numpy()] == list(range(9))  # 10 is not behind 1
    shard, file = data.read(Draw(1, 0), WIDE), data.read(Draw(2, 0), WIDE)
    assert torch.equal(shard.source.pixels, file.source.pixels)
    assert torch.equal(shard.target.pixels, file.target.pixels)
    assert shard.text == file.text


def test_pretext_tasks_come_in_the_papers_mixture():
    drawn = Counter(
        getattr(draw_task(sample_generator(0, turn, sample)), "name", "none")
        for turn in range(20)
        for sample in range(200)
    )
    for name, share in (("none", 0.1), ("cube", 0.2), ("speed", 0.3), ("tube", 0.4)):
        assert drawn[name] / drawn.total() == pytest.approx(share, abs=0.02)


def test_clips_are_perturbed_anew_each_time_and_alike_everywhere(tmp_path, base, media):
    config = configuration(tmp_path, base, clips(media), stage="pretrain", data={"text_dropout": 0.0})
    data, again = dataset(config), dataset(config)
    seen, tasks = [], set()
    for turn in range(8):
        for sample in range(3):
            read, other = data.read(Draw(sample, turn), WIDE), again.read(Draw(sample, turn), WIDE)
            assert read.task == other.task
            assert torch.equal(read.source.pixels, other.source.pixels)
            assert [read_barcode(frame) for frame in read.target.pixels.numpy()] == [0, 1, 2, 3, 4]
            tasks.add(read.task)
            if read.task == "none":
                assert torch.equal(read.source.pixels, read.target.pixels)
                assert read.prefix == "[Video edit]"
            else:
                assert read.prefix == PRETEXT_TASKS[read.task].prefix
                assert not torch.equal(read.source.pixels, read.target.pixels)
            assert read.text == f"a swan {sample}"
            if read.task == "tube":
                seen.append(read.source.pixels.numpy().tobytes())
    assert tasks == {"none", "cube", "speed", "tube"}
    assert len(set(seen)) == len(seen) > 4
    plain = dataset(replace(config, objective=replace(config.objective, pretext=False)))
    assert {plain.read(Draw(sample, turn), WIDE).task for sample in range(3) for turn in range(3)} == {"none"}


def test_text_is_dropped_by_sample_and_turn(tmp_path, base, media):
    config = configuration(tmp_path, base, images(media), data={"text_dropout": 0.3})
    data = dataset(config)
    draws = [Draw(sample, turn) for sample in range(6) for turn in range(30)]
    texts = [data.read(draw, SQUARE).text for draw in draws]
    assert texts.count("") / len(texts) == pytest.approx(0.3, abs=0.1)
    assert texts == [data.read(draw, SQUARE).text for draw in draws]


def test_a_cached_batch_is_the_same_batch_and_needs_neither_pixels_nor_encoders(tmp_path, base, media, monkeypatch):
    folder = copy_of(media, tmp_path / "media")
    config = configuration(tmp_path / "o", base, pairs(folder), images(folder), cache=str(tmp_path / "cache"))
    cold = batches(feed(config), 8)
    assert feed(config).fill_cache()["texts"] <= 10  # what those batches did not meet
    assert feed(config).fill_cache() == Counter()
    for file in folder.iterdir():
        if file.suffix in (".mp4", ".png", ".webp"):
            state = file.stat()
            file.write_bytes(bytes(state.st_size))
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    loaded = []
    for kind in (BertModel, SiglipVisionModel):
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, name=kind.__name__, **__: loaded.append(name))
    for one, other in zip(cold, batches(feed(config), 8), strict=True):
        assert same(one, other)
    assert not loaded


def test_other_weights_are_another_fingerprint(tmp_path, base):
    def fingerprint(folder):
        return Encoders(str(folder), "", CPU, "float32").fingerprint()

    known = {fingerprint(base)}
    assert known == {fingerprint(copytree(base, tmp_path / "same"))}
    for part in ("vae", "text_encoder", "semantic_tower"):
        folder = copytree(base, tmp_path / part)
        (file,) = (folder / part).glob("*.safetensors")
        weights = load_file(file)
        name = max(weights, key=lambda one: weights[one].numel())
        save_file(weights | {name: weights[name] + 1e-3}, file, {"format": "pt"})
        known.add(fingerprint(folder))
    assert len(known) == 4
    file.unlink()
    with pytest.raises(ConfigError, match="semantic_tower has no weights"):
        fingerprint(folder)


def copy_of(media, folder):
    folder.mkdir()
    for file in media.iterdir():
        if file.suffix in (".mp4", ".png", ".webp", ".jsonl", ".csv"):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_pretext_targets_are_kept_and_sources_are_not(tmp_path, base, media):
    config = configuration(tmp_path / "o", base, clips(media), stage="pretrain", cache=str(tmp_path / "cache"))
    cold, warm = batches(feed(config), 9), batches(feed(config), 9)
    assert all(same(one, other) for one, other in zip(cold, warm, strict=True))
    source = feed(config)
    kept = [source.dataset.read(Draw(sample, 0), WIDE) for sample in range(3)]
    assert all(read.target.encoded is not None for read in kept)
    assert all(read.source.pixels is not None for read in kept if read.task != "none")


def test_a_changed_file_is_not_taken_from_the_cache(tmp_path, base, media):
    folder = copy_of(media, tmp_path / "media")
    config = configuration(tmp_path / "o", base, images(folder), cache=str(tmp_path / "cache"))
    feed(config).fill_cache()
    Image.fromarray(barcode_frame(99, 96, 96)).save(folder / "t0.webp")
    read = feed(config).dataset.read(Draw(0, 0), SQUARE)
    assert read.target.encoded is None and read.source.encoded is not None


def test_a_changed_picture_of_a_folder_is_noticed(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(barcode_frame(number, 96, 54)).save(folder / f"{number}.png")
    before = look(Media(str(folder)))
    Image.fromarray(barcode_frame(7, 96, 54)).save(folder / "1.png")
    after = look(Media(str(folder)))
    assert before.frames == after.frames == 3
    assert (before.size, before.changed) != (after.size, after.changed)
    assert before.digest != after.digest


def test_what_cannot_be_read_in_training_is_replaced_counted_and_listed(tmp_path, base, media, caplog):
    folder = copy_of(media, tmp_path / "media")
    config = configuration(tmp_path / "o", base, images(folder), image_batch=3)
    source = feed(config)
    (folder / "s2.png").write_bytes(b"no picture any more")
    found = batches(source, 2)  # all six
    assert [len(batch.target) for batch in found] == [3, 3]
    assert list(source.replaced.values()) == [1]
    assert "1 samples could not be read" in source.summary()
    (line,) = (tmp_path / "o" / "data" / "unreadable-0.jsonl").read_text().splitlines()
    assert json.loads(line)["origin"].endswith("images.csv:4")
    assert "images.csv:4 cannot be read" in caplog.text
    again = feed(config)
    assert all(same(one, other) for one, other in zip(found, batches(again, 2), strict=True))
    for file in folder.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match="4 samples in a row"):
        batches(feed(config), 1)


def test_pairs_that_show_the_same_are_refused_even_as_other_files(tmp_path, base):
    picture = Image.fromarray(barcode_frame(1, 96, 96))
    picture.save(tmp_path / "s.png")
    picture.save(tmp_path / "t.webp", lossless=True)
    (tmp_path / "m.jsonl").write_text('{"source": "s.png", "target": "t.webp", "prompt": "x"}\n')
    with pytest.raises(DataError, match="in a row"):
        batches(feed(configuration(tmp_path / "o", base, SetConfig(str(tmp_path / "m.jsonl")))), 1)


def test_the_summary_tells_sets_drops_and_buckets(tmp_path, base, media):
    (media / "bad.jsonl").write_text('{"source": "s0.mp4", "target": "s0.mp4", "prompt": "x"}\n{}\n')
    config = configuration(tmp_path, base, pairs(media), images(media), SetConfig(str(media / "bad.jsonl")))
    told = feed(config).summary()
    assert "4 of 4 rows used" in told and "0 of 2 rows used" in told
    assert "dropped 1: source equals target" in told and "dropped 1: missing column" in told
    assert "96x48x5" in told and "64x64x1" in told
    listed = [json.loads(line) for line in (tmp_path / "data" / "dropped.jsonl").read_text().splitlines()]
    assert [drop["origin"] for drop in listed] == [f"{media}/bad.jsonl:{line}" for line in (1, 2)]


def test_a_dry_run_without_the_data_says_what_is_missing(tmp_path, base):
    told = data_summary(configuration(tmp_path, base, SetConfig("data/not-there.jsonl")), places=8)
    assert "data/not-there.jsonl" in told and "96x48x5" in told
    assert not (tmp_path / "data").exists()


def test_settings_that_cannot_be_are_refused(tmp_path, base, media):
    with pytest.raises(ConfigError, match="only stage pretrain"):
        ManifestData(configuration(tmp_path, base, clips(media)))
    with pytest.raises(ConfigError, match="sets is empty"):
        ManifestData(configuration(tmp_path, base))
    (media / "bad.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="missing column"):
        ManifestData(configuration(tmp_path, base, SetConfig(str(media / "bad.jsonl"))))


def test_the_command_checks_and_encodes(tmp_path, base, media, capsys):
    sets = f"[{{manifest: {media / 'images.csv'}}}]"
    path = tmp_path / "run.yaml"
    path.write_text(
        f"stage: sft\noutput: {tmp_path / 'o'}\nbase: {base}\nprecision: float32\ndata:\n  source: manifest\n"
        f"  manifest: {{sets: {sets}, buckets: tiny, frames: [1, 5], cache: {tmp_path / 'cache'}}}\n"
    )
    assert check(["--config", str(path), "--encode"]) == 0
    told = capsys.readouterr().out
    assert "6 of 6 rows used" in told and "12 latents" in told and "6 anchors" in told and "7 texts" in told
    assert check(["--config", str(path), "--encode"]) == 0
    assert "nothing was missing" in capsys.readouterr().out
    assert check(["--config", str(path), "--set", "data.manifest.frames=[4]"]) == 2
    assert "4k+1" in capsys.readouterr().err


def test_only_what_the_objective_uses_is_made(tmp_path, base, media):
    source = feed(configuration(tmp_path, base, images(media), objective={"semantic_weight": 0.0}))
    (batch,) = batches(source, 1)
    assert batch.anchors is None
    assert "tower" not in vars(source.encoders)
