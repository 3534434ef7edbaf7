"""The ablation: variants that differ in one thing, one budget, runs that are skipped when they are done, a page."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
import torch
from safetensors import safe_open

from tests.tiny import tiny_pipeline, tiny_transformer
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training import evaluate, train
from training.config import load_config
from training.evaluation.ablation import runs
from training.evaluation.ablation.__main__ import main
from training.evaluation.ablation.results import Outcome, agreement_with_paper, effect, over_seeds, read_record
from training.evaluation.ablation.runs import EXPERIMENT, VARIANTS, AblationPlan, Run, trainings, write_plan
from training.evaluation.held_out.cases import PUBLISHED, make_cases, read_cases, write_cases
from training.evaluation.held_out.runner import write_score
from training.evaluation.held_out.scoring import Measures, Score
from training.stages.model import build_transformer
from training.synth.material.pack import Pack

TINY = "training/configs/tiny_sft.yaml"
MODEL = {
    "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_hidden_dim": 32, "semantic_positions": "grid",
}  # fmt: skip


class Sizes:
    latent_channels, text_dim, semantic_dim = 16, 32, 32


def plan(**changes):
    settings = {"steps": 100, "seeds": 3, "variants": tuple(VARIANTS), "groups": 20, "per_task": 1}
    return AblationPlan(**settings | {"command": (TINY,)} | changes)


def configurations(name, tmp_path, steps=100, seed=1):
    """The configurations of a run's stages, as `training.train` reads them."""
    found = trainings(Run(VARIANTS[name], seed), plan(steps=steps), tmp_path)
    assert all(command[:4] == ["training.train", "--resume", "--config", TINY] for _, command in found)
    return [load_config(Path(command[3]), command[5::2]) for _, command in found]


def outcome(seed, values, rank=None):
    scores = {f"add-{n}": Score("add", n, "", Measures(inside=v, rank=rank)) for n, v in enumerate(values)}
    return Outcome({"seed": seed}, scores, {})


def inputs(frames=2):
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "hidden_states": noise(1, 16, frames, 4, 6),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": noise(1, 8, 32),
        "source_hidden_states": noise(1, 16, frames, 4, 6),
        "semantic_hidden_states": noise(1, 65, 32),
    }


# --- Plan -------------------------------------------------------------------------------------------------------------


def test_variants_differ_from_the_method_in_what_they_say(tmp_path):
    (both,) = configurations("both", tmp_path)
    rendered = both.data.rendered
    assert (both.max_steps, both.max_minutes, both.float8_share, both.seed) == (100, 0.0, 0.0, 1)
    assert (rendered.groups, rendered.capacity_groups, rendered.refresh_per_step) == (20, 20, 0.0)
    differing = {}
    for name in VARIANTS:
        one = configurations(name, tmp_path)[-1]
        differing[name] = [
            one.objective.semantic_weight != both.objective.semantic_weight,
            one.data.rendered.pretext_share != both.data.rendered.pretext_share,
            one.model != both.model,
            one.stage != both.stage,
        ]
        assert one.data.rendered.groups == 20 and one.seed == 1
    assert differing == {
        "baseline": [True, True, False, False], "anchoring": [False, True, False, False],
        "motion": [True, False, False, False], "both": [False] * 4, "shifted": [False, False, True, False],
        "unplaced": [False, False, True, False], "stage0": [False, False, False, True], "two_stages": [False] * 4,
    }  # fmt: skip


def test_the_variant_of_two_stages_divides_the_budget(tmp_path):
    first, then = configurations("two_stages", tmp_path, 101)
    assert first.max_steps + then.max_steps == 101 and abs(first.max_steps - then.max_steps) == 1
    assert (first.stage, then.stage) == ("pretrain", "sft")
    assert first.fingerprint() == configurations("stage0", tmp_path)[0].fingerprint()
    assert then.start_from == first.output and first.output != then.output
    assert replace(then, start_from="").fingerprint() == configurations("both", tmp_path)[0].fingerprint()


