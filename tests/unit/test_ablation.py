"""The ablation: variants that differ in one thing, one budget, runs that are skipped when they are done, a page."""

import json
import math
import re
from shutil import rmtree

import pytest
import torch

from tests.tiny import tiny_pipeline, tiny_transformer
from tests.unit.test_procedural import pack  # noqa: F401 - a fixture
from training.config import DataConfig, ObjectiveConfig, RenderedConfig, TrainConfig
from training.errors import ConfigError
from training.evaluation.ablation.__main__ import _digest, main
from training.evaluation.ablation.models import AnchorlessTransformer, ShiftedTransformer, build_variant
from training.evaluation.ablation.plan import (
    VARIANTS,
    Plan,
    Run,
    common_config,
    run_config,
    share_of,
    stage0_config,
    write_plan,
)
from training.evaluation.ablation.record import read_record
from training.evaluation.ablation.results import CLAIMS, Outcome, agreement, effect, over_seeds
from training.evaluation.held_out.cases import PUBLISHED, make_cases, read_cases, write_cases
from training.evaluation.held_out.runner import write_score
from training.evaluation.held_out.scoring import Measures, Score
from training.synth.material.pack import Pack

BY_NAME = {variant.name: variant for variant in VARIANTS}
MODEL = {
    "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
    "semantic_hidden_dim": 32, "semantic_positions": "grid",
}  # fmt: skip


class Sizes:
    latent_channels, text_dim, semantic_dim = 16, 32, 32


def config(**changes):
    rendered = RenderedConfig(frames=5, groups=7, refresh_per_step=0.5)
    settings = {"model": MODEL, "data": DataConfig(workers=0, rendered=rendered), "max_minutes": 3.0}
    return TrainConfig("sft", "runs/x", **(settings | changes))


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
    common = common_config(config(), groups=20)
    both = run_config(common, Run(BY_NAME["both"], 1), 100, tmp_path)
    assert (both.max_steps, both.max_minutes, both.seed) == (100, 0.0, 1)
    assert (both.data.rendered.groups, both.data.rendered.refresh_per_step) == (20, 0.0)
    differing = {}
    for variant in VARIANTS:
        one = run_config(common, Run(variant, 1), 100, tmp_path)
        differing[variant.name] = [
            one.objective.semantic_weight != both.objective.semantic_weight,
            one.data.rendered.pretext_share != both.data.rendered.pretext_share,
            one.model != both.model,
            one.stage != both.stage,
        ]
        assert one.data.rendered.groups == both.data.rendered.groups and one.seed == both.seed
    assert differing == {
        "baseline": [True, True, False, False], "anchoring": [False, True, False, False],
        "motion": [True, False, False, False], "both": [False] * 4, "shifted": [False] * 4,
        "unplaced": [False, False, True, False], "stage0": [False, False, False, True], "two_stages": [False] * 4,
    }  # fmt: skip


def test_the_variant_of_two_stages_divides_the_budget(tmp_path):
    common = common_config(config(), groups=20)
    run, alone = Run(BY_NAME["two_stages"], 1), Run(BY_NAME["stage0"], 1)
    first, then = stage0_config(common, run, 101, tmp_path), run_config(common, run, 101, tmp_path)
    assert first.max_steps + then.max_steps == 101 and abs(first.max_steps - then.max_steps) == 1
    assert (first.stage, then.stage) == ("pretrain", "sft")
    assert first.fingerprint() == run_config(common, alone, first.max_steps, tmp_path).fingerprint()
    both = run_config(common, Run(BY_NAME["both"], 1), then.max_steps, tmp_path)
    assert then.fingerprint() == both.fingerprint()
    assert len({first.output, then.output, both.output}) == 3
    assert stage0_config(common, alone, 101, tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"objective": ObjectiveConfig(semantic_weight=0.0)}, "semantic_weight is 0"),
     ({"stage": "pretrain"}, "stage sft"),
     ({"data": DataConfig(rendered=RenderedConfig(pretext_share=0.0))}, "pretext_share is 0")],
)  # fmt: skip
def test_there_must_be_something_to_leave_out(changes, said):
    with pytest.raises(ConfigError, match=said):
        common_config(TrainConfig(**{"stage": "sft", "output": "x"} | changes), 5)


