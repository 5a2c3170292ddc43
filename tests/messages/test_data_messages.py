"""The error messages about texts, templates, tokenizers and data, word for word."""

import gzip
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unmask.data import sources as corpora
from unmask.data.prepare import prepare
from unmask.data.settings import Columns, DataSettings
from unmask.data.sources import open_source
from unmask.errors import ConfigError, DataError, RequestError, RunError, UnmaskError
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.template import parse_template
from unmask.text.tokenizer import Tokenizer

HOLES = (
    "write [5] for a hole of 5 tokens, [1-8] for 1 to 8, [=old words] to write words anew, and \\[ for a bracket "
    "that is text"
)
NAMES = "austen, ecoli-k12, english, shakespeare, sotu, wordnet"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tests run in an empty folder, so that messages have short paths."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def message(error: type[UnmaskError], action: Callable[[], object]) -> str:
    """The message of the error that `action` raises."""
    with pytest.raises(error) as caught:
        action()
    return str(caught.value)


def read(source: str, text_key: str = "text") -> list[object]:
    opened = open_source(source, Columns(text_key))
    return list(opened.pairs() if opened.paired else opened.pieces())


@pytest.mark.parametrize(
    "values, sentence",
    [
        (
            {"source": ""},
            "data.source is empty: give a file, a folder, a corpus name such as shakespeare, or hf:NAME.",
        ),
        ({"valid": ""}, "data.valid is empty: give a source like data.source, or leave it out."),
        ({"length": 1}, "data.length is 1; give a whole number of at least 2."),
        ({"valid_share": 1.0}, "data.valid_share is 1.0; give a number between 0 and 1 (such as 0.05)."),
        ({"workers": 0}, "data.workers is 0; give a whole number from 1 to 1024."),
        ({"eos": "both"}, "data.eos is 'both'; give one of 'append', 'none'."),
        ({"text_key": ""}, "data.text_key is empty: give the name of the key that holds the text, such as text."),
        ({"tokenizer": ""}, "data.tokenizer is empty: give one of auto, byte, char, dna, bpe, words, or a path."),
        (
            {"tokenizer": "byte", "vocab_size": 512},
            "data.vocab_size is for the bpe and words tokenizers, but data.tokenizer is 'byte'.",
        ),
        (
            {"vocab_size": 258},
            "data.vocab_size is 258; give a whole number from 259 to 16777216 (256 bytes and 3 special tokens).",
        ),
        (
            {"mask_token": "<m>"},
            "data.mask_token names the MASK of a tokenizer file, but data.tokenizer is 'auto', which has its own.",
        ),
        (
            {"tokenizer": "a.json", "mask_token": ""},
            "data.mask_token is empty: give the name of a token, such as <mask>.",
        ),
    ],
)
def test_settings(values: dict[str, object], sentence: str) -> None:
    assert message(ConfigError, lambda: DataSettings(**values)) == sentence  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "source, sentence",
    [
        (
            "shakespear",
            f"there is no file, folder or corpus 'shakespear' (the corpora are {NAMES}): did you mean 'shakespeare'?",
        ),
        ("zzz", f"there is no file, folder or corpus 'zzz' (the corpora are {NAMES}): known: {NAMES}."),
        ("no/such.txt", f"there is no file or folder no/such.txt: give a path that exists, or one of {NAMES}."),
        (
            "a.py:T",
            f"there is no file or folder a.py:T: give a path that exists, or one of {NAMES}. A task is task:a.py:T",
        ),
        ("*.txt", "no file matches *.txt: check the pattern, and quote it on a command line."),
        ("hf:", "hf: names no data set: write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT."),
    ],
)
def test_no_such_source(source: str, sentence: str) -> None:
    assert message(DataError, lambda: open_source(source)) == sentence


