"""A sweep gives each setting the same problems, any number of workers the same outcomes, and loses nothing."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from unmask.disk.checkpoint import write_checkpoint
from unmask.disk.folders import locate_policy
from unmask.errors import ConfigError, RequestError
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import policy_config
from unmask.policies.learned.settings import PolicySettings
from unmask.solve.problems import problems, solve
from unmask.solve.settings import Setting, settings_of
from unmask.solve.sweep import Bench, open_bench, stamps, sweep
from unmask.tasks import make
from unmask.tasks.base import Example

ARGUMENTS: dict[str, Any] = {
    "checkpoint": "automaton",
    "task": "automaton",
    "split": "valid",
    "count": 12,
    "seed": 3,
    "temperature": 0.0,
    "device": "cpu",
}
SETTINGS = [Setting("threshold:threshold=0.9"), Setting("confidence:steps=12"), Setting("random:steps=3", 6)]


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    """What is on the record is read and not done again; a line cut in the middle is done again."""
    record = tmp_path / "outcomes.jsonl"
    whole = {one.setting.key: one for one in sweep(open_bench, ARGUMENTS, SETTINGS, workers=1, record=record)}
    lines = record.read_text().splitlines()
    doctored = json.loads(lines[1])
    doctored["scores"] = [0.5] * 12
    record.write_text("\n".join([lines[0], json.dumps(doctored), lines[2][:40]]))
    again = {one.setting.key: one for one in sweep(open_bench, ARGUMENTS, SETTINGS, workers=1, record=record)}
    first, second, third = (setting.key for setting in SETTINGS)
    assert again[first].scores == [0.5] * 12  # taken from the record
    for key in (second, third):
        assert (again[key].scores, again[key].passes) == (whole[key].scores, whole[key].passes)
    assert len(record.read_text().splitlines()) == 5  # the cut line stays, and counts for nothing
    with pytest.raises(ConfigError, match="another sweep"):
        list(sweep(open_bench, ARGUMENTS | {"seed": 4}, SETTINGS, workers=1, record=record))


def test_outcomes_of_something_else_are_not_used(tmp_path: Path) -> None:
    """Weights that were written again, or a task's file that was edited, make a sweep begin anew."""
    record, calls = tmp_path / "outcomes.jsonl", []

    def build(**arguments: Any) -> Bench:
        calls.append(arguments)
        return open_bench(**arguments)

    def names(stamp: str) -> int:
        return len(list(sweep(build, ARGUMENTS, SETTINGS[:1], workers=1, record=record, stamp=lambda _: stamp)))

    assert [names("a"), len(calls), names("a"), len(calls), names("b"), len(calls)] == [1, 1, 1, 1, 1, 2]
    task = tmp_path / "mine.py"
    mine = "from unmask.tasks.automaton import Automaton\n\n\nclass Mine(Automaton):\n    pass\n"
    task.write_text(mine)
    before = stamps("automaton", f"{task}:Mine")(SETTINGS[0])
    assert stamps("automaton", f"{task}:Mine")(SETTINGS[0]) == before
    task.write_text(mine + "\n\nCHANGED = True\n")
    assert stamps("automaton", f"{task}:Mine")(SETTINGS[0]) != before
    plain = stamps("automaton", "automaton")
    assert plain(Setting("threshold")) == plain(Setting("random")) != plain(Setting("learned:from=automaton,dial=0.1"))
    assert plain(Setting("somebody:from=nowhere")) == plain(Setting("threshold"))  # a plug-in's own option
    both = "threshold or early-stop over learned:from=automaton,dial=0.1"
    assert plain(Setting(both)) == plain(Setting("learned:from=automaton"))
    folder = tmp_path / "policy"
    shutil.copytree(locate_policy("automaton"), folder)
    one = stamps("automaton", "automaton")(Setting(f"learned:from={folder},dial=0.1"))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert stamps("automaton", "automaton")(Setting(f"learned:from={folder},dial=0.1")) != one


@pytest.mark.slow
def test_workers_do_not_change_what_is_found() -> None:
    alone = {one.setting.key: (one.scores, one.passes) for one in sweep(open_bench, ARGUMENTS, SETTINGS, workers=1)}
    shared = {one.setting.key: (one.scores, one.passes) for one in sweep(open_bench, ARGUMENTS, SETTINGS, workers=2)}
    assert alone == shared