def test_runs_are_shared_between_gpus_without_gap_or_double():
    runs = Plan("x", 10, 3, tuple(BY_NAME), 5, 1).runs()
    assert [run.seed for run in runs[: len(VARIANTS)]] == [0] * len(VARIANTS)
    parts = [share_of(runs, f"{index}/4") for index in range(4)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    for wrong in ("4/4", "x", "1"):
        with pytest.raises(ConfigError, match="--share"):
            share_of(runs, wrong)


# --- Models -----------------------------------------------------------------------------------------------------------


def test_variants_of_a_seed_begin_with_the_same_weights(tmp_path):
    common = common_config(config(), 5)
    models = {
        variant.name: build_variant(run_config(common, Run(variant, 0), 10, tmp_path), Sizes(), variant)
        for variant in VARIANTS
    }
    first = models["both"].state_dict()
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, first[key]), (name, key)
    assert type(models["shifted"]) is ShiftedTransformer and type(models["baseline"]) is AnchorlessTransformer
    trained = {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in models.items()}
    assert trained["both"] - trained["shifted"] == 3 * 48  # the type embedding
    assert trained["baseline"] < trained["both"] == trained["unplaced"]


def copied(kind):
    plain = tiny_transformer()
    model = kind(**{name: value for name, value in plain.config.items() if not name.startswith("_")}).eval()
    model.load_state_dict(plain.state_dict())
    return plain, model


def test_a_model_without_a_plan_is_the_model_given_none():
    plain, anchorless = copied(AnchorlessTransformer)
    given = inputs()
    out = anchorless(**given)
    without = plain(**{**given, "semantic_hidden_states": None})
    assert torch.equal(out.sample, without.sample)
    assert not out.semantic.any() and out.semantic.shape == given["semantic_hidden_states"].shape
    assert not torch.allclose(out.sample, plain(**given).sample, atol=1e-3)


def test_shifted_positions_stand_behind_the_target_in_time():
    plain, shifted = copied(ShiftedTransformer)
    given = inputs()
    count = 2 * 2 * 3
    tables = shifted.rope(given["hidden_states"], 65, True)
    same = plain.rope(given["hidden_states"], 65, True)
    longer = plain.rope(given["hidden_states"].repeat(1, 1, 2, 1, 1))
    for table, plain_table, long in zip(tables, same, longer, strict=True):
        assert torch.equal(table[:, count:], plain_table[:, count:])  # anchors and target
        assert torch.equal(table[:, :count], long[:, count:])
    without_source = {**given, "source_hidden_states": None}
    plain.segment_embedding.weight.data.zero_()
    assert torch.allclose(shifted(**without_source).sample, plain(**without_source).sample, atol=1e-6)
    assert not torch.allclose(shifted(**given).sample, plain(**given).sample, atol=1e-3)


# --- Results ----------------------------------------------------------------------------------------------------------


