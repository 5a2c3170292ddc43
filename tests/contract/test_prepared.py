"""Folders of prepared data: the same files whatever the workers and interruptions, trained on as they are, checked."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.extras import library

from unmask.cli.main import main
from unmask.data import build
from unmask.data.folder import check_folder, open_prepared, prepare_folder, prepared_settings
from unmask.data.packed import Corpus
from unmask.data.prepare import prepare, turn
from unmask.data.settings import DataSettings
from unmask.errors import ConfigError, DataError, RunError
from unmask.text.build import char_tokenizer

SHARD = 1 << 15


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new cache for each test."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """400 documents in a .jsonl file, 300 kB."""
    path = tmp_path / "rows.jsonl"
    texts = [f"Document {n}.\n\n" + f"Line {n * n} of it.\n" * (1 + n % 90) for n in range(400)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def asked(source: Path | str, **values: object) -> DataSettings:
    return DataSettings(source=str(source), **{"tokenizer": "byte", "length": 32, **values})  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same_rows(left: Corpus, right: Corpus) -> bool:
    pairs = [(getattr(left, part), getattr(right, part)) for part in ("train", "valid")]
    fields = ("ids", "first", "last")
    return all(np.array_equal(np.asarray(getattr(a, f)), np.asarray(getattr(b, f))) for a, b in pairs for f in fields)


@pytest.mark.parametrize("form", [{}, {"rows": "whole"}, {"eos": "none", "tokenizer": "bpe", "vocab_size": 300}])
def test_rows_are_those_of_the_cache_whatever_the_size_of_a_shard(
    rows: Path, tmp_path: Path, form: dict[str, object]
) -> None:
    settings = asked(rows, **form)
    whole, parts = prepare(settings), prepare_folder(settings, tmp_path / "out", SHARD)
    assert len(list((tmp_path / "out").glob("train-*.rows"))) > 5
    assert same_rows(whole, parts)
    assert whole.fingerprint == parts.fingerprint
    assert whole.facts == parts.facts
    assert not same_rows(whole, prepare(asked(rows, **{**form, "valid_share": 0.2})))  # the control
    picked = np.random.default_rng(0).integers(0, len(parts.train), 50)
    assert all(map(np.array_equal, whole.train.batch(picked), parts.train.batch(picked)))
    assert np.array_equal(np.asarray(whole.train.after(77).ids), np.asarray(parts.train.after(77).ids))
    assert whole.train.after(77).tokens == parts.train.after(77).tokens
    assert np.array_equal(parts.train.ids[5], whole.train.ids[5])
    with pytest.raises(IndexError):
        parts.train.ids[[len(parts.train)]]


def test_files_do_not_depend_on_the_number_of_processes(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_BATCH_CHARACTERS", 1 << 15)
    for workers in (1, 2):
        prepare_folder(asked(rows, workers=workers), tmp_path / str(workers), SHARD)
    assert files(tmp_path / "1") == files(tmp_path / "2")


KILLED = """
import sys
from pathlib import Path
from unmask.data import build, folder
from unmask.data.settings import DataSettings
build._RECORD_EVERY = build._BATCH_CHARACTERS = 1 << 14
settings = DataSettings(source=sys.argv[1], tokenizer="byte", length=32, rows=sys.argv[3])
print("begin", flush=True)
folder.prepare_folder(settings, Path(sys.argv[2]), 1 << 15, report=lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("form", ["stream", "whole"])
def test_work_that_is_killed_goes_on(rows: Path, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed three times, each time a few records further on; the control is the bytes that a start has done."""
    out, starts = tmp_path / "out", list[int]()
    for reports in (2, 4, 3, None):
        command = [sys.executable, "-c", KILLED, str(rows), str(out), form]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [line for line, _ in zip(process.stdout, range(reports or 10**6), strict=False)]
        if reports is not None:
            process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        starts += [int(line) for line in lines[1:2]]
        if len(starts) == 1:  # of other data, and not whole
            assert main(["train", "--data.source", str(out), "--dry"]) == 2
            assert "is not prepared to its end" in capsys.readouterr().err
            with pytest.raises(DataError, match="has the beginning of data of another text, or with other options"):
                prepare_folder(asked(rows, rows=form, valid_share=0.3), out, SHARD)
    assert process.returncode == 0
    assert len(set(starts)) == len(starts) > 2
    assert starts == sorted(starts)
    prepare_folder(asked(rows, rows=form), tmp_path / "whole", SHARD)
    assert files(out) == files(tmp_path / "whole")


def test_a_folder_is_trained_on_with_its_own_settings(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, run = str(tmp_path / "out"), str(tmp_path / "run")
    words = ["--data.tokenizer", "byte", "--data.length", "32", "--shard-mb", "1"]
    assert main(["data", "prepare", str(rows), "--out", out, *words]) == 0
    assert main(["info", out]) == 0
    assert main(["data", "check", out]) == 0
    rows.unlink()
    train = ["train", "--data.source", out, "--model.size", "nano", "--train.device", "cpu"]
    short = ["--train.batch", "2", "--train.eval-draws", "2", "--train.dtype", "float32"]
    assert main([*train, *short, "--train.steps", "2", "--data.length", "32", "--out", run]) == 0
    record = json.loads(next(Path(run).rglob("run.json")).read_text(encoding="utf-8"))
    assert record["settings"]["data"]["length"] == 32
    assert main(["eval", run, "--draws", "1", "--device", "cpu", "--json"]) == 0
    assert main(["train", "--resume", run, "--train.steps", "3"]) == 0
    capsys.readouterr()
    for option, value in (("length", "256"), ("tokenizer", "bpe"), ("rows", "whole"), ("valid-share", "0.1")):
        assert main([*train, *short, f"--data.{option}", value]) == 2
        error = capsys.readouterr().err
        assert f"data.{option.replace('-', '_')} is {value}, but {out} was prepared with" in error
    assert main([*train, "--data.valid", "shakespeare"]) == 2
    assert "is prepared and has its validation text" in capsys.readouterr().err
    assert main(["train", "--data.valid", out, "--dry"]) == 2
    assert "a folder of prepared data: give a text there" in capsys.readouterr().err


def test_settings_and_tokenizers_that_contradict_a_folder(rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    corpus = prepare_folder(asked(rows), out, SHARD)
    plain = DataSettings(source=str(out))
    assert prepared_settings(plain).length == 32
    with pytest.raises(DataError, match=r"data\.length is 256, but"):
        prepared_settings(plain, {"source", "length"})  # typed, though it is the default
    assert prepared_settings(asked(rows)) == asked(rows)  # the control: another source
    same = open_prepared(plain, corpus.tokenizer)
    assert same is not None
    assert same_rows(same, corpus)
    with pytest.raises(DataError, match="another tokenizer than that of the checkpoint"):
        open_prepared(plain, char_tokenizer(["abc"]))


@pytest.mark.parametrize("big", [False, True])
def test_a_shard_that_is_missing_cut_or_foreign_is_named(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, big: bool
) -> None:
    """Of much data only sizes and ends are compared at each start; `check_folder` finds the rest."""
    if big:
        monkeypatch.setattr("unmask.data.build.CHECKED_BYTES", 1000)
    good, out = tmp_path / "good", tmp_path / "out"
    prepare_folder(asked(rows), good, SHARD)
    name = "train-00003.rows"
    content = (good / name).read_bytes()
    other = (good / "train-00002.rows").read_bytes()
    middle = content[:15_000] + bytes([content[15_000] ^ 1]) + content[15_001:]
    changes = {"is missing": None, "has 32,710 bytes, not 32,760": content[:-50], "has changed": other, "": content}
    assert len(content) == len(other) == 32_760
    for problem, written in [*changes.items(), ("middle", middle)]:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(good, out)
        (out / name).unlink() if written is None else (out / name).write_bytes(written)
        complaints = [text for _, text in check_folder(out) if text]
        assert complaints == (
            [] if not problem else [f"{name} has changed" if problem == "middle" else f"{name} {problem}"]
        )
        if not problem or (problem == "middle" and big):
            assert open_prepared(DataSettings(source=str(out))) is not None
        else:
            sentence = f"In {out} {complaints[0]}: copy the folder again, or prepare the text again."
            with pytest.raises(DataError, match=re.escape(sentence)):
                open_prepared(DataSettings(source=str(out)))


@pytest.mark.parametrize("name", ["unmask-data.json", "tokenizer.json"])
def test_an_index_or_a_tokenizer_that_changed_is_named(rows: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    prepare_folder(asked(rows), out, SHARD)
    path = out / name
    before = path.read_text(encoding="utf-8")
    path.write_text(before.replace("32", "64", 1) if "32" in before else before + " ", encoding="utf-8")
    with pytest.raises(DataError, match=f"{name} has changed since it was written"):
        open_prepared(DataSettings(source=str(out)))
    path.write_text(before.replace('"format": 3', '"format": 9'), encoding="utf-8")
    if name == "unmask-data.json":
        with pytest.raises(DataError, match="has the format 9, and this version reads 3"):
            open_prepared(DataSettings(source=str(out)))


def test_what_is_no_place_for_a_folder(rows: Path, tmp_path: Path) -> None:
    out, foreign = tmp_path / "out", tmp_path / "foreign"
    prepare_folder(asked(rows), out, SHARD)
    before = files(out)
    notes: list[str] = []
    prepare_folder(asked(rows), out, SHARD, notes.append)
    assert f"{out} is prepared already." in notes
    assert files(out) == before
    with pytest.raises(DataError, match="holds other data, or was made with other options"):
        prepare_folder(asked(rows, length=64), out, SHARD)
    with pytest.raises(DataError, match="is prepared already: give its text"):
        prepare_folder(asked(out), tmp_path / "again", SHARD)
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="has files that unmask did not write there"):
        prepare_folder(asked(rows), foreign, SHARD)
    with pytest.raises(DataError, match="is no folder of prepared data"):
        list(check_folder(foreign))


# ---- several processes


@pytest.mark.extras
@pytest.mark.parametrize("address", ["{0}/part.parquet", "hf:{0}"])
def test_parquet_and_streams_go_on_too(address: str, rows: Path, tmp_path: Path) -> None:
    """Killed in the middle; the rows are those of the same documents as JSON lines. The control has one document less.

    A local folder stands for a data set of the hub.
    """
    library("datasets", "hf")
    parquet: Any = library("pyarrow.parquet", "hf")
    arrow: Any = library("pyarrow", "hf")
    (tmp_path / "set").mkdir()
    documents, out = [json.loads(line) for line in rows.read_text().splitlines()], tmp_path / "out"
    parquet.write_table(arrow.Table.from_pylist(documents), tmp_path / "set" / "part.parquet", row_group_size=64)
    source = address.format(tmp_path / "set")
    command = [sys.executable, "-c", KILLED, source, str(out), "stream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.strip() not in {"begin", "0"})
        process.kill()
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert 0 < int(done[1]) < int(done[-1])  # "begin" comes before
    prepared = open_prepared(DataSettings(source=str(out)))
    assert prepared is not None
    assert same_rows(prepared, prepare(asked(rows)))
    rows.write_text("".join(json.dumps(document) + "\n" for document in documents[:-1]))
    assert not same_rows(prepared, prepare(asked(rows)))


def test_of_several_processes_one_makes_an_entry_of_the_cache(
    rows: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Two at once: one encodes, the other waits and reads. The control is two that do not wait."""
    made, notes, waits = list[str](), list[str](), threading.Event()
    write = build.write_corpus

    def heard(note: str) -> None:
        notes.append(note)
        if "waiting" in note:
            waits.set()

    def slow(*arguments: object, **options: object) -> None:
        """Go on once the other thread waits, or makes the entry too."""
        made.append("made")
        if len(made) == 3:
            waits.set()
        assert waits.wait(60)
        write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("unmask.data.prepare.write_corpus", slow)

    def both(settings: DataSettings) -> None:
        waits.clear()
        threads = [threading.Thread(target=lambda: prepare(settings, note=heard)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    both(asked(rows))
    assert made == ["made"]
    assert "another process is preparing the same data; waiting for it." in notes
    monkeypatch.setattr("unmask.data.prepare.run_lock", lambda place, note: nullcontext())
    both(asked(rows, length=64))
    assert len(made) == 3


def test_waiting_has_an_end(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr("unmask.data.prepare._PATIENCE", 0.5)
    with turn(cache / "data" / "x", lambda note: None):
        with turn(cache / "data" / "y", lambda note: None):  # the control: another entry
            pass
        with (
            pytest.raises(RunError, match="unmask data prepare SOURCE --out FOLDER"),
            turn(cache / "data" / "x", lambda note: None),
        ):
            pass


# ---- memory

ANONYMOUS = """
import re, sys, threading, time
from pathlib import Path

peak = 0

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.02)

threading.Thread(target=watch, daemon=True).start()
"""
PREPARED = """
from unmask.data.folder import open_prepared, prepare_folder
from unmask.data.packed import batch_indices
from unmask.data.settings import DataSettings
begun = anonymous()
prepare_folder(DataSettings(source=sys.argv[1], tokenizer="byte"), Path(sys.argv[2]), 1 << 26)
print(peak - begun)
peak = 0
rows = open_prepared(DataSettings(source=sys.argv[2])).train
for step in range(2000):
    rows.batch(batch_indices(0, step, 64, len(rows)))
print(peak - begun, len(rows))
"""
HELD = """
from unmask.data.sources import open_source
begun = anonymous()
texts = [piece.text for piece in open_source(sys.argv[1]).pieces()]
print(peak - begun)
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc of Linux")
def test_anonymous_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """200 MB of text: preparing and reading it takes a fraction of it. The control holds the text."""
    block = "".join(f"Line {n} of a text of which no line is like another: {n * n}.\n" for n in range(30_000))
    with (tmp_path / "text.jsonl").open("w", encoding="utf-8") as file:
        for n in range(200_000_000 // len(block)):
            for at in range(0, len(block) - 5000, 5000):
                file.write(json.dumps({"text": f"{n}. {block[at : at + 5000]}"}) + "\n")

    def measured(code: str) -> list[int]:
        command = [sys.executable, "-c", ANONYMOUS + code, str(tmp_path / "text.jsonl"), str(tmp_path / "out")]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [int(word) for word in output.split()]

    preparing, reading, count = measured(PREPARED)
    assert count > 700_000
    assert preparing < 100 << 20
    assert reading < 50 << 20
    assert measured(HELD)[0] > 180 << 20
