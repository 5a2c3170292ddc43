"""A damaged newest checkpoint: the one before is offered with a command, which goes on to the same bits."""

import json
import shlex
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unmask.cli.main import main
from unmask.disk.folders import latest, resolve, step_folder
from unmask.run import metrics

TINY = (
    "--data.length 16 --model.width 16 --model.heads 2 --model.blocks 1 --train.batch 2 --train.steps 6 "
    "--train.save-every 2 --train.eval-every 4 --train.keep 3 --dtype float32 --threads 1"
)


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Generator[None]:
    """No curves are drawn, which takes longer than these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "can_draw", lambda: False)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with its checkpoints of steps 2, 4 and 6; in tests it is copied."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 60)
    words = ["train", "--data.source", str(folder / "text.txt"), *TINY.split(), "--out", str(folder / "run")]
    assert main(words) == 0
    return folder / "run"


def cut(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-5])


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


SHARD = "state/shard-00001-model-00001-of-00001.safetensors"
PLACES = "DCP_SHARDING_INFO"


def without(file: Path, beginning: str) -> None:
    """The tensors whose names begin so are left out."""
    change(file, lambda tensors, _: [tensors.pop(name) for name in list(tensors) if name.startswith(beginning)])


def change(file: Path, do: Callable[[dict[str, torch.Tensor], dict[str, Any]], object]) -> None:
    """`do` changes the tensors of a shard and their places."""
    with safe_open(file, "pt") as opened:
        facts = opened.metadata()
    tensors, places = load_file(file), json.loads(facts[PLACES])
    do(tensors, places)
    save_file(tensors, file, metadata=facts | {PLACES: json.dumps(places)})


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights cut off": lambda folder: cut(folder, "model.safetensors"),
    "state cut off": lambda folder: cut(folder, SHARD),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "no shard": lambda folder: (folder / SHARD).unlink(),
    "a shard too many": lambda folder: shutil.copy(
        folder / SHARD, folder / SHARD.replace("shard-00001", "shard-00002")
    ),
    "more shards": lambda folder: edit(folder, "state/state.json", lambda facts: facts["shards"].update(processes=2)),
    "no shards": lambda folder: edit(folder, "state/state.json", lambda facts: facts.pop("shards")),
    "no step": lambda folder: edit(folder, "state/state.json", lambda facts: facts.pop("step")),
    "a step that is a text": lambda folder: edit(folder, "state/state.json", lambda facts: facts.update(step="6")),
    "NaN": lambda folder: (folder / "state" / "state.json").write_text('{"step": NaN}'),
    "configuration": lambda folder: (folder / "config.json").write_text("{"),
    "record": lambda folder: (folder / "run.json").write_text('{"settings": '),
    "a shard of another checkpoint": lambda folder: shutil.copy(
        step_folder(folder.parents[1], 4) / SHARD, folder / SHARD
    ),
    "the step of another": lambda folder: edit(folder, "state/state.json", lambda facts: facts.update(step=4)),
    "a step below 0": lambda folder: edit(folder, "state/state.json", lambda facts: facts.update(step=-1)),
    "a shard without tensors": lambda folder: save_file({}, folder / SHARD),
    "a shard without places": lambda folder: save_file(load_file(folder / SHARD), folder / SHARD),
    "no optimizer": lambda folder: without(folder / SHARD, "optimizer/"),
    "no averages": lambda folder: without(folder / SHARD, "ema/"),
    "other names": lambda folder: change(
        folder / SHARD,
        lambda tensors, places: (tensors.update(a=torch.zeros(1)), places.update(a={"saved_offsets": [0]})),
    ),
    "other shapes": lambda folder: change(
        folder / SHARD, lambda tensors, _: tensors.update({name: tensors[name][:-1] for name in ("raw/norm.weight",)})
    ),
    "a place with a gap": lambda folder: change(
        folder / SHARD, lambda _, places: places["raw/norm.weight"].update(saved_offsets=[1])
    ),
    "a place below 0": lambda folder: change(
        folder / SHARD, lambda _, places: places["raw/norm.weight"].update(saved_offsets=[-1])
    ),
    "a place with two axes": lambda folder: change(
        folder / SHARD, lambda _, places: places["raw/norm.weight"].update(saved_offsets=[0, 0])
    ),
    "a list as architecture": lambda folder: edit(folder, "config.json", lambda c: c.update(architecture=["dit"])),
    "a number as settings": lambda folder: edit(folder, "run.json", lambda record: record.update(settings=5)),
    "a number as split": lambda folder: edit(folder, "run.json", lambda record: record.update(split=5)),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_is_offered(
    run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run with a space"))
    newest, before = step_folder(copy, 6), step_folder(copy, 4)
    DAMAGES[damage](newest)
    assert main(["train", "--resume", str(copy)]) == 2
    error = capsys.readouterr().err
    command = shlex.join(["unmask", "train", "--resume", str(before)])
    assert error.endswith(f"The checkpoint before it is whole; go on from there: {command}\n"), error
    assert error.count("unmask: ") == 1
    assert newest.name in error.splitlines()[-1]


def test_a_damaged_one_before_is_passed_over(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for step in (6, 4):
        DAMAGES["state cut off"](step_folder(copy, step))
    assert main(["train", "--resume", str(copy)]) == 2
    assert capsys.readouterr().err.endswith(f"unmask train --resume {step_folder(copy, 2)}\n")
    DAMAGES["state cut off"](step_folder(copy, 2))
    assert main(["train", "--resume", str(copy)]) == 2
    assert "The checkpoint before" not in capsys.readouterr().err


def test_the_offered_command_goes_on_to_the_same_bits(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The damaged checkpoint is kept under another name; so is one that is only newer. The control: nothing to do."""
    whole = (step_folder(run, 6) / "model.safetensors").read_bytes()
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    assert main(["train", "--resume", str(copy), "--json"]) == 0
    assert not list(copy.glob("checkpoints/aside-*"))
    capsys.readouterr()
    for number, damage in enumerate(("weights cut off", None)):
        if damage is not None:
            DAMAGES[damage](step_folder(copy, 6))
        monkeypatch.chdir(copy / "checkpoints")  # a relative path of one word, too
        assert main(["train", "--resume", "step-00000004" if number else str(step_folder(copy, 4))]) == 0
        aside = f"aside-step-00000006{'-2' if number else ''}"
        assert "The run goes on from step-00000004; a newer checkpoint was renamed to" in capsys.readouterr().err
        assert (copy / "checkpoints" / aside / "state").is_dir()
        assert (step_folder(copy, 6) / "model.safetensors").read_bytes() == whole
        steps = [json.loads(line)["step"] for line in (copy / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps)
        assert latest(copy) == step_folder(copy, 6)


@pytest.mark.parametrize("damage", ["weights cut off", "configuration", "record"])
def test_a_reader_of_a_run_is_shown_its_other_checkpoints(
    run: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    best = resolve(copy)
    DAMAGES[damage](best)
    others = ", ".join(str(step_folder(copy, step)) for step in (6, 4, 2))
    for words in (["info", str(copy)], ["generate", str(copy), "to"], ["eval", str(copy)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.endswith(f" Other checkpoints of this run: {others}.\n")
        assert error.count(others) == 1
    assert main(["info", str(best)]) == 2  # the control: this one was asked for by its path
    assert "Other checkpoints" not in capsys.readouterr().err