@pytest.mark.parametrize(
    ("change", "said"),
    [("objective.semantic_weight=0", "semantic_weight is 0"), ("stage=pretrain", "stage sft"),
     ("data.rendered.pretext_share=0", "pretext_share is 0")],
)  # fmt: skip
def test_there_must_be_something_to_leave_out(change, said, capsys):
    with pytest.raises(SystemExit):
        main(["run", "--config", TINY, "--set", change, "--list"])
    assert said in capsys.readouterr().err


def test_the_list_shows_every_command_and_parts_share_them_without_gap_or_double(tmp_path, capsys):
    def listed(*more):
        assert main(["run", "--config", TINY, "--out", str(tmp_path), "--list", *more]) == 0
        return capsys.readouterr().out.splitlines()

    whole = listed()
    assert len(whole) == 3 * (2 * len(VARIANTS) + 1)  # to train and to score; one variant trains twice
    assert whole[0].startswith("python -m training.train --resume") and "training.evaluate run" in whole[1]
    assert ["seed=0" in line for line in whole[: 2 * len(VARIANTS) : 2]][:6] == [True] * 6
    assert sorted(line for index in range(4) for line in listed("--share", f"{index}/4")) == sorted(whole)
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stopped:
        listed("--share", "4/4")
    assert stopped.value.code == 2 and "--share: '4/4' is no part" in capsys.readouterr().err


# --- Models -----------------------------------------------------------------------------------------------------------


def test_variants_of_a_seed_begin_with_the_same_weights(tmp_path):
    models = {}
    for name in VARIANTS:
        one = configurations(name, tmp_path)[-1]
        changed = {key: one.model[key] for key in ("source_positions", "semantic_positions") if key in one.model}
        models[name] = build_transformer(replace(one, start_from="", model=MODEL | changed), Sizes())
    first = models["both"].state_dict()
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, first[key]), (name, key)
    trained = {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in models.items()}
    assert trained["both"] - trained["shifted"] == 3 * 48  # the type embedding
    assert trained["baseline"] < trained["both"] == trained["unplaced"]
    anchors = {name: model.config.num_semantic_tokens for name, model in models.items()}
    assert {name for name, count in anchors.items() if not count} == {"baseline", "motion"}


def test_a_model_without_anchors_is_sampled_as_the_model_that_is_given_none():
    pipeline, given = tiny_pipeline(), inputs()
    none = given["semantic_hidden_states"][:, :0]
    out = pipeline.transformer(**{**given, "semantic_hidden_states": none})
    assert torch.equal(out.sample, pipeline.transformer(**{**given, "semantic_hidden_states": None}).sample)
    assert out.semantic.shape == (1, 0, 32)

    def edited():
        random = torch.Generator().manual_seed(0)
        settings = {"num_inference_steps": 2, "output_type": "latent", "generator": random}
        return pipeline(torch.ones(5, 32, 48, 3), "make it red", **settings)

    with_anchors = edited()
    pipeline.transformer.register_to_config(num_semantic_tokens=0)
    without = edited()
    assert without.semantic_tokens.shape[:3] == (1, 2, 0) and without.frames.isfinite().all()
    assert not torch.allclose(without.frames, with_anchors.frames, atol=1e-3)


def test_shifted_positions_stand_behind_the_target_in_time():
    plain, shifted = tiny_transformer(), tiny_transformer(source_positions="shifted")
    shifted.load_state_dict(plain.state_dict())
    given = inputs()
    count = 2 * 2 * 3
    tables = shifted.rope(given["hidden_states"], 65, True)
    same = plain.rope(given["hidden_states"], 65, True)
    longer = plain.rope(given["hidden_states"].repeat(1, 1, 2, 1, 1))
    for table, plain_table, long in zip(tables, same, longer, strict=True):
        assert torch.equal(table[:, count:], plain_table[:, count:])  # anchors and target
        assert torch.equal(table[:, :count], long[:, count:])
    without_source = {**given, "source_hidden_states": None}
    assert torch.equal(shifted(**without_source).sample, plain(**without_source).sample)
    assert not torch.allclose(shifted(**given).sample, plain(**given).sample, atol=1e-3)
    with pytest.raises(ValueError, match="source_positions must be one of"):
        tiny_transformer(source_positions="behind")


# --- Results ----------------------------------------------------------------------------------------------------------


