"""Encoded tensors by their content."""

import multiprocessing

import torch

from training.data.files.cache import ContentCache


def test_what_is_stored_comes_back_bit_for_bit(tmp_path):
    cache = ContentCache(tmp_path, "weights")
    key = cache.key("latents", "digest", [0, 1, 2])
    assert key not in cache and cache.load(key) is None
    stored = {"latents": torch.randn(3, 4).to(torch.bfloat16)}
    cache.store(key, stored)
    assert key in cache
    assert torch.equal(cache.load(key)["latents"], stored["latents"])
    assert cache.load(key)["latents"].dtype == torch.bfloat16


def test_keys_depend_on_every_part_and_on_the_encoders(tmp_path):
    one, other = ContentCache(tmp_path, "weights"), ContentCache(tmp_path, "other weights")
    keys = [one.key("latents", "a", [0, 1]), one.key("latents", "a", [0, 2]), one.key("latents", "b", [0, 1]),
            one.key("anchor", "a", [0, 1]), other.key("latents", "a", [0, 1])]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert one.key("latents", "a", [0, 1]) == ContentCache(tmp_path / "elsewhere", "weights").key(
        "latents", "a", [0, 1]
    )


def test_a_part_of_a_batch_does_not_bring_the_whole(tmp_path):
    cache = ContentCache(tmp_path, "weights")
    cache.store("ab", {"latents": torch.zeros(1000, 100)[3]})
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) < 2000


def test_a_damaged_entry_is_made_anew(tmp_path):
    cache = ContentCache(tmp_path, "weights")
    cache.store("abc", {"x": torch.ones(2)})
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    assert cache.load("abc") is None
    cache.store("abc", {"x": torch.ones(2)})
    assert torch.equal(cache.load("abc")["x"], torch.ones(2))


def write_many(folder):
    cache = ContentCache(folder, "weights")
    for number in range(40):
        cache.store(f"{number % 4:02d}", {"x": torch.full((500,), float(number % 4))})
        loaded = cache.load(f"{(number + 1) % 4:02d}")
        assert loaded is None or bool((loaded["x"] == (number + 1) % 4).all())


def test_several_processes_may_write_the_same_entries(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_many, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.rglob("*"))) == 8, "an unfinished file was left"
