"""The task antibody-cdr3 on a small synthetic stand-in: lineages, scores, what needs no model, and a whole run."""

import json
import sys
from itertools import product
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tests.extras import library
from tools.antibody import main as measure

from unmask.cli.main import main
from unmask.errors import DataError, RequestError
from unmask.hf.convert import _SAPIENS_TOKENS, _write
from unmask.model.encoder import Encoder
from unmask.model.settings import EncoderSettings
from unmask.tasks import antibody, judge, make
from unmask.tasks.antibody import RESIDUES, AntibodyCdr3, germline_likeness, most_frequent
from unmask.tasks.base import SPLITS

HEAD, TAIL = "EVQLVESGGGAVYYC", "WGQGTLVTVSS"


def chain(cdr3: str, clone: str = "", **facts: Any) -> dict[str, Any]:
    return {"sequence": HEAD + cdr3 + TAIL, "cdr3": cdr3, "cdr3_start": len(HEAD), "clone": clone, **facts}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def changed(cdr3: str, count: int, draw: Random) -> str:
    """A CDR3 in which `count` residues are others."""
    letters = list(cdr3)
    for at in draw.sample(range(len(letters)), count):
        letters[at] = draw.choice(sorted(RESIDUES - {letters[at]}))
    return "".join(letters)


def families(count: int = 60) -> list[dict[str, Any]]:
    """Four chains for each of `count` CDR3s: itself, of the same clone, equal with another clone, and similar."""
    draw, rows = Random(1), list[dict[str, Any]]()
    for n in range(count):
        cdr3 = "".join(draw.choices(sorted(RESIDUES), k=12))
        same = "".join(draw.choices(sorted(RESIDUES), k=15))
        rows += [chain(cdr3, f"a{n}"), chain(same, f"a{n}"), chain(cdr3, f"b{n}"), chain(changed(cdr3, 3, draw))]
    return rows


def split_of(task: AntibodyCdr3) -> dict[str, set[str]]:
    """The sequences of each split."""
    return {split: {text for _, text in task.pairs(split, 10_000)} for split in SPLITS}


def test_a_lineage_is_in_one_split_and_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without the rule about similar CDR3s some of them are on two sides."""
    rows = families()
    task = AntibodyCdr3(str(written(tmp_path / "chains.jsonl", rows)))

    def divided() -> list[set[str]]:
        parts = split_of(task)
        ours = [{row["sequence"] for row in rows[at : at + 4]} for at in range(0, len(rows), 4)]
        return [family for family in ours if sum(bool(family & part) for part in parts.values()) > 1]

    assert divided() == []
    counts = {split: len(task.examples(split, 10_000)) for split in SPLITS}
    assert sum(counts.values()) == 60
    assert counts["train"] > counts["test"] > counts["valid"] > 0
    monkeypatch.setattr(antibody, "_SAME", 1.1)
    antibody._lineages.cache_clear()
    assert len(divided()) > 10
    antibody._lineages.cache_clear()


def test_the_problem_shows_the_chain_and_the_score_is_the_share_of_true_residues(tmp_path: Path) -> None:
    task = make(f"antibody-cdr3:path={written(tmp_path / 'chains.jsonl', families())}")
    example = task.examples("test", 1)[0]
    assert example.template == f"{HEAD}[{len(example.answer)}]{TAIL}"
    wrong = changed(example.answer, 3, Random(2))
    assert judge(task, example, example.answer).score == 1
    verdict = judge(task, example, wrong)
    assert verdict.score == pytest.approx(1 - 3 / len(wrong))
    assert verdict.why == f"{len(wrong) - 3} of {len(wrong)} residues are right"
    for text in (example.answer[:-1], example.answer + "A", "*" * len(example.answer)):
        assert judge(task, example, text).score == 0


def test_a_hole_may_be_shorter_than_the_cdr3(tmp_path: Path) -> None:
    path = written(tmp_path / "chains.jsonl", families())
    whole, part = make(f"antibody-cdr3:path={path}"), make(f"antibody-cdr3:path={path},longest=5")
    for long, short in zip(whole.examples("test", 9), part.examples("test", 9), strict=True):
        at = (len(long.answer) - 5) // 2
        left, right = long.answer[:at], long.answer[at + 5 :]
        assert short.answer == long.answer[at : at + 5]
        assert short.template == f"{HEAD}{left}[5]{right}{TAIL}"
        assert judge(part, short, short.answer).score == 1


def test_the_most_frequent_residue_by_length_and_position() -> None:
    cdr3s = ["ARDY", "AKDY", "AKGY", "ARGGGFDY"]
    assert most_frequent(cdr3s, 4) == "AKDY"
    assert most_frequent(cdr3s, 8) == "ARGGGFDY"
    assert most_frequent(cdr3s, 6) == "AKDKDY"  # no CDR3 has six: the left half from the left, the right from the right
    assert len(most_frequent(cdr3s, 30)) == 30


def test_likeness_to_the_germline_counts_the_ends_of_genes() -> None:
    assert germline_likeness("ARNWFDP") == 1  # a V gene and a J gene alone
    assert germline_likeness("ARNWFDPP") < 0.5  # the same, shifted by a residue
    assert germline_likeness("ARGGGGNWFDP") == pytest.approx(7 / 11)
    assert germline_likeness("GGGGG") == 0
    assert germline_likeness("") == 0
    assert all(germline_likeness(a + b) <= 1 for a, b in product(("A", "AR", "AKD"), ("Y", "DY", "YYYYYGMDV")))


# ---- chains whose CDR3 is searched -----------------------------------------------------------------------------------


@pytest.fixture
def immunum(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package: the CDR3 is what lies between HEAD and TAIL."""

    class Annotator:
        def __init__(self, chains: list[str], scheme: str) -> None:
            assert (chains, scheme) == (["H", "K", "L"], "imgt")

        def segment(self, sequence: str) -> Any:
            inside = sequence.removeprefix(HEAD).removesuffix(TAIL)
            return SimpleNamespace(cdr3=None if inside == sequence else inside)

    module = ModuleType("immunum")
    module.Annotator = Annotator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "immunum", module)