def test_means_and_effects_count_seeds_and_cases():
    base = [outcome(seed, [10.0 + seed, 20.0 + seed]) for seed in range(3)]
    better = [outcome(seed, [11.0 + seed, 21.2 + seed]) for seed in range(3)]
    mean = over_seeds(base, "inside")
    assert mean == (16.0, pytest.approx(1 / math.sqrt(3)), 3)
    found = effect({"both": better, "baseline": base}, "both", "baseline", "inside")
    assert found.better_by == pytest.approx(1.1) and found.pairs == 6
    assert found.error == pytest.approx(0.1) and found.verdict == "better"
    claim = next(claim for claim in EXPERIMENT.claims if (claim.one, claim.other) == ("both", "baseline"))
    assert agreement_with_paper(claim, found) == "agrees"
    back = effect({"both": base, "baseline": better}, "both", "baseline", "inside")
    assert agreement_with_paper(claim, back) == "disagrees"


def test_one_seed_decides_nothing_and_missing_runs_are_no_figures():
    base, better = [outcome(0, [10.0, 20.0])], [outcome(0, [15.0, 25.0])]
    found = effect({"both": better, "baseline": base}, "both", "baseline", "inside")
    assert found.better_by == 5 and math.isnan(found.error) and found.verdict == "undecided"
    assert effect({"both": better}, "both", "baseline", "inside").pairs == 0
    assert effect({"both": better, "baseline": [outcome(1, [10.0, 20.0])]}, "both", "baseline", "inside").pairs == 0


def row_of(text, first, under):
    """The cells of the table's row that begins with `first`, below the heading `under`."""
    rows = (line for line in text[text.index(under) :].splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in next(rows).strip("|").split("|")]


