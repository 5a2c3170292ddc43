"""A sweep: the same problems for each setting, the same outcomes for any number of workers, and nothing lost."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from unmask.config import typed
from unmask.disk.checkpoint import write_checkpoint
from unmask.disk.folders import locate_policy
from unmask.errors import ConfigError, RequestError, RunError
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import policy_config
from unmask.policies.learned.settings import PolicySettings
from unmask.solve.problems import problems, solve
from unmask.solve.settings import Setting, settings_of
from unmask.solve.sweep import Bench, Outcome, open_bench, stamps, sweep
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


def by_key(outcomes: Iterable[Outcome]) -> dict[str, Outcome]:
    """Outcomes -> the same by the key of their setting."""
    return {outcome.setting.key: outcome for outcome in outcomes}


def test_a_stopped_sweep_continues(tmp_path: Path) -> None:
    """Recorded outcomes are read and not computed again; a line that was cut off is."""
    record = tmp_path / "outcomes.jsonl"
    whole = by_key(sweep(open_bench, ARGUMENTS, SETTINGS, workers=1, record=record))
    lines = record.read_text().splitlines()
    doctored = json.loads(lines[1])
    doctored["scores"] = [0.5] * 12
    record.write_text("\n".join([lines[0], json.dumps(doctored), lines[2][:40]]))
    again = by_key(sweep(open_bench, ARGUMENTS, SETTINGS, workers=1, record=record))
    first, second, third = (setting.key for setting in SETTINGS)
    assert again[first].scores == [0.5] * 12  # taken from the record
    for key in (second, third):
        assert (again[key].scores, again[key].passes) == (whole[key].scores, whole[key].passes)
    assert len(record.read_text().splitlines()) == 5  # the cut line stays, and is ignored
    with pytest.raises(ConfigError, match="another sweep"):
        list(sweep(open_bench, ARGUMENTS | {"seed": 4}, SETTINGS, workers=1, record=record))


def test_outcomes_of_something_else_are_not_used(tmp_path: Path) -> None:
    """Weights that were written again, or an edited file of a task, make the outcomes be computed again."""
    record, calls = tmp_path / "outcomes.jsonl", []

    def build(**arguments: Any) -> Bench:
        calls.append(arguments)
        return open_bench(**arguments)

    def names(stamp: str) -> int:
        return len(list(sweep(build, ARGUMENTS, SETTINGS[:1], workers=1, record=record, stamp=lambda _: stamp)))

    assert [names("a"), len(calls), names("a"), len(calls), names("b"), len(calls)] == [1, 1, 1, 1, 1, 2]
    task = tmp_path / "mine.py"
    source = "from unmask.tasks.automaton import Automaton\n\n\nclass Mine(Automaton):\n    pass\n"
    task.write_text(source)
    with typed([f"{task}:Mine"]):
        before = stamps("automaton", f"{task}:Mine")(SETTINGS[0])
        assert stamps("automaton", f"{task}:Mine")(SETTINGS[0]) == before
        task.write_text(source + "\n\nCHANGED = True\n")
        assert stamps("automaton", f"{task}:Mine")(SETTINGS[0]) != before
    plain = stamps("automaton", "automaton")
    assert plain(Setting("threshold")) == plain(Setting("random")) != plain(Setting("learned:from=automaton,dial=0.1"))
    assert plain(Setting("somebody:from=nowhere")) == plain(Setting("threshold"))  # a plug-in's own option
    both = "threshold or early-stop over learned:from=automaton,dial=0.1"
    assert plain(Setting(both)) == plain(Setting("learned:from=automaton"))
    folder = tmp_path / "policy"
    shutil.copytree(locate_policy("automaton"), folder)
    old = stamps("automaton", "automaton")(Setting(f"learned:from={folder},dial=0.1"))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert stamps("automaton", "automaton")(Setting(f"learned:from={folder},dial=0.1")) != old


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_the_outcomes() -> None:
    single, several = (by_key(sweep(open_bench, ARGUMENTS, SETTINGS, workers=workers)) for workers in (1, 2))
    assert single.keys() == several.keys()
    for key, outcome in single.items():
        assert (outcome.scores, outcome.passes) == (several[key].scores, several[key].passes)


def test_the_verifier_gets_the_written_text() -> None:
    """Scores and passes are the same in batches of one and in one batch; the control is a policy of one pass."""
    bench = open_bench(**ARGUMENTS)
    decoder = bench.decoder(Setting("threshold:threshold=0.97"))
    scores, passes, row_passes = solve(
        decoder, bench.task, bench.problems, bench.tokenizer, device=bench.device, seed=3
    )
    assert 0.5 < sum(scores) / 12 <= 1
    assert all(1 <= count <= 24 for count in passes)
    alone = solve(decoder, bench.task, bench.problems, bench.tokenizer, device=bench.device, seed=3, batch=1)
    assert alone == (scores, passes, row_passes)
    assert row_passes == passes
    one_pass = bench.decoder(Setting("random:steps=1"))
    control = solve(one_pass, bench.task, bench.problems, bench.tokenizer, device=bench.device)
    assert control[0] != scores


def test_settings_are_every_knob_with_every_block() -> None:
    settings = settings_of(["threshold", "confidence"], [None, 6, 24], 24)
    keys = [setting.key for setting in settings]
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


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_with_its_setting_and_task(tmp_path: Path) -> None:
    """Its setting may be any of them."""
    task = tmp_path / "mine.py"
    task.write_text(
        "import os\nfrom unmask.tasks.automaton import Automaton\n\n\nclass Mine(Automaton):\n"
        "    def examples(self, split, count, seed=0):\n        os._exit(3)\n"
    )
    keys = "|".join(re.escape(setting.key) for setting in SETTINGS[:2])
    sentence = rf"^({keys}) on {task}:Mine: its process ended with code 3 before it had a result\.$"
    with typed([f"{task}:Mine"]), pytest.raises(RunError, match=sentence):
        list(sweep(open_bench, ARGUMENTS | {"task": f"{task}:Mine"}, SETTINGS[:2], workers=2))


def test_a_hole_of_free_length_is_refused() -> None:
    tokenizer = open_bench(**ARGUMENTS).tokenizer
    with pytest.raises(RequestError, match="no fixed length"):
        problems([Example("ab[1-3]", "abc")], tokenizer)


def test_the_eos_heavy_automaton_fails_as_published() -> None:
    """With the same threshold blocks are right where the whole canvas is wrong; left-to-right needs no blocks."""
    arguments = ARGUMENTS | {"checkpoint": "automaton_eos", "task": "automaton:traces=long", "count": 64}
    settings = [
        Setting("threshold:threshold=0.9"),
        Setting("threshold:threshold=0.9", 6),
        Setting("left-to-right:steps=12"),
    ]
    whole, blocks, left = (outcome.accuracy for outcome in sweep(open_bench, arguments, settings, workers=1))
    assert whole < 0.15 < blocks - 0.2
    assert left > 0.6
    control = ARGUMENTS | {"task": "automaton:traces=long", "count": 64}  # the model that is not EOS-heavy
    (calibrated,) = (outcome.accuracy for outcome in sweep(open_bench, control, settings[:1], workers=1))
    assert calibrated > 0.4
    assert make("automaton:traces=long").name in ("automaton:length=24,traces=long",)


def test_a_policy_without_a_cost_input_and_a_saved_pace_are_one_setting(tmp_path: Path) -> None:
    network = PolicyNetwork(PolicySettings(features=("confidence",), priced=False))
    write_checkpoint(tmp_path / "p", network.state_dict(), policy_config(network.settings, {}, ()), card="")
    name = f"learned:from={tmp_path / 'p'}"
    assert settings_of([name], [None], 24) == [Setting(name)]
    saved = tmp_path / "pace.json"
    saved.write_text(json.dumps({"paces": {"3": [8, 8, 8]}}))
    assert settings_of([f"random:pace={saved}"], [None], 24) == [Setting(f"random:pace={saved}")]


def test_a_task_without_problems(tmp_path: Path) -> None:
    task = tmp_path / "none.py"
    task.write_text(
        "from unmask.tasks.automaton import Automaton\n\n\nclass Mine(Automaton):\n"
        "    def examples(self, split, count, seed=0):\n        return []\n"
    )
    with (
        typed([f"{task}:Mine"]),
        pytest.raises(RequestError, match="has no problems of the split that was asked for"),
    ):
        open_bench("automaton", f"{task}:Mine", "valid", 12, 3, 0.0)