HINT = "name the column of the text with --data.text-key, or those of prompts and answers with --data.prompt-key and "


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        (
            "a.csv",
            b"id,body\n1,x\n",
            f"a.csv, line 2 has no column 'text' (its columns: id, body): {HINT}--data.answer-key.",
        ),
        ("a.json", b'[{"id": 1}]', f"a.json, item 1 has no column 'text' (its columns: id): {HINT}--data.answer-key."),
        ("a.json", b'[{"text": "x"}, 3]', 'a.json, item 2 is not a JSON object: write rows such as {"text": "..."}.'),
        ("a.csv", b"text\n", "a.csv is empty: there is no text to learn from."),
        ("a.csv", b"", "a.csv is empty: there is no text to learn from."),
        (
            "a.csv",
            b"text,id\nx,y,1\n",
            "a.csv, line 2 has 3 fields, but the first line names 2 columns: quote fields that hold the separator ','.",
        ),
        ("a.csv", b"text,text\n", "a.csv has two columns of one name in its first line (text, text): rename one."),
        (
            "a.tsv",
            b'text\tid\n"Hello," he said\t1\n',
            (
                "a.tsv, line 2 is not a row of a table ('\\t' expected after '\"'): quote fields by \" and write a "
                'quote in them as "".'
            ),
        ),
        (
            "a.csv",
            b'text\n"open\n',
            (
                'a.csv, line 2 is not a row of a table (unexpected end of data): quote fields by " and write a quote '
                'in them as "".'
            ),
        ),
        ("a.csv", b"text\nx\n\xff\n", "a.csv is not UTF-8 text: convert the file to UTF-8."),
        ("a.csv", b"text\n\0\n", "a.csv, line 2 is not text (there is a NUL byte): give a table in UTF-8."),
        (
            "a.parquet",
            b"PAR1",
            "a.parquet needs the pyarrow library: pip install 'unmask[hf]', or pip install pyarrow.",
        ),
        ("a.txt", b"", "a.txt is empty: there is no text to learn from."),
        ("a.txt", b"ab\0c", "a.txt is not text: there is a NUL byte at offset 2; give UTF-8 text or .jsonl."),
        (
            "a.txt",
            b"\xef\xbb\xbfab\xff",
            "a.txt is not UTF-8 text: byte 0xff at offset 5 cannot be decoded; convert the file to UTF-8.",
        ),
        (
            "a.txt",
            b"abc\xe2\x98",
            "a.txt is not UTF-8 text: byte 0xe2 at offset 3 cannot be decoded; convert the file to UTF-8.",
        ),
        (
            "a.jsonl",
            b'{"text": "a"}\n{',
            (
                "a.jsonl, line 2 is not JSON (Expecting property name enclosed in double "
                "quotes): write one object on each line."
            ),
        ),
        ("a.jsonl", b"[1]", 'a.jsonl, line 1 is not a JSON object: write rows such as {"text": "..."}.'),
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl, line 1 is not UTF-8 text: convert the file to UTF-8."),
        (
            "a.jsonl",
            b'{"body": "x", "id": 1}',
            (
                "a.jsonl, line 1 has no column 'text' (its columns: body, id): name the column of the text with "
                "--data.text-key, or those of prompts and answers with --data.prompt-key and --data.answer-key."
            ),
        ),
        ("a.jsonl", b'{"text": 3}', "a.jsonl, line 1 has a value of type int under 'text': it must be a string."),
        (
            "a.jsonl",
            b'{"prompt": "p", "answer": "a"}\n{"prompt": "p"}',
            (
                "a.jsonl, line 2 has no prompt and answer (its "
                "keys: prompt), but the rows before it have: give all both."
            ),
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "a"}', mtime=0)[:-9],
            (
                "a.jsonl.gz is not a whole gzip file (Compressed file ended "
                "before the end-of-stream marker was reached): make or fetch it again."
            ),
        ),
    ],
)
def test_content(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, sentence: str) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (folder / name).write_bytes(content)
    assert message(DataError, lambda: read(name)) == sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            b">EFIL, a comment\nACGTRYN acgt\n>b\nACGT*\nMFQL\n",
            (
                "a.fasta has the letter 'F', which stands for no nucleotide of DNA: is it a protein? Give DNA, or "
                "another tokenizer."
            ),
        ),
        (b">a\nACGU\n", "a.fasta has the letter 'U', which stands for no nucleotide of DNA: replace U by T."),
    ],
)
def test_letters_that_are_no_dna(folder: Path, content: bytes, sentence: str) -> None:
    """The codes of several nucleotides become N; the control is the tokenizer of characters."""
    (folder / "a.fasta").write_bytes(content)
    settings = DataSettings("a.fasta", tokenizer="dna", length=4)
    assert message(DataError, lambda: prepare(settings)) == sentence
    assert prepare(replace(settings, tokenizer="char")).facts.train.tokens
    (folder / "a.fasta").write_bytes(b">EFIL\nACGTRYKMSWBDHVN\nacgtryn-12*\n")
    assert prepare(settings).facts.train.tokens


