"""Processes that compute one run of the pipeline together give what one process gives, and leave it together.

Run as a script, this file is the processes: `python test_shared_runs.py FOLDER`, two and then three of them.
"""

import os
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from diffusers import UniPCMultistepScheduler
from peft import LoraConfig

from sama import cli, loading
from sama.model import vae_parallel
from sama.model.processes import Processes
from sama.model.split import Split, split, told_unused
from tests.distributed.test_sequence_parallel import build_inputs
from tests.media import make_clip
from tests.tiny import tiny_clip, tiny_pipeline, tiny_transformer

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parents[2]
STEPS = 3
SIZES = (2, 3)

# Arguments of a run; a clip of 5 frames of 32 x 48 makes 12 + 65 + 12 tokens, one of 9 frames of 48 x 48 81 + ...
RUNS = {
    "one_pass": {"guidance_scale": 1.0},
    "guidance": {},
    "both_scales": {"source_guidance_scale": 2.0},
    "odd_clip": {"video": tiny_clip(9, 48, 48), "guidance_scale": 1.0},
    "two_results": {"num_videos_per_prompt": 2, "guidance_scale": 1.0},
    "unipc": {"scheduler": UniPCMultistepScheduler(), "guidance_scale": 1.0},
    "adapter": {"adapter": True, "guidance_scale": 1.0},
    "weak_adapter": {"adapter": True, "attention_kwargs": {"scale": 0.3}},
}
SPLITS = {  # of 6 heads
    2: {"one_pass": Split(1, 2), "guidance": Split(2, 1), "both_scales": Split(1, 2)},
    3: {"one_pass": Split(1, 3), "guidance": Split(1, 3), "both_scales": Split(3, 1)},
}


def build_pipeline(adapter=False):
    pipe = tiny_pipeline(tower=False)
    torch.manual_seed(0)
    pipe.register_modules(transformer=tiny_transformer(num_attention_heads=6, attention_head_dim=8))
    if adapter:
        torch.manual_seed(1)
        targets = ["to_q", "to_v", "to_out.0", "net.2"]
        pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    return pipe


def arguments(video=None, adapter=False, seed=0, **rest):
    given = {
        "video": tiny_clip() if video is None else video,
        "prompt": "Make it snowy",
        "num_inference_steps": STEPS,
        "guidance_scale": 3.0,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(seed),
    }
    return given | rest


def results(pipe, context=torch.no_grad, **case):
    with context():
        out = pipe(**arguments(**case))
    return {"frames": out.frames.clone(), "plan": out.semantic_tokens.clone()}


def brightened(pipe, step, timestep, tensors):
    """A callback that changes both streams."""
    return {name: 0.9 * tensor + 0.1 for name, tensor in tensors.items()}


CALLED_BACK = {
    "callback_on_step_end": brightened,
    "callback_on_step_end_tensor_inputs": ("latents", "semantic_latents"),
}


class Counting:
    """How many evaluations of the model a process has begun."""

    def __init__(self, pipe):
        self.evaluations = 0
        pipe.transformer.register_forward_pre_hook(self._count)

    def _count(self, *_):
        self.evaluations += 1


def together(rank):
    """Every process calls the pipeline. The first one's inputs count: the others give another clip and seed."""
    other = {} if rank == 0 else {"video": tiny_clip(seed=9), "seed": 9}
    found = {}
    for name, case in RUNS.items():
        pipe = build_pipeline(case.get("adapter", False))
        processes = pipe.enable_parallel()
        found[name] = results(pipe, **(case if "video" in case else case | other))
        found[name]["split"] = tuple(processes.current)
        pipe.disable_parallel()
        alone_again = pipe.transformer.blocks[0].attn1.processor
        assert type(alone_again).__name__ == "WanAttnProcessor"
    pipe = build_pipeline()
    pipe.enable_parallel()
    found["inference_mode"] = results(pipe, torch.inference_mode, guidance_scale=1.0)
    found["callback"] = results(pipe, **(CALLED_BACK if rank == 0 else {}))

    def interrupting(pipe, step, timestep, tensors):
        pipe._interrupt = rank == 1 and step == 1
        return {}

    found["interrupted"] = results(pipe, callback_on_step_end=interrupting)
    return found