@pytest.mark.usefixtures("immunum")
def test_chains_of_fasta_are_searched(tmp_path: Path) -> None:
    """Chains without a CDR3, and those with an unknown residue, are left out."""
    rows = families()
    lines = [f">{n}\n{row['sequence'][:20]}\n{row['sequence'][20:].lower()}\n" for n, row in enumerate(rows)]
    (tmp_path / "chains.fasta").write_text("".join(lines) + ">no\nACDEF\n>unknown\n" + f"{HEAD}XXAA{TAIL}\n")
    task = AntibodyCdr3(str(tmp_path / "chains.fasta"))
    parts = split_of(task)
    assert set.union(*parts.values()) == {row["sequence"] for row in rows}
    answers = {row["cdr3"] for row in rows}
    assert {example.answer for example in task.examples("test", 99)} <= answers


@pytest.mark.extras
def test_the_package_itself_finds_the_cdr3_of_a_chain() -> None:
    library("immunum", "antibody")
    heavy = (
        "QVQLVQSGAEVKRPGSSVTVSCKASGGSFSTYALSWVRQAPGRGLEWMGGVIPLLTITNYAPRFQGRITITADRSTSTAYLELNSLRPEDTAVYYC"
        "AREGTTGKPIGAFAHWGQGTLVTVSS"
    )
    light = (
        "DIQMTQSPSSLSASVGDRVTITCRASQSISSYLNWYQQKPGKAPKLLIYAASSLQSGVPSRFSGSGSGTDFTLTISSLQPEDFATYYCQQSYSTPLTFGGGTKVEIK"
    )
    assert antibody._searched(heavy) == "AREGTTGKPIGAFAH"
    assert antibody._searched(light) == "QQSYSTPLT"
    assert antibody._searched("ACDEFGHIKL") == ""


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "immunum", None)
    with pytest.raises(RequestError, match="run unmask fetch human-heavy-chains, or give a file of your own"):
        make("antibody-cdr3")
    with pytest.raises(RequestError, match=r"There is no file at 'no\.jsonl'; give a \.jsonl file with a sequence"):
        make("antibody-cdr3:path=no.jsonl")
    bare = written(tmp_path / "bare.jsonl", [{"sequence": "ACDEF"}])
    with pytest.raises(RequestError, match=r"searched with the package immunum: pip install 'unmask\[antibody\]'"):
        AntibodyCdr3(str(bare)).examples("test", 1)
    broken = written(tmp_path / "broken.jsonl", [chain("ARDY"), {"text": "ACDEF"}])
    with pytest.raises(DataError, match=r"broken\.jsonl, line 2 has no text 'sequence'; write rows such as"):
        AntibodyCdr3(str(broken)).examples("test", 1)
    (tmp_path / "cut.jsonl").write_text('{"sequence": "AC')
    with pytest.raises(DataError, match=r"cut\.jsonl, line 1 is not JSON"):
        AntibodyCdr3(str(tmp_path / "cut.jsonl")).examples("test", 1)
    other = written(tmp_path / "other.jsonl", [chain("ARXX"), {"sequence": "ACDEF", "cdr3": "WWW"}])
    with pytest.raises(DataError, match=r"other\.jsonl has no chain with a CDR3; give variable domains"):
        AntibodyCdr3(str(other)).examples("test", 1)
    single = written(tmp_path / "single.jsonl", [chain("ARDYWGQ")])
    place = next(split for split in SPLITS if split_is_empty(single, split))
    with pytest.raises(DataError, match=f"has 1 lineages of chains, and none of them is in the split '{place}'"):
        AntibodyCdr3(str(single)).examples(place, 1)


