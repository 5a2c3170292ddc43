"""Every source gives the same documents at each reading; the bundled corpora agree with their cards."""

import gzip
import hashlib
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unmask.data.documents import Pair
from unmask.data.prepare import automatic_vocab_size
from unmask.data.settings import Columns, DataSettings
from unmask.data.sources import BUNDLED, CORPORA, FOLDER, Source, open_source


def documents(source: Source) -> list[str]:
    """A source -> its documents, joined from their pieces; the numbers of the pieces are checked."""
    texts: list[str] = [""]
    for piece in source.pieces():
        assert piece.document == len(texts) - 1
        texts[-1] += piece.text
        if piece.last_in_document:
            texts.append("")
    assert texts.pop() == ""
    return texts


@pytest.mark.parametrize("block", [3, 7, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_file_is_one_document_with_lines_that_end_by_lf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int
) -> None:
    monkeypatch.setattr("unmask.data.sources._BLOCK", block)
    text = ("A line.\n\n\tAnother \N{SNOWMAN} one. \n" * 30) + "no end\n"
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", end).encode())
    source = open_source(str(tmp_path / "a.txt"))
    assert documents(source) == documents(source) == [text]
    before = open_source(str(tmp_path / "a.txt"), rule=1)  # runs of before keep their rule
    assert documents(before) == [text.replace("\n", end)]


def test_a_byte_order_mark_is_dropped_and_characters_may_span_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.data.sources._BLOCK", 7)
    text = "\N{SNOWMAN}\N{GRINNING FACE}e" * 50
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert documents(open_source(str(tmp_path / "a.txt"))) == [text]


def test_a_folder_gives_a_document_a_file_by_path(tmp_path: Path) -> None:
    for name, text in (("b.txt", "two"), ("a/z.md", "one"), ("c.py", "no"), (".hidden/x.txt", "no"), ("empty.txt", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "d.jsonl").write_text('{"text": "three"}\n\n{"text": ""}\n{"text": "four"}\n', encoding="utf-8")
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(b'{"text": "five"}\n'))
    assert documents(open_source(str(tmp_path))) == ["one", "two", "three", "four", "five"]
    assert documents(open_source(str(tmp_path / "*.txt"))) == ["two"]
    assert documents(open_source(str(tmp_path / "**" / "*.[mp]*"))) == ["one", "no"]


def test_another_key_may_hold_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one", "text": 3}\n', encoding="utf-8")
    assert documents(open_source(str(tmp_path / "a.jsonl"), Columns("body"))) == ["one"]


def test_pairs_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n', encoding="utf-8")
    source = open_source(str(tmp_path / "a.jsonl"))
    assert source.paired
    assert list(source.pairs()) == [Pair("1+1=", "2")]


def test_half_a_surrogate_pair_in_json_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n', encoding="utf-8")
    assert documents(open_source(str(tmp_path / "a.jsonl"))) == ["a?b"]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one"), ("b.txt", "one"), ("c.txt", "two"), ("d.jsonl", "one")):
        (tmp_path / name).write_text(text if name != "d.jsonl" else '{"text": "one"}', encoding="utf-8")
    prints = {name: open_source(str(tmp_path / name)).fingerprint for name in ("a.txt", "b.txt", "c.txt", "d.jsonl")}
    assert prints["a.txt"] == prints["b.txt"]
    assert len(set(prints.values())) == 3


PAIRS = [Pair("1+1=", "2"), Pair('say "hi",\nthen', "two\nlines"), Pair("\N{SNOWMAN}", "x,y")]
TABLE = """question,id,answer\n1+1=,7,2\n"say ""hi"",\nthen",8,"two\nlines"\n\n\N{SNOWMAN},9,"x,y"\n"""
ROWS = [{"question": prompt, "id": n, "answer": answer} for n, (prompt, answer) in enumerate(PAIRS)]


def as_file(path: Path, content: str, end: str = "\n", mark: bytes = b"") -> str:
    """Write a text with other line ends and a byte order mark, compressed if the name says so -> the path."""
    content_bytes = mark + content.replace("\n", end).encode()
    path.write_bytes(gzip.compress(content_bytes) if path.suffix == ".gz" else content_bytes)
    return str(path)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_csv_is_rows_whatever_ends_its_lines(tmp_path: Path, name: str, end: str, mark: bytes) -> None:
    source = open_source(as_file(tmp_path / name, TABLE, end, mark))
    assert source.paired
    assert list(source.pairs()) == PAIRS
    assert source.taken == "prompts from 'question', answers from 'answer'"
    prose = open_source(str(tmp_path / name), rule=1) if not name.endswith(".gz") else None  # the control: the old rule
    assert prose is None or documents(prose)[0].startswith("question,id,answer")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.tsv", "question\tanswer\n1\t2\n3\t4,5\n"),
        ("a.csv", "question;answer\n1;2\n3;4,5\n"),
        ("a.jsonl", '{"question": "1", "answer": "2"}\n{"question": "3", "answer": "4,5"}\n'),
        ("a.json", '{"question": "1", "answer": "2"}\n{"question": "3", "answer": "4,5"}\n'),
        ("a.json", ' [{"question": "1", "answer": "2"},\n {"question": "3", "answer": "4,5"}]'),
        ("a.json.gz", '[{"question": "1", "answer": "2"}, {"question": "3", "answer": "4,5"}]'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_format_of_rows_gives_the_same_pairs(tmp_path: Path, name: str, content: str, mark: bytes) -> None:
    source = open_source(as_file(tmp_path / name, content, "\r\n", mark))
    assert list(source.pairs()) == [Pair("1", "2"), Pair("3", "4,5")]


def test_columns_are_recognised_in_an_order_and_can_be_named(tmp_path: Path) -> None:
    def taken(names: str, asked: Columns | None = None) -> str:
        return open_source(as_file(tmp_path / "a.csv", f"{names}\n1,2,3,4,5,6\n"), asked).taken

    every = "question,answer,prompt,text,body,title"
    pair = "prompts from 'prompt', answers from 'answer'"
    assert taken(every) == "text from 'text'"
    assert taken(every.replace("text", "other")) == pair
    assert taken(every.replace("text", "other").replace("prompt", "more")) == pair.replace("'prompt'", "'question'")
    assert taken(every, Columns("body")) == "text from 'body'"
    assert taken(every, Columns(None, "title", "body")) == "prompts from 'title', answers from 'body'"
    assert DataSettings(prompt_key="title").columns == Columns(None, "title", "answer")
    assert DataSettings(answer_key="body").columns == Columns(None, "prompt", "body")


def test_parquet_is_read_where_pyarrow_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Batch:
        def to_pylist(self) -> list[dict[str, Any]]:
            return ROWS

    class ParquetFile:
        def __init__(self, path: Path) -> None:
            assert path.name == "a.parquet"

        def iter_batches(self) -> list[Batch]:
            return [Batch(), Batch()]

    library = ModuleType("pyarrow.parquet")
    monkeypatch.setattr(library, "ParquetFile", ParquetFile, raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", library)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    source = open_source(str(tmp_path / "a.parquet"))
    assert list(source.pairs()) == PAIRS * 2


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [1, 5, 1 << 20])
def test_fasta_gives_the_letters_of_its_sequence_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int
) -> None:
    monkeypatch.setattr("unmask.data.sources._BLOCK", block)
    text = ">one ACGT\n; ACGT\nACGTacgt\nNNRY 10 AC-GT*\n\n>two\n>three\n;x\nMKV>L;I\n"
    for name in ("a.fa", "a.FASTA", "a.faa.gz"):
        source = open_source(as_file(tmp_path / name, text, end))
        assert documents(source) == documents(source) == ["ACGTacgtNNRYACGT", "MKVLI"]
    control = documents(open_source(as_file(tmp_path / "a.txt", text, end)))
    assert control[0].startswith(">one ACGT")
    assert documents(open_source(str(tmp_path / "a.fa"), rule=1)) == [text.replace("\n", end)]


def test_a_folder_gives_its_tables_only_where_it_has_no_texts(tmp_path: Path) -> None:
    as_file(tmp_path / "rows.csv", "text\none\ntwo\n")
    as_file(tmp_path / "x.json", '[{"text": "three"}]')
    assert documents(open_source(str(tmp_path))) == ["one", "two", "three"]
    as_file(tmp_path / "a.txt.gz", "a text")
    source = open_source(str(tmp_path))
    assert documents(source) == ["a text"]
    assert source.taken == "text files alone, without rows.csv, x.json"


def test_a_hub_data_set_has_columns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("datasets")
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: ROWS, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert list(open_source("hf:x").pairs()) == PAIRS
    assert documents(open_source("hf:x", Columns("answer"))) == [pair.answer for pair in PAIRS]


def test_a_large_file_streams(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_text("A line of some length, again and again.\n" * 600_000, encoding="utf-8")  # 24 MB
    tracemalloc.start()
    count = sum(1 for _ in open_source(str(path)).pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count > 1400
    assert peak < 8e6


def test_a_hub_data_set_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    class Rows:
        _fingerprint = "abc"

        def __iter__(self) -> Iterator[dict[str, Any]]:
            return iter([{"text": "one"}, {"text": "two"}])

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Rows:
        calls.append((name, config, split, streaming))
        return Rows()

    library = ModuleType("datasets")
    monkeypatch.setattr(library, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", library)
    small, whole = open_source("hf:owner/name:small@test"), open_source("hf:owner/name")
    assert calls == [("owner/name", "small", "test", True), ("owner/name", None, "train", True)]
    assert documents(small) == documents(small) == ["one", "two"]
    assert small.fingerprint != whole.fingerprint


@pytest.mark.parametrize("name", sorted(BUNDLED))
def test_a_bundled_corpus_is_what_its_card_says(name: str) -> None:
    card = (FOLDER / f"{name}.card.md").read_text(encoding="utf-8")
    texts = documents(open_source(name))
    text = "".join(texts).encode()
    assert f"{len(texts)} documents, {len(text)} bytes" in card
    assert hashlib.sha256(text).hexdigest() in card
    assert BUNDLED[name].sha256 in card
    assert "licence:" in card
    assert "origin:" in card


def test_the_plays_are_plain_text_and_the_genome_is_bases() -> None:
    plays = documents(open_source("shakespeare"))
    assert len(plays) == 38
    assert not re.search(r"[*_#\\<>]|\[[^\]]*$|\n\n\n|[ \t]\n", "".join(plays))
    hamlet = next(play for play in plays if play.startswith("Hamlet\n"))
    assert "\n\nHAMLET.\nTo be, or not to be: that is the question:\n" in hamlet
    assert set(documents(open_source("ecoli-k12"))[0]) == set("ACGT")


def test_english_is_the_three_together() -> None:
    together = documents(open_source("english"))
    assert together == [text for name in ("shakespeare", "austen", "sotu") for text in documents(open_source(name))]
    assert set(CORPORA) == {*BUNDLED, "english"}


def test_all_bundled_files_are_small_and_known() -> None:
    files = {path.name for path in FOLDER.iterdir()}
    assert files == {bundled.file for bundled in BUNDLED.values()} | {f"{name}.card.md" for name in BUNDLED}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 9e6


def test_sizes_of_automatic_vocabularies() -> None:
    sizes = [automatic_vocab_size(size) for size in (1, 199_999, 200_000, 5_000_000, 20_000_000, 10**9)]
    assert sizes == [512, 512, 1024, 2048, 8192, 32768]