def led(rank, size):
    """The first process calls the pipeline, the others follow."""
    vae_parallel.PAYS = 9 * 64 * 32  # `both_ways`, and nothing smaller
    pipe = build_pipeline()
    counting, coded = Counting(pipe), []
    for part in (pipe.vae.encoder, pipe.vae.decoder):
        part.conv_in.register_forward_hook(lambda _, inputs, __: coded.append(tuple(inputs[0].shape[2:])))
    pipe.enable_parallel()
    if rank:
        pipe.follow()
        return {"evaluations": counting.evaluations, "coded": coded}
    found = {}
    with torch.no_grad(), pipe.lead():
        found |= both_ways(pipe) | {"coded": list(coded)}
        run = pipe.stream(**arguments(num_inference_steps=9))
        for step in run:
            if step.step == 2:
                break  # the others are beginning the third step, or wait for this process's word
        run.close()

        def failing(*_):
            raise KeyError("a callback of the user's")

        with pytest.raises(KeyError):
            pipe(**arguments(callback_on_step_end=failing))
        with pytest.raises(ValueError, match="cannot be spread"):  # while it is prepared
            pipe(**arguments(negative_prompt_embeds=torch.zeros(3, 64, 32)))
        found["stopped_at"] = counting.evaluations
        found["after"] = results(pipe)
    found["alone_again"] = both_ways(pipe)  # nobody waits for this process any more
    return found | {"evaluations": counting.evaluations}


def both_ways(pipe):
    """A clip through the autoencoder and back, its longer side in height and not a multiple of three."""
    clip = tiny_clip(9, 64, 32).unsqueeze(0) / 255
    latents = pipe.encode_video(clip)
    return {"latents": latents, "pixels": pipe.decode_latents(latents)}


def without_anchors():
    """One pass of an even number of tokens without anchors, and of an odd one of the target alone."""
    model = build_pipeline().transformer
    processes = Processes(model)
    found = {}
    for name, case in ANCHORLESS.items():
        inputs = build_inputs(**case)
        like = (inputs["hidden_states"],)
        with torch.no_grad():
            answers = processes.evaluate({"alone": lambda given=inputs: (model(**given).sample,)}, like)
        found[name] = answers["alone"][0].clone()
    processes.remove()
    return found


ANCHORLESS = {"even": {"semantic": False}, "odd": {"semantic": False, "source": False, "shape": (3, 2, 6)}}


def launched(rank, size, folder, port):
    """`python -m sama edit` as a launcher starts it: its exit status, and what it printed."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    options = ["--model", f"{folder}/model", "--steps", "2", "--device", "cpu", "--quiet"]
    windows, encoders, put = [], [], loading.place

    def watched(pipeline, device, memory, compiled, window, forwards):
        windows.append((window, forwards))
        encoders.append(pipeline.text_encoder is not None)
        return put(pipeline, device, memory, compiled, window, forwards)

    loading.place = watched
    clip = f"{folder}/in.mp4" if rank == 0 else f"{folder}/nowhere.mp4"  # the others may be on another machine
    with redirect_stdout(StringIO()) as printed:
        status = cli.main(["edit", clip, "Make it snowy", "-o", f"{folder}/launched.mp4", *options])
    return status, printed.getvalue().strip(), windows, encoders


def process(rank, size, folder, port):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{size}", rank=rank, world_size=size)
    found = {"together": together(rank), "led": led(rank, size), "without_anchors": without_anchors()}
    dist.destroy_process_group()
    if size == 2:
        found["launched"] = launched(rank, size, folder, port)
    torch.save(found, f"{folder}/{size}-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the processes found, as files, and what `sama edit` needs."""
    folder = tmp_path_factory.mktemp("shared")
    tiny_pipeline(tower=False).save_pretrained(folder / "model")
    make_clip(folder / "in.mp4", frames=6, width=96, height=54, audio="aac")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(folder), str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module", params=SIZES)
def found(request, folder):
    """By rank."""
    return [torch.load(folder / f"{request.param}-{rank}.pt") for rank in range(request.param)]


@cache
def alone(name):
    """What one process gives for a case."""
    return results(build_pipeline(RUNS[name].get("adapter", False)), **RUNS[name])


def assert_same(results, expected):
    for name in ("frames", "plan"):
        assert expected[name].isfinite().all() and expected[name].std() > 0.05
        torch.testing.assert_close(results[name], expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RUNS)
def test_processes_that_share_a_run_give_what_one_gives(found, name):
    expected = alone(name)
    for each in found:
        assert_same(each["together"][name], expected)
        if name in SPLITS[len(found)]:
            assert each["together"][name]["split"] == SPLITS[len(found)][name]


def test_every_case_is_a_case_of_its_own():
    for name in RUNS:
        if name not in ("one_pass", "odd_clip", "two_results"):
            assert (alone(name)["frames"] - alone("one_pass")["frames"]).abs().max() > 1e-3, name


def test_inference_mode_and_the_first_process_s_callback(found):
    changed = results(build_pipeline(), **CALLED_BACK)
    assert (changed["frames"] - alone("guidance")["frames"]).abs().max() > 1e-3
    for each in found:
        assert_same(each["together"]["inference_mode"], alone("one_pass"))
        assert_same(each["together"]["callback"], changed)


