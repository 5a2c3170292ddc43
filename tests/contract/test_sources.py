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
from unmask.data.sources import BUNDLED, CORPORA, FOLDER, Source, open_source
from unmask.data.split import automatic_vocab_size


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


def test_a_text_file_is_one_document_kept_to_the_byte(tmp_path: Path) -> None:
    text = ("A line.\r\n\r\n\tAnother \N{SNOWMAN} one. \n" * 3000) + "no end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    source = open_source(str(tmp_path / "a.txt"))
    assert documents(source) == documents(source) == [text]


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
    assert documents(open_source(str(tmp_path / "a.jsonl"), text_key="body")) == ["one"]


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
    library.load_dataset = load_dataset  # type: ignore[attr-defined]
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