def test_columns_that_are_not_there_or_contradict(folder: Path) -> None:
    (folder / "a.csv").write_text("id,body\n1,x\n", encoding="utf-8")
    assert message(DataError, lambda: open_source("a.csv", Columns(None, "id", "answer"))) == (
        "a.csv, line 2 has no column 'answer' (its columns: id, body): name that of the prompts with --data.prompt-key "
        "and that of the answers with --data.answer-key."
    )
    assert message(ConfigError, lambda: DataSettings(text_key="a", prompt_key="b")) == (
        "data.text_key is 'a', but data.prompt_key and data.answer_key ask for pairs: give either a column of text or "
        "the two of prompts and answers."
    )
    assert message(ConfigError, lambda: DataSettings(prompt_key="answer")) == (
        "'answer' cannot be the column of the prompts and of the answers: give two."
    )
    assert message(ConfigError, lambda: DataSettings(answer_key="")) == (
        "data.answer_key is empty: give the name of a column, such as answer."
    )


def test_folders(folder: Path) -> None:
    (folder / "a").mkdir()
    assert message(DataError, lambda: read("a")) == (
        "the folder a holds no text: put .txt, .md, .jsonl, .csv, .tsv, .json, .parquet or .fasta files "
        "into it (.gz too)."
    )
    (folder / "a" / "one.txt").write_text("", encoding="utf-8")
    assert message(DataError, lambda: read("a")) == "a is empty: there is no text to learn from."
    (folder / "a" / "two.jsonl").write_text('{"prompt": "p", "answer": "a"}', encoding="utf-8")
    assert message(DataError, lambda: read("a")) == (
        "a/two.jsonl holds prompts with answers but a/one.txt does not: keep the two kinds in folders of their own."
    )


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert message(DataError, lambda: open_source("hf:x")) == (
        "hf:x needs the datasets library: pip install 'unmask[hf]'."
    )


def test_damaged_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "FOLDER", folder)
    path = folder / "sotu.jsonl.xz"
    assert message(DataError, lambda: read("sotu")) == (
        f"the bundled corpus {path} cannot be read (No such file or directory): install unmask again."
    )
    path.write_bytes(b"other")
    assert message(DataError, lambda: read("sotu")) == (
        f"the bundled corpus {path} is damaged (its sha256 is wrong): install unmask again."
    )


def prepared(**values: object) -> Callable[[], object]:
    return lambda: prepare(DataSettings(tokenizer="byte", **values))  # type: ignore[arg-type]


def test_too_little(folder: Path) -> None:
    (folder / "a.txt").write_text("a", encoding="utf-8")
    assert message(DataError, prepared(source="a.txt")) == (
        "a.txt is too short to have a training and a validation part: give more text, or a validation source with "
        "--data.valid."
    )
    (folder / "p.jsonl").write_text('{"prompt": "p", "answer": "a"}\n', encoding="utf-8")
    assert message(DataError, prepared(source="p.jsonl")) == (
        "p.jsonl holds too few rows (1): give at least 2 different ones, or a validation source with --data.valid."
    )
    (folder / "p.jsonl").write_text("".join(f'{{"prompt": "p", "answer": "{n}"}}\n' for n in "abc"), encoding="utf-8")
    assert message(DataError, prepared(source="p.jsonl", length=2)) == (
        "no row of the training part of p.jsonl fits into 2 tokens: give a larger --data.length (with --init, a "
        "checkpoint with a larger window)."
    )
    assert message(DataError, prepared(source="p.jsonl", valid="a.txt")) == (
        "p.jsonl holds prompts with answers but a.txt holds documents: give two of one kind."
    )


def test_a_cache_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("", encoding="utf-8")
    (folder / "a.txt").write_text("some text to learn from", encoding="utf-8")
    monkeypatch.setenv("UNMASK_CACHE", "file")
    assert message(RunError, prepared(source="a.txt")) == (
        "prepared data could not be written to file/data (Not a directory): free some space, or set UNMASK_CACHE to "
        "another folder."
    )
    path = folder / "file" / "tokenizer.json"
    assert message(ConfigError, lambda: byte_tokenizer().save("file")) == (
        f"{path} cannot be written (file exists): choose another path."
    )