def test_any_process_can_interrupt(found):
    pipe = build_pipeline()
    with torch.no_grad():
        *_, second, _third, _end = pipe.stream(**arguments())
        frames = pipe.decode_latents(second.latents).movedim(-1, 2)
    for each in found:
        assert each["together"]["interrupted"]["plan"].shape[1] == 2
        torch.testing.assert_close(each["together"]["interrupted"]["frames"], frames, atol=1e-5, rtol=0)


def test_all_leave_a_run_that_the_first_one_leaves_and_are_there_for_the_next(found):
    leader = found[0]["led"]
    assert_same(leader["after"], alone("guidance"))
    a_step = 1 if len(found) == 2 else 2  # evaluations: two processes have a pass each, three share both
    assert leader["stopped_at"] == (2 + 1) * a_step  # two steps, and one until the callback failed
    assert {each["led"]["evaluations"] for each in found} == {(2 + 1 + STEPS) * a_step}


def test_the_picture_is_coded_in_parts_by_all_that_follow(found):
    leader, expected = found[0]["led"], both_ways(build_pipeline())
    for each in (leader, leader["alone_again"]):
        for name, value in expected.items():
            assert value.isfinite().all() and value.std() > 0.1
            torch.testing.assert_close(each[name], value, atol=1e-5, rtol=1e-5)
    rows = [each["led"]["coded"] for each in found]
    height, chunks = 32, 3  # the autoencoder takes 2 x 2 pixels as one
    for index in range(2 * chunks):
        whole = (height if index < chunks else 8) + 2 * (len(found) - 1)  # with the neighbours' edges
        assert sum(part[index][1] for part in rows) == whole and max(part[index][1] for part in rows) < 0.7 * whole


@pytest.mark.parametrize("name", ANCHORLESS)
def test_without_anchors_too(found, name):
    with torch.no_grad():
        expected = build_pipeline().transformer(**build_inputs(**ANCHORLESS[name])).sample
    for each in found:
        torch.testing.assert_close(each["without_anchors"][name], expected, atol=1e-5, rtol=0)


def test_an_edit_under_a_launcher_writes_the_same_file_once(folder):
    ended = [torch.load(folder / f"2-{rank}.pt")["launched"] for rank in range(2)]
    assert [each[:2] for each in ended] == [(0, str(folder / "launched.mp4")), (0, "")]  # the second one followed
    (((frames, *_), forwards),) = ended[0][2]
    assert ended[1][2] == ended[0][2] and (frames, forwards) == (9, 4)  # the job's own window
    assert [each[3] for each in ended] == [[True], [False]]  # one text encoder is enough
    options = ["--model", f"{folder}/model", "--steps", "2", "--device", "cpu", "--quiet"]
    one = folder / "one.mp4"
    assert cli.main(["edit", f"{folder}/in.mp4", "Make it snowy", "-o", str(one), *options]) == 0
    assert (folder / "launched.mp4").read_bytes() == one.read_bytes()


@pytest.mark.parametrize(
    ("gpus", "heads", "passes", "expected"),
    [
        (1, 40, 2, (1, 1)),
        (2, 40, 2, (2, 1)),  # passes first: they exchange least
        (3, 40, 2, (2, 1)),  # 40 heads cannot be shared by 3
        (3, 12, 2, (1, 3)),  # but 12 can, and that is quicker than a pass each on two of three
        (4, 40, 2, (2, 2)),
        (5, 40, 2, (1, 5)),
        (6, 40, 2, (1, 5)),
        (7, 6, 2, (2, 3)),
        (8, 40, 2, (2, 4)),
        (8, 12, 2, (2, 4)),
        (4, 6, 1, (1, 3)),
        (3, 40, 3, (3, 1)),
        (2, 40, 3, (1, 2)),
        (6, 12, 3, (3, 2)),
        (16, 6, 1, (1, 6)),
    ],
)
def test_the_split_is_the_quickest_that_heads_allow(gpus, heads, passes, expected):
    assert split(gpus, heads, passes) == expected
    unused = told_unused(gpus, heads, passes)
    assert (unused == "") == (expected[0] * expected[1] == gpus)
    assert not unused or unused.startswith(f"This edit uses {expected[0] * expected[1]} of the {gpus} GPUs: ")


def test_no_split_of_nothing():
    for numbers in ((0, 6, 1), (1, 0, 1), (1, 6, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            split(*numbers)


if __name__ == "__main__":
    place, free_port = sys.argv[1], int(sys.argv[2])
    for number in SIZES:  # forked, so that the libraries are imported once for all processes
        torch.multiprocessing.start_processes(
            process, args=(number, place, free_port), nprocs=number, start_method="fork"
        )