def split_is_empty(file: Path, split: str) -> bool:
    try:
        return not AntibodyCdr3(str(file)).examples(split, 1)
    except DataError:
        return True


# ---- a whole run -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
def test_a_masked_language_model_is_measured_and_a_policy_learned_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With random weights under the names and settings of Sapiens, and chains where `unmask fetch` puts them."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "cache" / "texts" / "human-heavy-chains" / "chains.jsonl", families(80))
    settings = EncoderSettings(
        vocab_size=25, mask_id=24, start_id=0, end_id=2, positions=64, width=16, blocks=1, heads=2, inner=32, first=2
    )
    torch.manual_seed(0)
    folder = tmp_path / "cache" / "models" / "sapiens"
    folder.parent.mkdir(parents=True)
    network = Encoder(settings)
    network.head_bias.data[_SAPIENS_TOKENS.index("A")] = 9.0  # some residues are right
    _write(folder, settings, network.state_dict(), _SAPIENS_TOKENS, "<unk>", "a stand-in")
    few = {"rounds": 1, "prompts": 2, "group": 2, "warm": 1, "pool": 16, "scored": 8, "valid-prompts": 2}
    words = [word for name, value in few.items() for word in (f"--learn.{name}", str(value))]
    learn = ["learn", "antibody", *words, "--learn.calibrated", "2", "--learn.threads", "1", "--learn.alphas", "1"]
    assert main([*learn, "--out", "policy"]) == 0
    sweep = ["frontier", "sapiens", "--task", "antibody-cdr3", "--count", "4", "--blocks", "full", "--workers", "1"]
    capsys.readouterr()
    assert main([*sweep, "--policies", "confidence", "learned:from=policy,dial=0.5", "--out", "sweep", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts["policies"]) == {"confidence", "learned:from=policy,dial=0.5"}
    table = [
        "antibody",
        "sapiens",
        "--count",
        "3",
        "--rules",
        "entropy-bound",
        "--learned",
        "policy",
        "--sweep",
        "sweep",
    ]
    monkeypatch.setattr(sys, "argv", [*table, "--sweep", "sweep", "--out", "table.json", "--plot", "table.png"])
    measure()
    truth, frequent, *others = json.loads(Path("table.json").read_text())
    assert (truth["recovery"], frequent["nats"]) == ([1, 1, 1], None)
    assert [line["rule"] for line in others] == ["entropy-bound"] * 2 + ["learned-0"] * 4
    assert all(line["passes"] >= 1 and line["nats"][1] <= line["nats"][0] <= line["nats"][2] for line in others)
    assert Path("table.png").stat().st_size > 10_000
    assert main(["learn", "--resume", "policy", "--learn.rounds", "2"]) == 0  # the model is named, not a path
