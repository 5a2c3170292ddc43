"""`unmask bench` on tiny sizes: what it prints, and that its arithmetic is that of the shapes."""

import json
from pathlib import Path

import pytest

from unmask.bench.scaling import bench_scaling, scaling_table
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
