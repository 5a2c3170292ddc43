"""`unmask reproduce mdlm-representations`: its cells, the table of accuracies, and claims with a margin."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.disk.json import fact_of
from unmask.errors import DataError, RequestError
from unmask.hf.packages import LABELLED
from unmask.reproduce.plan import cell_type
from unmask.reproduce.representations import Classified, Sizes, accuracies
from unmask.reproduce.results import Record
from unmask.reproduce.text import Claim, Fit, TextCell, TextOptions, TextQuestion
from unmask.reproduce.text_questions import plan_of
from unmask.reproduce.text_report import write_text_report
from unmask.reproduce.text_work import TEXT_RESULTS, perform_text

FAST = TextOptions("fast", (0,))


def test_backbones_share_their_trainings_and_each_seed_tests_a_fold_of_its_own() -> None:
    plan = plan_of("mdlm-representations", TextOptions())
    fits = {cell.name: cell for cell in plan.cells if isinstance(cell, Fit)}
    equal = {cell.name: cell for cell in plan_of("mdlm-baselines", TextOptions()).cells}
    assert all(equal[f"{label}-seed-2"] == fits[f"{label}-seed-2"] for label in ("AR", "MDLM"))
    mlm = fits["MLM-seed-2"].run
    assert mlm.model == replace(fits["MDLM-seed-2"].run.model, parameterization="mlm")
    assert mlm.train.eval_every == mlm.train.steps == fits["MDLM-seed-2"].run.train.steps
    tuned = [cell for cell in plan.cells if isinstance(cell, Classified) and cell.how == "tuned"]
    assert {(cell.seed, cell.fold) for cell in tuned} == {(0, 0), (1, 1), (2, 2)}
    assert len({cell.sizes for cell in tuned}) == 1


@pytest.mark.slow
@pytest.mark.cells
def test_the_cells_are_done_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    plan, records = plan_of("mdlm-representations", FAST), dict[str, Record]()
    for name, file in LABELLED.items():
        rows = [{"text": f"{word} {n}", "label": word} for n in range(20) for word in ("sweet", "sour")]
        path = tmp_path / "cache" / "texts" / name / file
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for cell in plan.cells:
        if isinstance(cell, Fit):
            train = replace(cell.run.train, steps=2, eval_every=2, batch=4, eval_draws=8)
            cell = replace(cell, run=replace(cell.run, train=train))
        result = perform_text(cell, tmp_path / "runs" / cell.name, tmp_path / "runs")
        shape = TEXT_RESULTS[cell_type(cell)]
        assert fact_of({"result": result}, ["result"], shape, tmp_path, DataError) is not None
        records[cell.name] = Record("done", "", 1.0, result)
    write_text_report(plan, records, tmp_path)
    text = (tmp_path / plan.name / "report.md").read_text()
    assert "| words | 1.0000 | 1.0000 | 1.0000 |" in text
    assert "| most frequent label | 0.5000 | 0.5000 | 0.5000 |" in text
    assert "| texts, tuned | 40 | 40 |" in text
    assert all(f"| {label} {how} | " in text for label in ("AR", "MLM", "MDLM") for how in ("frozen", "tuned"))
    facts = json.loads((tmp_path / plan.name / "results.json").read_text())
    assert [claim["verdict"] for claim in facts["claims"]] == ["undecided: one seed"] * 4


def verdict(differences: list[float], margin: float, folder: Path) -> str:
    """Differences of accuracy by seed -> the row of the claim that the second classifier is not worse."""
    cells: list[TextCell] = []
    records: dict[str, Record] = {}
    for seed, difference in enumerate(differences):
        for label, accuracy in (("MLM tuned", 0.6), ("MDLM tuned", 0.6 + difference)):
            for data, shift in (("a", 0.1), ("b", -0.1)):
                name = f"{label} on {data}"
                cell = Classified(f"{name}-{seed}", name, seed, "fit", data, "tuned", Sizes(9, 9, (1e-3,), 1, 1))
                cells.append(cell)
                result = {"folds": [accuracy + shift], "base": 0.5, "count": 9, "chosen": [0.1], "seconds": 1.0}
                records[cell.name] = Record("done", "", 1.0, result)
    claims = (Claim("not worse", "MLM tuned", "MDLM tuned", margin),)
    write_text_report(TextQuestion("claim", "", tuple(cells), claims, TextOptions()), records, folder)
    text = (folder / "claim" / "report.md").read_text()
    return next(line for line in text.splitlines() if line.startswith("| not worse"))


def test_a_claim_with_a_margin_is_held_where_the_loss_is_below_it(tmp_path: Path) -> None:
    assert "| held |" in verdict([-0.004, -0.005, -0.006], 0.01, tmp_path)
    assert "| refuted |" in verdict([-0.004, -0.005, -0.006], 0.0, tmp_path)
    assert "| refuted |" in verdict([-0.024, -0.025, -0.026], 0.01, tmp_path)
    assert "| undecided |" in verdict([-0.03, 0.01, 0.0], 0.01, tmp_path)
    assert "-0.0050 [-0.0075, -0.0025]" in verdict([-0.004, -0.005, -0.006], 0.01, tmp_path)


def test_without_the_texts_a_cell_is_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    monkeypatch.setattr("unmask.reproduce.text_work.model_of", lambda *_: None)
    cell = next(cell for cell in plan_of("mdlm-representations", FAST).cells if isinstance(cell, Classified))
    with pytest.raises(RequestError, match="'vader-movies' is not in the cache yet: run unmask fetch vader-movies"):
        perform_text(cell, tmp_path, tmp_path)


def test_the_mean_over_sets_needs_all_of_them() -> None:
    done = {"AR tuned on a": {0: {"folds": [0.5, 0.7]}, 1: {"folds": [0.8]}}, "AR tuned on b": {0: {"folds": [0.8]}}}
    values = accuracies(done)
    assert values["AR tuned on a"] == {0: pytest.approx(0.6), 1: 0.8}
    assert values["AR tuned"] == {0: pytest.approx(0.7)}
