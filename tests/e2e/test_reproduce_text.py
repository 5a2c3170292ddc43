"""`unmask reproduce mdlm-...`: cells of every class are done, reported, and claims are judged by their intervals."""

import json
import math
import random
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.config import from_dict, to_dict
from unmask.disk.json import fact_of
from unmask.errors import ConfigError, DataError, RequestError
from unmask.plots import can_draw
from unmask.reproduce import questions
from unmask.reproduce.dna import Composition, Probed
from unmask.reproduce.masks import MaskProbed
from unmask.reproduce.papers import PLACES
from unmask.reproduce.plan import CELLS, cell_type, needs
from unmask.reproduce.publish import hours, write_files
from unmask.reproduce.results import Record, is_same, write
from unmask.reproduce.rules import Tuned
from unmask.reproduce.soft import Solved
from unmask.reproduce.text import (
    Bounded,
    Claim,
    Diverged,
    Fit,
    Judged,
    Lengthened,
    Raced,
    Spread,
    TextCell,
    TextOptions,
    TextQuestion,
    Wrote,
)
from unmask.reproduce.text_questions import EVERY, QUESTIONS, plan_of
from unmask.reproduce.text_report import write_text_report
from unmask.reproduce.text_work import TEXT_RESULTS, perform_text

FAST = TextOptions("fast", (0,))


def tiny(cell: TextCell) -> TextCell:
    """A cell of the fast scale, smaller still."""
    if isinstance(cell, Fit):
        train = replace(cell.run.train, steps=2, eval_every=2, batch=4, eval_draws=8)
        return replace(cell, run=replace(cell.run, train=train))
    if isinstance(cell, MaskProbed):
        return replace(cell, count=4, counts=(0, 2))
    if isinstance(cell, Solved):
        return replace(cell, count=2)
    if isinstance(cell, Composition):
        return replace(cell, texts=4, length=12)
    if isinstance(cell, Probed):
        return replace(cell, count=40)
    if isinstance(cell, Wrote):
        return replace(cell, texts=2, length=6, window=cell.window and 4)
    if isinstance(cell, Diverged):
        return replace(cell, wrote=replace(cell.wrote, texts=4, length=8), clusters=2)
    if isinstance(cell, Lengthened):
        return replace(cell, texts=2, windows=2)
    if isinstance(cell, Raced):
        return replace(cell, texts=2, length=6, steps=4)
    return replace(cell, limit=4)


def zero_shot() -> Bounded:
    """The bound of MDLM on another text than that of its training."""
    cells = [cell for cell in plan_of("mdlm-zero-shot", FAST).cells if isinstance(cell, Bounded)]
    return next(cell for cell in cells if cell.label.startswith("MDLM"))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Record]]:
    """The folder and the records of some cells of every class."""
    folder = tmp_path_factory.mktemp("reproduce")
    plans = [plan_of(name, FAST) for name in ("mdlm-baselines", "mdlm-steps", "mdlm-schedules", "mdlm-generation")]
    every = {cell.name: cell for plan in plans for cell in plan.cells}
    rules = ("ancestral:steps=4", "left-to-right", "reverse:steps=4")
    wrote = [cell for cell in every.values() if isinstance(cell, Wrote) and cell.temperature == 1]
    some = [cell for cell in every.values() if not isinstance(cell, Wrote | Diverged)]
    some += [cell for cell in every.values() if isinstance(cell, Diverged)][:1]
    some += [*(cell for cell in wrote if cell.policy in rules), zero_shot()]
    some += [cell for cell in plan_of("mdlm-length", FAST).cells if isinstance(cell, Lengthened)][1::3]
    some += [cell for cell in plan_of("mdlm-precision", FAST).cells if isinstance(cell, Raced)][:1]
    records: dict[str, Record] = {}
    for cell in map(tiny, some):
        result = perform_text(cell, folder / "runs" / cell.name, folder / "runs")
        shape = TEXT_RESULTS[cell_type(cell)]
        assert fact_of({"result": result}, ["result"], shape, folder, DataError) is not None
        records[cell.name] = Record("done", "", 1.0, result)
    return folder, records


