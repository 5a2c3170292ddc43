"""`unmask bench` on tiny sizes: what it prints, and that its arithmetic is that of the shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.bench.gpu import Speed, pass_floor
from unmask.bench.scaling import bench_scaling, scaling_table
from unmask.bench.timing import Shape
from unmask.cli.main import main


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
