"""`unmask bench` on tiny sizes: what it prints, and that its arithmetic is that of the shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unmask
from unmask.bench import cluster
from unmask.bench.causal import generation_cell, step_cell
from unmask.bench.decode import feedback_cell
from unmask.bench.gpu import Speed, pass_floor
from unmask.bench.pairs import Cell, Workload, doubtful, pair, pair_lines
from unmask.bench.scaling import bench_scaling, scaling_table
from unmask.bench.timing import Shape
from unmask.cli.main import main
from unmask.errors import ConfigError, RunError
from unmask.model.load import build, parameter_count
from unmask.model.settings import DiTSettings
from unmask.run.parallel import Group
from unmask.run.shard import shard_network

HERE = Path(unmask.__file__).parents[2]
TINY = Shape("tiny", 32, 1, 2, 64, 16, 2)


def test_scaling_draws_measured_and_worked_out_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "scaling.png"
    assert main(["bench", "scaling", "--quick", "--threads", "1", "--plot", str(picture), "--json"]) == 0
    curves = json.loads(capsys.readouterr().out)["cells"]
    assert [(curve["work"], curve["axis"]) for curve in curves] == [
        (work, axis)
        for work in ("training step", "decoding pass")
        for axis in ("length", "batch", "vocabulary", "parameters")
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    for curve in curves:
        assert all(cell["peak_bytes"] > 0 and cell["cpu_seconds"] > 0 for cell in curve["cells"])
        assert set(curve["slopes"]) == {"cpu_seconds", "gflop", "peak_bytes", "least_bytes"}


def test_the_slopes_are_those_of_the_arithmetic() -> None:
    curves = {(curve["work"], curve["axis"]): curve for curve in bench_scaling(1, quick=True)}
    for work in ("training step", "decoding pass"):
        assert curves[work, "batch"]["slopes"]["gflop"] == pytest.approx(1)  # linear in the rows
        assert 1 < curves[work, "length"]["slopes"]["gflop"] < 2  # attention is quadratic, the rest linear
        assert 0 < curves[work, "vocabulary"]["slopes"]["gflop"] < 1  # the head alone
    lines = scaling_table(curves["training step", "batch"])
    assert lines[0].split() == ["training", "step,", "batch", "2", "4", "slope"]
    assert [line.split()[0] for line in lines[1:]] == ["CPU-seconds", "GFLOP", "peak,", "at"]


def test_an_autoregressive_model_runs_no_full_pass_after_its_prompt() -> None:
    """A pass a token; after the first no more than 16 positions. The step is compared by counted operations."""
    cell = generation_cell(1, replace(TINY, length=48, batch=1))
    assert cell["passes"] == 48 - 16
    assert (cell["first_pass_positions"], cell["most_positions_after"]) == (32, 16)
    assert cell["positions"] < cell["passes"] * 48
    step = step_cell(1, TINY)
    assert step["ar_gflop"] > step["masked_gflop"] > 0  # the head and the last MLP at all positions, not at half
    assert step["per_operation"] > 0


@pytest.mark.slow
def test_the_cost_of_soft_masks_is_that_of_the_same_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that looks, and one that does not; the command has a line for each of both."""
    shape = replace(TINY, length=32, vocab=512)
    monkeypatch.setattr("unmask.bench.decode.SOFT", [shape])
    assert main(["bench", "decode", "--feedback", "on", "--rounds", "1", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["work"] for cell in cells] == [f"soft masks, {rule}:steps=16" for rule in ("confidence", "ancestral")]
    for cell in cells:
        assert 0 < cell["least_ratio"] <= cell["feedback_ratio"] <= cell["largest_ratio"]
        assert cell["passes_per_row"] <= 16  # a token in each
    assert feedback_cell(shape, "random:steps=4", 2)["passes_per_row"] == 4
    assert main(["bench", "decode", "--feedback", "on", "--rounds", "1"]) == 0
    assert " ms with feedback, " in capsys.readouterr().out
    assert main(["bench", "decode", "--feedback", "on", "--against", "."]) == 2
    assert main(["bench", "train", "--feedback", "on"]) == 2


def test_the_measurements_of_a_gpu_run_on_tiny_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu", "--device", "cpu", "--quick", "--rounds", "1", "--json"]) == 0
    training, *decoding = json.loads(capsys.readouterr().out)["cells"]
    assert training["share_of_bf16_rate"] > 0
    assert [cell["shape"]["batch"] for cell in decoding] == [1, 2, 1, 2]
    assert all(0 < cell["share_of_floor"] < 1 for cell in decoding)
    assert main(["bench", "gpu", "--device", "cpu"]) == 2
    assert "--quick" in capsys.readouterr().err


def test_the_floor_of_a_pass_is_its_bytes_or_its_operations() -> None:
    shape = Shape("1B", 2048, 20, 16, 50258, 1024, 1)
    reading, computing = Speed(1e9, 1e9, 3000.0), Speed(800_000.0, 50_000.0, 1e9)
    weights = 12 * 2048**2 * 20
    others = 4 * 1024 * 2048 * 20 + 4 * 2048 * 50258  # keys and values in bf16, the head in float32
    assert pass_floor(shape, 32, 16, reading) == pytest.approx((2 * weights + others) / 3e12)
    assert pass_floor(shape, 32, 16, computing) > 2 * weights * 32 / 8e14
    assert pass_floor(replace(shape, batch=64), 32, 16, computing) == pytest.approx(
        64 * pass_floor(shape, 32, 16, computing), rel=1e-3
    )


TRAINING = Workload("train", TINY)
DECODING = Workload("decode", TINY, turns=1, cache="dual", prompt=2, block=4, mlp=2)


@pytest.mark.parametrize(
    ("work", "equal", "words"),
    [
        (DECODING, {"equal_tokens": 1}, "100.0% of the tokens equal"),
        pytest.param(TRAINING, {"loss_difference": 0}, "losses within 0.0e+00 relative", marks=pytest.mark.slow),
    ],
)
def test_a_checkout_is_compared_with_itself(work: Workload, equal: dict[str, float], words: str) -> None:
    cell = pair(Cell("tiny", work, "float32"), HERE, 2, 1)
    assert equal.items() <= cell.items()
    for ratio in (cell["ratio"], cell["cpu_ratio"]):
        assert 0 < ratio["least"] <= ratio["median"] <= ratio["largest"]
    assert min(cell[name] for name in ("ms", "other_ms", "cpu_ms", "other_cpu_ms", "float32_rate")) > 0
    assert words in pair_lines(cell)[1]


def test_rounds_that_vary_are_doubtful() -> None:
    steady = {"cell": "steady", "ratio": {"spread": 0.1}, "cpu_ratio": {"spread": 0.1}}
    assert doubtful([steady]) is None
    sentence = doubtful([steady, steady | {"cell": "busy", "ratio": {"spread": 0.3}}])
    assert sentence is not None
    assert "busy (elapsed);" in sentence
    assert "steady" not in sentence


@pytest.mark.slow
def test_checkouts_that_cannot_be_compared(tmp_path: Path) -> None:
    cell = Cell("tiny", TRAINING, "float32")
    with pytest.raises(ConfigError, match=r"is no checkout of unmask: it has no src/unmask/__init__.py\.$"):
        pair(cell, tmp_path, 1, 1)
    package = tmp_path / "src" / "unmask"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be compared with: its code has no 'prepare'\.$"):
        pair(cell, tmp_path, 1, 1)
    (package / "__init__.py").write_text("raise ValueError('an old mistake.')")
    with pytest.raises(RunError, match=r"ended: ValueError: an old mistake\.$"):
        pair(cell, tmp_path, 1, 1)


def test_the_plan_for_many_gpus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A GPU holds its share of the state, and receives what rings of FSDP2 send; without shards nothing is sent."""
    settings = DiTSettings(64, 63, 32, 32, 2, 1)
    monkeypatch.setattr(cluster, "NETWORKS", (cluster.Network("tiny", settings, 16),))
    meshes = (cluster.Mesh(1, 1), cluster.Mesh(1, 8), cluster.Mesh(2, 4), cluster.Mesh(1, 12))
    monkeypatch.setattr(cluster, "MESHES", meshes)
    assert main(["bench", "scale", "--plan", "--json"]) == 0
    alone, eight, pairs, uneven, run = json.loads(capsys.readouterr().out)["cells"]
    whole = 20 * parameter_count(settings)
    assert alone["held_bytes"] == whole == 8 * eight["held_bytes"] == 4 * pairs["held_bytes"]
    assert whole / 12 < uneven["held_bytes"] < whole / 8  # 32 rows are cut into chunks of 3, not of 2.67
    blocks = settings.blocks * (12 * 32**2 + 7 * 32)
    ends = parameter_count(settings) - blocks
    assert eight["gathered_bytes"] == 7 / 8 * (2 * 2 * blocks + 4 * ends)  # the blocks twice, in bfloat16
    assert eight["reduced_bytes"] == 7 / 8 * 4 * parameter_count(settings)
    assert pairs["summed_bytes"] == 2 * 1 / 2 * 4 * parameter_count(settings) / 4
    assert alone["gathered_bytes"] == alone["reduced_bytes"] == eight["summed_bytes"] == 0
    assert run["hours"] == pytest.approx(1e6 * alone["step_seconds"] / 3600)
    assert main(["bench", "scale", "--plan"]) == 0
    assert capsys.readouterr().out.count("tiny") == 5


def test_a_plan_computes_blocks_again_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """On small GPUs the rows go through in several passes, and on tiny ones nothing fits."""
    monkeypatch.setattr(cluster, "NETWORKS", (cluster.Network("tiny", DiTSettings(64, 63, 32, 32, 4, 1), 16),))
    monkeypatch.setattr(cluster, "MESHES", (cluster.Mesh(1, 2),))

    def turns(memory: float) -> tuple[int, bool]:
        cell = next(cluster.plan_cells(replace(cluster.MACHINE, memory=memory)))
        return cell["turns"], cell["computed_again"]

    assert turns(80e9) == (1, False)
    assert turns(1.4e6) == (1, True)
    assert turns(0.9e6)[0] > 1
    assert turns(0.5e6)[0] == 0


def test_a_plan_of_several_passes_has_the_gradient_of_all_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several passes need a GPU that holds it, and fewer rows fit beside it; one pass does not need it."""
    network = cluster.Network("tiny", DiTSettings(64, 63, 32, 32, 4, 1), 128)
    monkeypatch.setattr(cluster, "NETWORKS", (network,))
    monkeypatch.setattr(cluster, "MESHES", (cluster.Mesh(1, 8),))

    def cell(memory: float) -> dict[str, float]:
        return next(cluster.plan_cells(replace(cluster.MACHINE, memory=memory)))

    each, roomy = network.kept + network.block, cell(80e9)
    state = roomy["peak_bytes"] - 16 * 4 * network.block
    rest = 4 * parameter_count(network.settings) * 7 / 8  # 1/8 of the gradient is in what a GPU holds
    for rows, turns in ((11, 2), (8, 2), (7, 3), (1, 16)):
        small = cell((state + rest + (rows + 0.5) * each) / 0.9)
        assert small["turns"] == turns
        assert small["peak_bytes"] == pytest.approx(state + rest + -(-16 // turns) * each)
    assert cell((state + rest + 0.5 * each) / 0.9)["turns"] == 0  # a row would fit without it
    assert cell((state + 16.5 * each) / 0.9)["peak_bytes"] == pytest.approx(state + 16 * each)


def test_the_plan_of_the_small_network_is_that_of_the_docs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line; a single group ends at 64 GPUs, replicas of eight between 128 and 256."""
    text = (HERE / "docs/scale.md").read_text()
    monkeypatch.setattr(cluster, "NETWORKS", cluster.NETWORKS[:1])
    monkeypatch.setattr(cluster, "MESHES", [mesh for mesh in cluster.MESHES if mesh.size < 512])
    cells = list(cluster.plan_cells())
    assert [line for cell in cells for line in cluster.plan_lines(cell) if line not in text.splitlines()] == []
    slow = cluster.plan_lines(cells[0] | {"communication_seconds": 1.0})
    assert slow[1] not in text.splitlines()
    share = {cell["mesh"]: cell["compute_seconds"] / cell["communication_seconds"] for cell in cells}
    assert share["16 x 8"] > 1 > share["32 x 8"]
    assert share["64"] == pytest.approx(1, rel=0.05)


def test_until_the_last_pass_a_process_keeps_the_gradient_of_all_parameters() -> None:
    """What the plan counts, on the real wrapping; a pass whose gradients are reduced keeps its part alone."""
    settings = DiTSettings(64, 63, 32, 32, 2, 1)
    with cluster._pretended(8):
        shards = shard_network(build(settings), Group(0, 8), torch.device("cpu"), replicas=1, dtype=torch.bfloat16)

        def kept(*, last: bool) -> tuple[int, int]:
            shards.begin(last=last)
            with torch.autocast("cpu", torch.bfloat16):
                ids = torch.zeros(1, 32, dtype=torch.long)
                shards.network.logits(shards.network.hidden(ids)).sum().backward()
            units = [module._get_fsdp_state()._fsdp_param_group for module in shards.modules]
            params = [param for unit in units if unit is not None for param in unit.fsdp_params]
            whole = [p.unsharded_accumulated_grad for p in params] + [p._unsharded_param.grad for p in params]
            parts = [param.grad.to_local() for param in shards.params if param.grad is not None]
            return sum(grad.nbytes for grad in whole if grad is not None), sum(grad.nbytes for grad in parts)

        count = 4 * parameter_count(settings)
        assert kept(last=False) == (count, 0)
        assert kept(last=False) == (count, 0)
        assert kept(last=True) == (0, count // 8)


@pytest.mark.slow
@pytest.mark.long
def test_a_server_under_load_and_with_bad_clients(capsys: pytest.CaptureFixture[str]) -> None:
    """Every bad request gets an error with a sentence, rows of clients that vanish are freed, a kill -9 is seen."""
    assert main(["bench", "serve", "--quick", "--rounds", "1", "--clients", "2", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["served"] for cell in cells] == [2, 1, 2]
    assert not any(cell["errors"] for cell in cells)
    assert main(["bench", "serve", "--quick", "--faults", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) > 20
    assert [cell for cell in cells if not cell["right"]] == []