@pytest.mark.slow
@pytest.mark.cells
def test_another_judge_reads_the_texts_that_are_there(done: tuple[Path, dict[str, Record]]) -> None:
    """The AR model by its folder: the same measures as the cell of the texts has under it. The control is a text."""
    folder, records = done
    cells = [tiny(cell) for cell in plan_of("mdlm-generation", FAST).cells if cell.name in records]
    cell = next(cell for cell in cells if isinstance(cell, Wrote))
    (folder / "cells").mkdir(exist_ok=True)
    write(folder, cell, records[cell.name])
    path = str(folder / "runs" / cell.judge)
    judged = Judged("judged", cell.label, 0, cell.name, cell.training, path, cell.texts, cell.length)
    again = perform_text(judged, folder / "runs" / "judged", folder / "runs")
    assert again["written"][path] == records[cell.name].result["written"][cell.judge]
    shorter = perform_text(replace(judged, length=3), folder / "runs" / "judged", folder / "runs")
    assert shorter["written"][path] != again["written"][path]


def report(name: str, folder: Path, records: dict[str, Record]) -> str:
    plan = plan_of(name, FAST)
    complete = {cell.name: records.get(cell.name, Record()) for cell in plan.cells}
    write_text_report(plan, complete, folder)
    return (folder / name / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.cells
def test_cells_of_every_class_are_done_and_reported(done: tuple[Path, dict[str, Record]]) -> None:
    folder, records = done
    text = report("mdlm-baselines", folder, records)
    for label in ("AR", "MDLM", "SEDD", "D3PM"):
        assert f"| {label} | " in text
    assert "| AR < MDLM | " in text
    assert "undecided: one seed" in text
    assert "figures mean nothing" in text
    union = report(EVERY, folder, records)
    assert "| AR < MDLM | " in union
    assert not list((folder / EVERY).glob("*.png"))  # its cells belong to several pictures
    assert "| T = 10 | " in report("mdlm-steps", folder, records)
    assert "| cosine | " in report("mdlm-schedules", folder, records)
    result = records[zero_shot().name].result
    bound = result["bound"]
    size = bound["nats_per_token"] * bound["tokens"] / math.log(2) / bound["bits_per_byte"]  # of 4 rows of 32 tokens
    assert 128 < size == pytest.approx(round(size), abs=1e-6)
    assert result["eos"] == "append"
    assert "| MDLM on austen | " in report("mdlm-zero-shot", folder, records)
    written = report("mdlm-generation", folder, records)
    assert "| held-out texts | " in written
    assert "| MDLM-0.8" not in written
    assert "## MAUVE" in written
    assert "## Texts of several windows" in report("mdlm-length", folder, records)
    assert "| MDLM float32 Gumbel, 16 steps | " in report("mdlm-precision", folder, records)
    assert (folder / "mdlm-generation" / "table.csv").read_text().startswith("cell,label,seed,name,value\n")


@pytest.mark.slow
@pytest.mark.cells
def test_a_training_is_not_repeated_and_not_mixed_up(done: tuple[Path, dict[str, Record]]) -> None:
    """A cell whose run is there ends at once; one with other settings is refused."""
    folder, records = done
    fit = next(cell for cell in plan_of("mdlm-baselines", FAST).cells if isinstance(cell, Fit))
    cell = tiny(fit)
    again = perform_text(cell, folder / "runs" / cell.name, folder / "runs")
    assert again["bound"] == records[cell.name].result["bound"]
    assert isinstance(cell, Fit)
    other = replace(cell, run=replace(cell.run, train=replace(cell.run.train, lr=1e-4)))
    with pytest.raises(ConfigError, match="trained with other settings"):
        perform_text(other, folder / "runs" / cell.name, folder / "runs")


@pytest.mark.slow
@pytest.mark.cells
def test_models_are_trained_further_and_probed_for_masks(tmp_path: Path) -> None:
    """Of the few-shot task: the weights are those of the first training, changed; the report has table and picture."""
    plan = plan_of("kindred-mask-agnostic", FAST)
    some = [c for c in plan.cells if c.label.startswith("few-shot") and "twice" not in c.name]
    records = {cell.name: Record() for cell in plan.cells}
    for cell in map(tiny, some):
        result = perform_text(cell, tmp_path / "runs" / cell.name, tmp_path / "runs")
        shape = TEXT_RESULTS[cell_type(cell)]
        assert fact_of({"result": result}, ["result"], shape, tmp_path, DataError) is not None
        records[cell.name] = Record("done", "", 1.0, result)
    names = ("before", "bound", "mask-agnostic")
    results = [records[f"bound-few-shot-{name}-seed-0"].result for name in names]
    before, bound, ours = (result["bound"]["nats_per_token"] for result in results)
    assert bound < before - 0.05  # as many steps from new weights give the bound of the first training
    assert ours != before
    assert abs(ours - before) < 0.05
    write_text_report(plan, records, tmp_path)
    text = (tmp_path / plan.name / "report.md").read_text()
    assert "| few-shot mask-agnostic | " in text
    assert "few-shot: 2 MASKs at most." in text
    assert "| few-shot: total variation, mask-agnostic < bound | " in text
    assert (tmp_path / plan.name / "masks-few-shot.png").is_file() == can_draw()
    assert not (tmp_path / plan.name / "masks-text.png").exists()


@pytest.mark.slow
@pytest.mark.cells
def test_rules_are_tuned_on_validation_problems_and_measured_on_others(tmp_path: Path) -> None:
    """A cell goes on from its records; the report counts candidates, and nothing else has any."""
    plan = plan_of("kindred-rules", FAST)
    records = {cell.name: Record() for cell in plan.cells}
    for cell in plan.cells:
        folder = tmp_path / "runs" / cell.name
        if not isinstance(cell, Tuned):
            records[cell.name] = Record("done", "", 1.0, perform_text(cell, folder, tmp_path / "runs"))
            continue
        result = perform_text(replace(cell, valid=3, tests=5), folder, tmp_path / "runs")
        assert perform_text(replace(cell, valid=3, tests=5), folder, tmp_path / "runs") == result  # with its seconds
        shape = TEXT_RESULTS[cell_type(cell)]
        assert fact_of({"result": result}, ["result"], shape, tmp_path, DataError) is not None
        assert result["tried"] == 3
        more = any(row["row_passes"] > row["passes"] for row in result["rows"])
        assert more or "info-gain" not in cell.label
        assert not more or "info-gain" in cell.label or "freedave" in cell.label  # the control
        first = (folder / "valid.jsonl").read_text().splitlines()[0]
        assert first != (folder / "test.jsonl").read_text().splitlines()[0]  # other problems
        records[cell.name] = Record("done", "", 1.0, result)
    write_text_report(plan, records, tmp_path)
    lines = (tmp_path / plan.name / "report.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and " of 3 | " in line]
    names = [row[0].removeprefix("| ") for row in rows]
    assert sorted(names) == sorted(cell.label.split(" on ")[0] for cell in plan.cells if isinstance(cell, Tuned))
    for name, row in zip(names, rows, strict=True):
        area, counted = float(row[2].split(" [")[0]), float(row[4])
        assert counted <= area
        assert counted == area or name in ("info-gain", "freedave over prefix")


@pytest.mark.slow
@pytest.mark.cells
def test_models_are_trained_further_with_soft_masks(tmp_path: Path) -> None:
    """The weights of both parts are those of the first training, changed; the report has all that was measured."""
    plan = plan_of("kindred-soft-masks", FAST)
    some = [c for c in plan.cells if "as-long" not in c.name and ("wrote" not in c.name or "8-steps" in c.name)]
    records = {cell.name: Record() for cell in plan.cells}
    for cell in map(tiny, some):
        result = perform_text(cell, tmp_path / "runs" / cell.name, tmp_path / "runs")
        shape = TEXT_RESULTS[cell_type(cell)]
        assert fact_of({"result": result}, ["result"], shape, tmp_path, DataError) is not None
        records[cell.name] = Record("done", "", 1.0, result)
    for part in ("text", "Sudoku"):
        soft, plain = (records[f"bound-{part}-{arm}-masks-seed-0"].result["bound"] for arm in ("soft", "plain"))
        assert (soft["two_pass"], plain["two_pass"]) == (True, False)
        strength, slope, offset = records[f"{part}-soft-masks-seed-0"].result["scalars"]
        assert strength != 0
        assert slope > 0 > offset
    write_text_report(plan, records, tmp_path)
    text = (tmp_path / plan.name / "report.md").read_text()
    assert "not of the one that decodes: text: soft masks; Sudoku: soft masks." in text
    for row in (
        "text: bound of soft masks < plain masks",
        "text: soft masks confidence, 8 steps",
        "Sudoku: soft masks",
    ):
        assert f"| {row}" in text
    assert "| training | strength | slope | offset |" in text
    assert "| random at 0.25: accuracy of plain masks < soft masks | " in text
    assert (tmp_path / plan.name / "texts.png").is_file() == can_draw()


def test_a_cell_of_an_earlier_version_is_the_same_where_new_settings_have_their_defaults() -> None:
    fit = next(cell for cell in plan_of("mdlm-baselines", FAST).cells if isinstance(cell, Fit))
    recorded = json.loads(json.dumps(to_dict(fit)))
    assert is_same(fit, recorded)
    assert recorded["run"].pop("agnostic")
    assert recorded.pop("start") is None
    assert is_same(fit, recorded)
    recorded["run"]["train"]["lr"] = 1e-9
    assert not is_same(fit, recorded)
    assert not is_same(fit, {**recorded, "unknown": 1})


@pytest.mark.slow
@pytest.mark.cells
def test_the_question_about_dna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in a cache with a genome of yeast that is random; without it the probes say what to fetch."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    plan = plan_of("mdlm-dna", FAST)
    records: dict[str, Record] = {}
    probe = next(cell for cell in plan.cells if isinstance(cell, Probed))
    for cell in plan.cells:
        if cell == probe:
            with pytest.raises(RequestError, match="run unmask fetch yeast"):
                perform_text(tiny(cell), tmp_path / "runs" / cell.name, tmp_path / "runs")
            yeast = tmp_path / "cache" / "texts" / "yeast"
            yeast.mkdir(parents=True)
            letters = "".join(random.Random(0).choices("ACGT", k=60_000))
            (yeast / "yeast.fasta").write_text(f">chrI\n{letters}\n")
            rows = [f"chrI\tx\tCDS\t{at + 1}\t{at + 1000}\t.\t+\t0\t." for at in range(0, 60_000, 2000)]
            (yeast / "genes.gff3").write_text("\n".join(rows))
        result = perform_text(tiny(cell), tmp_path / "runs" / cell.name, tmp_path / "runs")
        shape = TEXT_RESULTS[cell_type(cell)]
        assert fact_of({"result": result}, ["result"], shape, tmp_path, DataError) is not None
        records[cell.name] = Record("done", "", 1.0, result)
    text = report("mdlm-dna", tmp_path, records)
    for label in ("DNA D3PM", "DNA MDLM both, averaged", "shuffled", "DNA MLM: coding", "DNA 3-mers: species"):
        assert f"| {label} | " in text
    assert (tmp_path / "mdlm-dna" / "kmers.png").is_file() == can_draw()
    assert records["DNA-MDLM-both-seed-0"].result != records["DNA-MDLM-seed-0"].result


def claim(differences: list[float], folder: Path) -> str:
    """The differences of the seeds -> the row of the claim."""
    cells: list[TextCell] = []
    records: dict[str, Record] = {}
    for seed, difference in enumerate(differences):
        for label, nats in (("low", 2.0 + seed), ("high", 2.0 + seed + difference)):
            cell = Bounded(f"{label}-{seed}", label, seed, "training", 1, None)
            bound = {"nats_per_token": nats, "stderr": 0.1, "tokens": 9}
            cells.append(cell)
            records[cell.name] = Record("done", "", 1.0, {"bound": bound})
    plan = TextQuestion("claim", "", tuple(cells), (Claim("low < high", "low", "high"),), TextOptions())
    write_text_report(plan, records, folder)
    text = (folder / "claim" / "report.md").read_text()
    return next(line for line in text.splitlines() if line.startswith("| low < high"))


def test_a_cell_that_changed_rewrites_the_reports_that_have_it_alone(tmp_path: Path) -> None:
    """Reports of the parts without the cell stay; without the name of the cell all are written (the control)."""
    plan = plan_of(EVERY, FAST)
    records = {cell.name: Record() for cell in plan.cells}
    write_text_report(plan, records, tmp_path)
    files = {part.name: tmp_path / part.name / "report.md" for part in plan.parts}
    for file in files.values():
        file.write_text("before")
    changed = zero_shot().name
    write_text_report(plan, records, tmp_path, changed)
    assert {name for name, file in files.items() if file.read_text() != "before"} == {"mdlm-zero-shot"}
    write_text_report(plan, records, tmp_path)
    assert all(file.read_text() != "before" for file in files.values())


def test_a_claim_is_held_or_refuted_where_the_interval_leaves_out_0(tmp_path: Path) -> None:
    """The interval is that of the differences of equal seeds; the levels of the seeds do not matter."""
    assert "| held |" in claim([0.10, 0.12, 0.11], tmp_path)
    assert "| refuted |" in claim([-0.10, -0.12, -0.11], tmp_path)
    assert "| undecided |" in claim([0.10, -0.12, 0.11], tmp_path)
    assert "+0.1100 [+0.0852, +0.1348]" in claim([0.10, 0.12, 0.11], tmp_path)
    assert "one seed" in claim([0.10], tmp_path)


def clashes(cells: Iterable[TextCell]) -> set[str]:
    """Cells -> the names that unequal ones have."""
    first: dict[str, TextCell] = {}
    return {cell.name for cell in cells if first.setdefault(cell.name, cell) != cell}


@pytest.mark.parametrize("scale", ["full", "fast", "published"])
def test_cells_of_equal_names_are_equal(scale: Any) -> None:
    """A cell of several questions is made once, for all of them, in any order; the control is another label."""
    cells = [cell for name in QUESTIONS for cell in plan_of(name, TextOptions(scale)).cells]
    assert len({cell.name for cell in cells}) < len(cells)
    assert not clashes(cells)
    assert clashes([*cells, replace(cells[0], label="-")]) == {cells[0].name}


@pytest.mark.parametrize("name", [*QUESTIONS, EVERY])
@pytest.mark.parametrize("scale", ["full", "fast", "published"])
def test_plans_are_in_the_order_of_work_and_are_read_back(name: str, scale: Any) -> None:
    plan = plan_of(name, TextOptions(scale))
    before: set[str] = set()
    for cell in plan.cells:
        assert set(needs(cell)) <= before
        before.add(cell.name)
        assert from_dict(CELLS[cell_type(cell)], asdict(cell), cell.name) == cell
    assert len(before) == len(plan.cells)
    assert needs(plan.cells[0]) == ()


def test_questions_share_their_trainings() -> None:
    """All of them together train fewer models than one after the other; the control is that they need the same."""
    together = [cell.name for cell in plan_of(EVERY, TextOptions()).cells if isinstance(cell, Fit)]
    parts = [name for name in QUESTIONS if name.startswith(EVERY)]
    apart = [cell.name for name in parts for cell in plan_of(name, TextOptions()).cells if isinstance(cell, Fit)]
    assert set(together) == set(apart)
    assert len(together) < len(apart)
    assert any(isinstance(cell, Spread) for cell in plan_of(EVERY, TextOptions()).cells)


def test_a_report_has_its_facts_as_json_and_a_page_with_its_picture_inside(tmp_path: Path) -> None:
    """results.json has claims and cells; index.html shows the table and needs no other file."""
    claim([0.10, 0.12, 0.11], tmp_path)
    folder = tmp_path / "claim"
    facts = json.loads((folder / "results.json").read_text())
    assert facts["claims"][0]["verdict"] == "held"
    assert facts["claims"][0]["mean"] == pytest.approx(0.11)
    assert facts["cells"]["low-0"]["result"]["bound"]["nats_per_token"] == 2.0
    assert {"unmask", "python", "torch"} <= facts["versions"].keys()
    assert "<td>low &lt; high</td>" in (folder / "index.html").read_text()

    picture = folder / "frontier.png"
    picture.write_bytes(b"\x89PNG")
    plan = TextQuestion("claim", "", (), (), TextOptions())
    for name, inside in (("frontier.png", True), ("missing.png", False)):  # the control has no file to put inside
        write_files(plan, {}, folder, f"![a picture]({name})\n<script>", "")
        page = (folder / "index.html").read_text()
        assert ("data:image/png;base64,iVBORw==" in page) == inside
        assert "<script>" not in page


def test_the_list_has_every_place_and_the_minutes_of_what_is_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The time left is estimated from the cells that are done: if they take twice as long, it is twice as long."""
    assert {place.question for place in PLACES} <= QUESTIONS.keys() | questions.QUESTIONS.keys()
    assert main(["reproduce", "list", "--json", "--out", str(tmp_path)]) == 0
    places = json.loads(capsys.readouterr().out)["places"]
    assert [place["item"] for place in places] == [place.item for place in PLACES]
    assert all(place["spent"] == 0 for place in places)
    plan = plan_of("mdlm-rates", TextOptions())
    first, *rest = plan.cells
    for seconds in (360.0, 720.0):
        records = {cell.name: Record() for cell in rest} | {first.name: Record("done", "", seconds)}
        spent, left = hours(plan, records)
        assert (spent, left) == (pytest.approx(seconds / 3600), pytest.approx(len(rest) * seconds / 3600))