def test_the_verifier_sees_what_was_written() -> None:
    """Scores are those of the task for the very texts, and a batch of one gives the same as all together."""
    bench = open_bench(**ARGUMENTS)
    decoder = bench.decoder(Setting("threshold:threshold=0.97"))
    scores, passes = solve(decoder, bench.task, bench.problems, bench.tokenizer, device=bench.device, seed=3)
    assert 0.5 < sum(scores) / 12 <= 1
    assert all(1 <= spent <= 24 for spent in passes)
    alone = solve(decoder, bench.task, bench.problems, bench.tokenizer, device=bench.device, seed=3, batch=1)
    assert alone == (scores, passes)
    blind = bench.decoder(Setting("random:steps=1"))
    control = solve(blind, bench.task, bench.problems, bench.tokenizer, device=bench.device)
    assert control[0] != scores


def test_settings_are_every_knob_with_every_block() -> None:
    found = settings_of(["threshold", "confidence"], [None, 6, 24], 24)
    keys = [one.key for one in found]
    assert len(keys) == len(set(keys))
    assert "threshold:threshold=0.9 @ full" in keys
    assert "threshold:threshold=0.9 @ 6" in keys
    assert "confidence:steps=24 @ full" in keys
    assert "confidence:steps=6 @ 6" in keys
    assert "confidence:steps=24 @ 6" not in keys  # no block has more passes than positions
    assert not any(key.endswith("@ 24") for key in keys)  # a block as long as the canvas is no block
    assert settings_of(["threshold:threshold=0.42"], [None], 24) == [Setting("threshold:threshold=0.42")]
    assert len(settings_of(["learned:from=automaton"], [None], 24)) == 41
    assert len(settings_of(["learned:from=automaton,passes=7"], [None], 24)) == 1
    with pytest.raises(RequestError, match="did you mean 'threshold'"):
        settings_of(["treshold"], [None], 24)


def test_a_hole_of_free_length_is_refused() -> None:
    tokenizer = open_bench(**ARGUMENTS).tokenizer
    with pytest.raises(RequestError, match="no fixed length"):
        problems([Example("ab[1-3]", "abc")], tokenizer)


def test_the_eos_heavy_automaton_fails_as_published() -> None:
    """At one threshold blocks save what the whole canvas loses, and reading from the left needs no blocks."""
    arguments = ARGUMENTS | {"checkpoint": "automaton_eos", "task": "automaton:traces=long", "count": 64}
    settings = [
        Setting("threshold:threshold=0.9"),
        Setting("threshold:threshold=0.9", 6),
        Setting("left-to-right:steps=12"),
    ]
    whole, blocks, left = (one.accuracy for one in sweep(open_bench, arguments, settings, workers=1))
    assert whole < 0.15 < blocks - 0.2
    assert left > 0.6
    honest = ARGUMENTS | {"task": "automaton:traces=long", "count": 64}  # the control: the one that is not EOS-heavy
    (calibrated,) = (one.accuracy for one in sweep(open_bench, honest, settings[:1], workers=1))
    assert calibrated > 0.4
    assert make("automaton:traces=long").name in ("automaton:length=24,traces=long",)


def test_a_policy_without_a_price_and_a_saved_pace_are_taken_as_they_stand(tmp_path: Path) -> None:
    network = PolicyNetwork(PolicySettings(features=("confidence",), priced=False))
    write_checkpoint(tmp_path / "p", network.state_dict(), policy_config(network.settings, {}, None), card="")
    one = f"learned:from={tmp_path / 'p'}"
    assert settings_of([one], [None], 24) == [Setting(one)]
    saved = tmp_path / "one.json"
    saved.write_text(json.dumps({"paces": {"3": [8, 8, 8]}}))
    assert settings_of([f"random:pace={saved}"], [None], 24) == [Setting(f"random:pace={saved}")]


def test_a_task_without_problems(tmp_path: Path) -> None:
    task = tmp_path / "none.py"
    task.write_text(
        "from unmask.tasks.automaton import Automaton\n\n\nclass Mine(Automaton):\n"
        "    def examples(self, split, count, seed=0):\n        return []\n"
    )
    with pytest.raises(RequestError, match="has no problems of the split that was asked for"):
        open_bench("automaton", f"{task}:Mine", "valid", 12, 3, 0.0)