def test_means_and_effects_count_seeds_and_cases():
    base = [outcome(seed, [10.0 + seed, 20.0 + seed]) for seed in range(3)]
    better = [outcome(seed, [11.0 + seed, 21.2 + seed]) for seed in range(3)]
    mean = over_seeds(base, "inside")
    assert mean == (16.0, pytest.approx(1 / math.sqrt(3)), 3)
    found = effect({"both": better, "baseline": base}, "both", "baseline", "inside")
    assert found.better_by == pytest.approx(1.1) and found.pairs == 6
    assert found.error == pytest.approx(0.1) and found.verdict == "better"
    claim = next(claim for claim in CLAIMS if (claim.one, claim.other) == ("both", "baseline"))
    assert agreement(claim, found) == "agrees"
    back = effect({"both": base, "baseline": better}, "both", "baseline", "inside")
    assert agreement(claim, back) == "disagrees"


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
    plan = Plan("x", 20, 3, ("baseline", "both", "shifted", "two_stages"), 5, 2, ("add", "style"), _digest(lines))
    out, record, page = tmp_path / "out", tmp_path / "docs/ablation/results.json", tmp_path / "docs/ablation.md"
    write_plan(plan, out)

    def scored(name, inside, count=4, parts=(".",)):
        for part in parts:
            (out / name / part).mkdir(parents=True, exist_ok=True)
            steps = [{"step": step, "flow": 1 / step, "samples": 2 * step} for step in range(1, 20 // len(parts) + 1)]
            (out / name / part / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in steps))
        (out / name / "cases").mkdir()
        for number, line in enumerate(lines[:count]):
            write_score(out / name / "cases", Score(line.task, line.seed, "", Measures(inside=inside + number)))

    for seed, inside in enumerate((10.0, 11.0)):
        scored(f"baseline-seed{seed}", inside)
    scored("baseline-seed2", 90.0, count=3)
    for seed, inside in enumerate((12.0, 13.2, 40.0)):
        scored(f"both-seed{seed}", inside)
    facts = {"variant": "both", "seed": 0, "steps": 20, "samples": 40, "training_seconds": 7.0}
    facts |= {"device": "a device", "torch": "2.0", "date": "2026-01-02"}
    (out / "both-seed0" / "result.json").write_text(json.dumps(facts))
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
    assert row_of(text, "baseline", "## Runs") == ["baseline", "0, 1", "20", "40", "-"]
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
data: {{workers: 0, rendered: {{pack: {base}, frames: 5, paraphrases: 1, pretext_share: 0.5}}}}
optimiser: {{warmup_steps: 1, learning_rate: 0.01}}
watch: {{validation_samples: 1, sample_steps: 1}}
"""


def test_a_toy_ablation_runs_goes_on_and_is_reported(tmp_path, pack, monkeypatch):  # noqa: F811
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(Pack, "load", lambda path: pack)
    tiny_pipeline().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "pack.json").touch()
    (tmp_path / "toy.yaml").write_text(YAML.format(base=tmp_path / "base", model=json.dumps(MODEL)))
    write_cases(make_cases(pack, ["recolour", "style"], 1, frames=(5,), paraphrases=0), tmp_path / "cases.jsonl")
    out, page = tmp_path / "out", tmp_path / "docs" / "ablation.md"
    command = [
        "run", "--config", str(tmp_path / "toy.yaml"), "--cases", str(tmp_path / "cases.jsonl"), "--out", str(out),
        "--groups", "5", "--seeds", "2", "--per-task", "1", "--judges", "0", "--variants", "both", "two_stages",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        main(command)  # no steps, no budget
    assert main([*command, "--steps", "3", "--share", "0/2"]) == 0
    done = sorted(file.parent.name for file in out.rglob("result.json"))
    assert done == ["both-seed0", "both-seed1"]
    first = (out / "both-seed0" / "result.json").stat().st_mtime_ns
    assert main(command) == 0  # the steps are known by now
    assert len(list(out.rglob("result.json"))) == 4
    assert (out / "both-seed0" / "result.json").stat().st_mtime_ns == first
    with pytest.raises(SystemExit):
        main([*command, "--steps", "4"])

    record = tmp_path / "docs" / "ablation" / "results.json"
    collect = ["collect", "--out", str(out), "--record", str(record)]
    with pytest.raises(SystemExit):
        main(collect)  # the published cases are not these runs'
    assert main([*collect, "--cases", str(tmp_path / "cases.jsonl")]) == 0
    rows = [json.loads(line) for line in (out / "two_stages-seed1" / "metrics.jsonl").read_text().splitlines()]
    first = [json.loads(line) for line in (out / "two_stages-seed1/stage0/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in first if "flow" in row] == [1, 2]
    assert [row["step"] for row in rows if "flow" in row] == [1]
    assert any("validation/raw/flow" in row for row in rows)
    losses = [
        [row["flow"] for row in map(json.loads, (out / f"both-seed{n}/metrics.jsonl").open()) if "flow" in row]
        for n in (0, 1)
    ]
    assert losses[0] != losses[1] and all(map(math.isfinite, losses[0] + losses[1]))
    begun = next(row["flow"] for row in rows if "flow" in row)
    assert abs(begun - losses[1][0]) > 1e-6, "stage 1 began with random weights, as `both` does with the same batch"
    scored = {
        name: json.loads((out / f"{name}-seed0/cases/style-704000.json").read_text()) for name in ("both", "two_stages")
    }
    rmtree(out)  # a clone has the record alone

    report = ["report", "--record", str(record), "--page", str(page), "--notes", str(tmp_path / "notes.md")]
    with pytest.raises(SystemExit):
        main(report)  # there are no notes yet
    (tmp_path / "notes.md").write_text("Three steps say nothing.\n")
    assert main(report) == 0
    text = page.read_text()
    assert text.index("Three steps say nothing.") < text.index("| both |")
    assert "| both |" in text and "| stage 0, then stage 1 |" in text and "| *truth* |  | 100 % |" in text
    assert "| stage 0 before stage 1 is better than stage 1 alone |" in text
    assert "Not complete" not in text and "3 steps a run" in text
    for name in ("losses", "scores"):
        assert (page.parent / "ablation" / f"{name}.png").stat().st_size > 5000
    kept = read_record(record)
    assert kept.plan.steps == 3 and set(kept.references) == {"source", "truth"}
    for name, runs in kept.outcomes.items():
        assert [run.facts["seed"] for run in runs] == [0, 1]
        result = runs[0].scores["style-704000"].result
        assert result.inside == pytest.approx(scored[name]["result"]["inside"], rel=1e-4)
        assert result.followed == scored[name]["result"]["followed"]
    assert [step for step, _ in kept.outcomes["two_stages"][0].curves["flow"]] == [1, 2, 3]
    assert [value for _, value in kept.outcomes["both"][1].curves["flow"]] == pytest.approx(losses[1], rel=1e-4)


def test_parts_of_the_scenes_are_encoded_once(tmp_path, pack, monkeypatch, caplog, capsys):  # noqa: F811
    monkeypatch.setattr(Pack, "load", lambda path: pack)
    tiny_pipeline().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "pack.json").touch()
    (tmp_path / "toy.yaml").write_text(YAML.format(base=tmp_path / "base", model=json.dumps(MODEL)))
    cache = tmp_path / "scenes"
    command = ["encode", "--config", str(tmp_path / "toy.yaml"), "--groups", "3"]
    with pytest.raises(SystemExit):
        main(command)
    assert "data.rendered.cache" in capsys.readouterr().err
    command += ["--set", f"data.rendered.cache={cache}"]
    counts = []
    for share in ("0/2", "1/2", "0/2", "0/1", "3/4"):  # 3/4 of three scenes: none
        caplog.clear()
        with caplog.at_level("INFO"):
            assert main([*command, "--share", share]) == 0
        counts.append(int(re.search(r"encoded (\d+) scenes", caplog.text)[1]))
    assert counts == [2, 1, 0, 0, 0]


@pytest.mark.parametrize("command", ["run --steps 3 --judges 0", "encode --set data.rendered.cache=x"])
def test_without_the_material_one_sentence_says_how_to_get_it(command, tmp_path, capsys):
    place = ["--set", f"data.rendered.pack={tmp_path}"] + (["--out", str(tmp_path)] if "run" in command else [])
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--config", "training/configs/tiny_sft.yaml", *place])
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