def test_what_is_no_text_is_refused_before_it_is_hashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora.hashlib, "file_digest", lambda *_: pytest.fail("the whole file was read"))
    (folder / "zeros.txt").write_bytes(bytes(1 << 12))
    with pytest.raises(DataError, match=r"zeros\.txt is not text: there is a NUL byte at offset 0"):
        open_source("zeros.txt")


def test_tokenizers(folder: Path) -> None:
    assert message(DataError, lambda: Tokenizer.load("no.json")) == (
        "there is no tokenizer at no.json: give byte, char, dna, bpe or words, or the path of a tokenizer.json or of a "
        "folder that holds one."
    )
    assert message(DataError, lambda: Tokenizer.load(".")).startswith("there is no tokenizer at tokenizer.json: ")
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    assert message(DataError, lambda: Tokenizer.load(".")) == (
        "tokenizer.json is not a tokenizer.json that can be read: it is not JSON (Expecting property name enclosed "
        "in double quotes)."
    )
    for content, reason in (
        (b"\xff", "it is not UTF-8 text."),
        (b"1" * 5000, "it holds a number of hundreds of digits."),
    ):
        (folder / "tokenizer.json").write_bytes(content)
        assert message(DataError, lambda: Tokenizer.load(".")).endswith(f"that can be read: {reason}")
    bare = '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0, "<mask>": 1}, "unk_token": "a"}}'
    assert Tokenizer.from_json(bare).mask_id == 1  # the control: a file without added_tokens
    assert message(DataError, lambda: Tokenizer.from_json(bare.replace(": 1}", ": 0}"), name="x.json")) == (
        "x.json has several tokens with the same id: give a file in which each has its own."
    )
    plain = byte_tokenizer().backend.to_str().replace("<mask>", "<other>")
    assert message(DataError, lambda: Tokenizer.from_json(plain)) == (
        "the tokenizer has no MASK token under a usual name such as [MASK] or <mask>: name a token with "
        "--data.mask-token (a name that it does not have is added as a new id)."
    )
    assert message(DataError, lambda: bpe_tokenizer([], 3)) == (
        "a bpe tokenizer of 3 ids was asked for: it has at least 259."
    )
    assert message(DataError, lambda: char_tokenizer([""])) == (
        "a char tokenizer needs at least one character of text: the source is empty."
    )
    for tokenizer in (byte_tokenizer(), dna_tokenizer()):
        assert message(DataError, lambda encoder=tokenizer: encoder.encode("\ud800")) == (
            "the text holds half of a surrogate pair, which has no UTF-8 form: replace it before encoding."
        )


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a [0] b", "[0] is a hole of no token; a hole has at least 1."),
        ("a [0-3] b", "[0-3] is a hole of no token; a hole has at least 1."),
        ("a [0=x] b", "[0=x] is a hole of no token; a hole has at least 1."),
        ("a [8-1] b", "[8-1] ends before it begins; write the shorter length first, such as [1-8]."),
        ("a [1-0] b", "[1-0] ends before it begins; write the shorter length first, such as [1-1]."),
        ("a [1-] b", f"[1-] is not a hole: {HOLES}."),
        ("a [1-2-3] b", f"[1-2-3] is not a hole: {HOLES}."),
        ("a [x=y] b", f"[x=y] is not a hole: {HOLES}."),
        ("a [=] b", f"[=] names no words to write anew: {HOLES}."),
        ("a [3=] b", f"[3=] names no words to write anew: {HOLES}."),
        (r"a [=x\] b", f"the bracket at character 3 is not closed: {HOLES}."),
        ("a [x] b", f"[x] is not a hole: {HOLES}."),
        ("a [] b", f"[] is not a hole: {HOLES}."),
        ("a [-1] b", f"[-1] is not a hole: {HOLES}."),
        ("a [5 b", f"the bracket at character 3 is not closed: {HOLES}."),
        ("none", f"the text has no hole to fill: {HOLES}."),
        (r"\[5]", f"the text has no hole to fill: {HOLES}."),
        ("", f"the text has no hole to fill: {HOLES}."),
    ],
)
def test_templates(text: str, sentence: str) -> None:
    assert message(RequestError, lambda: parse_template(text)) == sentence