def test_runs_of_unequal_numbers_of_seeds_are_reported_and_unscored_ones_named(tmp_path):
    pytest.importorskip("matplotlib")
    lines = read_cases(PUBLISHED, ["add", "style"], 2)
    out, record, page = tmp_path / "out", tmp_path / "docs/ablation/results.json", tmp_path / "docs/ablation.md"
    variants = ("baseline", "both", "shifted", "two_stages")
    write_plan(plan(steps=20, groups=5, per_task=2, variants=variants, tasks=("add", "style")), out)

    def scored(name, inside, count=4, parts=(".",)):
        for part in parts:
            (out / name / part).mkdir(parents=True, exist_ok=True)
            last = 20 // len(parts)
            steps = [
                {"step": n, "flow": 1 / n, "samples": 2 * n, "seconds": 7 / len(parts)} for n in range(1, last + 1)
            ]
            (out / name / part / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
        (out / name / "cases").mkdir()
        for number, line in enumerate(lines[:count]):
            score = Score(line.task, line.seed, line.instruction, Measures(inside=inside + number))
            write_score(out / name / "cases", replace(score, copy=Measures(inside=5.0), truth=Measures(inside=99.0)))

    for seed, inside in enumerate((10.0, 11.0)):
        scored(f"baseline-seed{seed}", inside)
    scored("baseline-seed2", 90.0, count=3)
    for seed, inside in enumerate((12.0, 13.2, 40.0)):
        scored(f"both-seed{seed}", inside)
    about = out / "both-seed0" / "cases" / "about.json"
    about.write_text(json.dumps({"device": "a device", "torch": "2.0"}))
    os.utime(about, (1767355200, 1767355200))
    scored("shifted-seed0", 14.0)
    (out / "shifted-seed1").mkdir()
    scored("two_stages-seed0", 15.0, parts=(".", "stage0"))

    assert main(["collect", "--out", str(out), "--record", str(record)]) == 0
    kept = read_record(record)
    seeds = {name: [run.facts["seed"] for run in runs] for name, runs in kept.outcomes.items()}
    assert seeds == {"baseline": [0, 1], "both": [0, 1, 2], "shifted": [0], "two_stages": [0]}
    assert kept.left_out == {
        "baseline-seed2": "3 of 4 cases scored", "shifted-seed1": "0 of 4 cases scored", "shifted-seed2": "not begun",
        "two_stages-seed1": "not begun", "two_stages-seed2": "not begun",
    }  # fmt: skip
    assert [run.facts["samples"] for runs in kept.outcomes.values() for run in runs] == [40] * 7
    assert all("device" not in run.facts for run in kept.outcomes["shifted"])

    assert main(["report", "--record", str(record), "--page", str(page)]) == 0
    text = page.read_text()
    assert row_of(text, "*source*", "## Scores")[2] == "5.0" and row_of(text, "*truth*", "## Scores")[2] == "99.0"
    assert "5 of 12 runs are left out" in text and "`baseline-seed2` (3 of 4 cases scored)" in text
    assert "1 to 3 seeds" in text and "Measured on a device with torch 2.0, 2026-01-02" in text
    rows = {title: row_of(text, title, "## Scores") for title in ("baseline", "both", "both, shifted positions")}
    assert {title: row[1:3] for title, row in rows.items()} == {
        "baseline": ["2", "12.0 ± 0.5"], "both": ["3", "23.2 ± 9.1"], "both, shifted positions": ["1", "15.5"],
    }  # fmt: skip
    helps = row_of(text, "both help", "## Against")
    assert helps[1] == "2" and helps[3] == "2.1 ± 0.1" and "inside: agrees" in helps[-1]  # not the seed of one alone
    alone = row_of(text, "a type embedding is better than shifted positions", "## Against")
    assert alone[1] == "1" and "±" not in "".join(alone) and alone[-1] == "no conclusion"
    assert row_of(text, "baseline", "## Runs") == ["baseline", "0, 1", "20", "40", "7"]
    assert row_of(text, "both", "## Runs") == ["both", "0, 1, 2", "20", "40", "7"]


# --- A toy run --------------------------------------------------------------------------------------------------------

YAML = """
stage: sft
output: unused
base: {base}
precision: float32
batch_size: 2
max_steps: 50
model: {model}
data: {{workers: 0, rendered: {{pack: {base}, cache: {cache}, frames: 5, paraphrases: 1, pretext_share: 0.5}}}}
optimiser: {{warmup_steps: 1, learning_rate: 0.01}}
watch: {{validation_samples: 1, sample_steps: 1}}
"""


@pytest.fixture
def in_this_process(monkeypatch, pack):  # noqa: F811
    """Commands run here, where the drawings are those of the tests; which ones did is told."""
    started = []
    monkeypatch.setattr(Pack, "load", lambda path: pack)
    programs = {"training.train": train.main, "training.evaluate": evaluate.main}

    def start(command):
        started.append(command)
        return programs[command[0]](command[1:])

    monkeypatch.setattr(runs, "start", start)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield started
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_toy_ablation_runs_goes_on_and_is_reported(tmp_path, pack, in_this_process):  # noqa: F811
    pytest.importorskip("matplotlib")
    tiny_pipeline().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "pack.json").touch()
    (tmp_path / "toy.yaml").write_text(
        YAML.format(base=tmp_path / "base", cache=tmp_path / "scenes", model=json.dumps(MODEL))
    )
    write_cases(make_cases(pack, ["recolour", "style"], 1, frames=(5,), paraphrases=0), tmp_path / "cases.jsonl")
    out, page = tmp_path / "out", tmp_path / "docs" / "ablation.md"
    command = [
        "run", "--config", str(tmp_path / "toy.yaml"), "--cases", str(tmp_path / "cases.jsonl"), "--out", str(out),
        "--groups", "3", "--seeds", "1", "--steps", "3", "--workers", "1", "--variants", "baseline", "two_stages",
    ]  # fmt: skip
    assert main([*command, "--share", "0/2"]) == 0
    assert [words[0] for words in in_this_process] == ["training.train", "training.evaluate"]
    del in_this_process[:]
    assert main(command) == 0  # the others
    kinds = ["training.train", "training.train", "training.evaluate"]
    assert [words[0] for words in in_this_process] == kinds
    assert all("two_stages" in " ".join(words) for words in in_this_process)
    del in_this_process[:]
    assert main(command) == 0 and not in_this_process
    with pytest.raises(SystemExit):
        main([*command, "--groups", "5"])
    assert not list(out.rglob("checkpoints"))

    record = tmp_path / "docs" / "ablation" / "results.json"
    assert main(["collect", "--out", str(out), "--record", str(record)]) == 0
    rows = [json.loads(line) for line in (out / "two_stages-seed0" / "metrics.jsonl").read_text().splitlines()]
    first = [json.loads(line) for line in (out / "two_stages-seed0/stage0/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in first if "flow" in row] == [1, 2]
    assert [row["step"] for row in rows if "flow" in row] == [1]
    assert any("validation/raw/flow" in row for row in rows)
    alone = [json.loads(line) for line in (out / "baseline-seed0/metrics.jsonl").read_text().splitlines()]
    losses = [row["flow"] for row in alone if "flow" in row]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    with safe_open(out / "two_stages-seed0/transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        went_on = file.get_tensor("proj_out.weight")
    with safe_open(out / "two_stages-seed0/stage0/transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        began = file.get_tensor("proj_out.weight")
    fresh = build_transformer(load_config(tmp_path / "toy.yaml"), Sizes()).proj_out.weight
    assert 0 < (went_on - began).norm() < (went_on - fresh).norm(), "stage 1 began with random weights"
    assert len(list((tmp_path / "scenes").rglob("*.safetensors"))) == 3  # drawn and encoded once for all
    scored = {
        name: json.loads((out / f"{name}-seed0/cases/style-704000.json").read_text())
        for name in ("baseline", "two_stages")
    }
    rmtree(out)  # a clone has the record alone

    report = ["report", "--record", str(record), "--page", str(page), "--notes", str(tmp_path / "notes.md")]
    with pytest.raises(SystemExit):
        main(report)  # there are no notes yet
    (tmp_path / "notes.md").write_text("Three steps say nothing.\n")
    assert main(report) == 0
    text = page.read_text()
    assert text.index("Three steps say nothing.") < text.index("| baseline |")
    assert "| baseline |" in text and "| stage 0, then stage 1 |" in text and "| *truth* |  | 100 % |" in text
    assert "Not complete" not in text and "3 steps a run" in text
    for name in ("losses", "scores"):
        assert (page.parent / "ablation" / f"{name}.png").stat().st_size > 5000
    kept = read_record(record)
    assert kept.plan.steps == 3 and set(kept.references) == {"source", "truth"}
    for name, outcomes in kept.outcomes.items():
        assert [run.facts["seed"] for run in outcomes] == [0]
        result = outcomes[0].scores["style-704000"].result
        assert result.inside == pytest.approx(scored[name]["result"]["inside"], rel=1e-4)
        assert result.followed == scored[name]["result"]["followed"]
    assert [step for step, _ in kept.outcomes["two_stages"][0].curves["flow"]] == [1, 2, 3]
    assert [value for _, value in kept.outcomes["baseline"][0].curves["flow"]] == pytest.approx(losses, rel=1e-4)


def test_a_run_that_fails_is_named_and_nothing_follows(tmp_path, monkeypatch, capsys):
    write_cases(read_cases(PUBLISHED, ["style"], 1), tmp_path / "cases.jsonl")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.json").touch()
    started = []
    monkeypatch.setattr(runs, "start", lambda command: started.append(command) or 0)  # told to end: status 0, no result
    command = [
        "run",
        "--config",
        TINY,
        "--set",
        f"data.rendered.pack={tmp_path / 'pack'}",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--cases", str(tmp_path / "cases.jsonl")])
    assert stopped.value.code == 2 and len(started) == 1
    assert "baseline-seed0 did not end" in capsys.readouterr().err


def test_without_the_material_one_sentence_says_how_to_get_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--config", TINY, "--set", f"data.rendered.pack={tmp_path}", "--out", str(tmp_path)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert f"training.synth.ingredients --out {tmp_path}" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", "--record", str(tmp_path / "results.json"), "--page", str(tmp_path / "a.md")])
    assert stopped.value.code == 2 and "training.evaluation.ablation collect" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["collect", "--out", str(tmp_path), "--record", str(tmp_path / "results.json")])
    assert stopped.value.code == 2 and "run one with" in capsys.readouterr().err
