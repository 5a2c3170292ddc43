"""Packing keeps all text, the split depends on content alone, and the order of rows is a function of its arguments."""

import gzip
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.data.documents import PIECE_LIMIT, document_pieces
from unmask.data.packed import Corpus, Packed, batch_indices
from unmask.data.packer import encode_batches
from unmask.data.prepare import prepare
from unmask.data.settings import DataSettings
from unmask.data.shards import token_type
from unmask.data.split import nearest_break
from unmask.errors import DataError, RunError
from unmask.text.build import byte_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new cache for each test."""
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def documents(count: int) -> list[str]:
    return [f"Document {n}.\n\n" + f"Line {n * n} of it, \N{SNOWMAN}.\n" * (1 + n % 7) for n in range(count)]


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """60 documents in a .jsonl file."""
    return write_rows(tmp_path / "many.jsonl", [{"text": text} for text in documents(60)])


def tokens(packed: Packed) -> list[int]:
    """All valid ids, in order."""
    batch = packed.batch(np.arange(len(packed)))
    return batch.ids[batch.valid].tolist()


def texts(corpus: Corpus, packed: Packed) -> list[str]:
    """The documents of one part, separated by EOS."""
    parts = list[list[int]]([[]])
    for token in tokens(packed):
        if token == corpus.tokenizer.eos_id:
            parts.append([])
        else:
            parts[-1].append(token)
    return [corpus.tokenizer.decode(part) for part in parts if part]


def in_valid(text: str, share: float = 0.1) -> bool:
    """Whether a document is for validation, by the rule as it is written down."""
    return int(hashlib.sha256(f"{text}155".encode()).hexdigest()[:16], 16) < share * 2**64


def same_rows(left: Corpus, right: Corpus) -> bool:
    return all(
        np.array_equal(getattr(getattr(left, part), field), getattr(getattr(right, part), field))
        for part in ("train", "valid")
        for field in ("ids", "first", "last")
    )


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_packing_keeps_every_document_whole_on_one_side(many: Path, tokenizer: str) -> None:
    corpus = prepare(DataSettings(source=str(many), tokenizer=tokenizer, length=32, valid_share=0.1))
    train, valid = texts(corpus, corpus.train), texts(corpus, corpus.valid)
    assert len(valid) == corpus.facts.valid.documents == sum(in_valid(text) for text in documents(60))
    assert 1 <= len(valid) <= 12
    if tokenizer != "char":  # a validation document may have characters that the training text lacks
        assert sorted(train + valid) == sorted(documents(60))
        assert corpus.train.bytes == sum(len(text.encode()) for text in train)
        assert corpus.valid.bytes == sum(len(text.encode()) for text in valid)
    assert corpus.facts.train.documents == len(train) == 60 - len(valid)


def test_all_rows_but_the_last_are_full_and_padding_is_pad(many: Path) -> None:
    corpus = prepare(DataSettings(source=str(many), tokenizer="byte", length=100))
    batch = corpus.train.batch(np.arange(len(corpus.train)))
    assert batch.ids.dtype == np.int64
    assert batch.valid[:-1].all()
    assert 0 < batch.valid[-1].sum() < 100
    assert (batch.ids[~batch.valid] == corpus.tokenizer.pad_id).all()
    assert (batch.maskable == batch.valid).all()
    assert corpus.train.tokens == batch.maskable.sum() == corpus.facts.train.tokens


def test_whole_documents_are_each_in_one_row(tmp_path: Path) -> None:
    """Each row begins with a document and holds whole ones; only those longer than a row are cut."""
    short = [f"{n}: {'word ' * (n * 7 % 13)}end" for n in range(400)]
    path = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in [*short, "x" * 250]])
    asked = DataSettings(source=str(path), tokenizer="byte", length=100, rows="whole")
    whole, stream = prepare(asked), prepare(replace(asked, rows="stream"))
    eos = whole.tokenizer.eos_id
    for corpus, begins in ((whole, True), (stream, False)):  # the control: a stream begins rows inside of documents
        batch = corpus.train.batch(np.arange(len(corpus.train)))
        rows = [ids[valid].tolist() for ids, valid in zip(batch.ids, batch.valid, strict=True)]
        rows = [row for row in rows if ord("x") not in row]
        assert all(row[-1] == eos for row in rows) is begins
    assert sorted(tokens(whole.train)) == sorted(tokens(stream.train))
    assert {text for text in texts(whole, whole.train) if "x" not in text} <= set(short)
    assert whole.facts.train.tokens == stream.facts.train.tokens == whole.train.tokens
    assert whole.train.tokens / (100 * len(whole.train)) > 0.9  # little is padding
    assert whole.fingerprint != stream.fingerprint


def test_without_eos_documents_are_not_separated(many: Path) -> None:
    corpus = prepare(DataSettings(source=str(many), tokenizer="byte", eos="none"))
    assert corpus.tokenizer.eos_id not in tokens(corpus.train)
    assert corpus.train.tokens == corpus.train.bytes
    assert corpus.facts.eos == "none"


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str) -> None:
    path = write_rows(tmp_path / "big.jsonl", [{"text": text * 40} for text in documents(100)])
    made: list[Corpus] = []
    for workers in (1, 2, 8):
        monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / f"cache{workers}"))
        made.append(prepare(DataSettings(source=str(path), tokenizer=tokenizer, vocab_size=None, workers=workers)))
    assert same_rows(made[0], made[1])
    assert same_rows(made[0], made[2])
    assert len({corpus.fingerprint for corpus in made}) == 1
    other = prepare(DataSettings(source=str(path), tokenizer=tokenizer, valid_share=0.2))  # the control
    assert not same_rows(made[0], other)


def test_the_fingerprint_depends_on_what_changes_the_rows_and_not_on_paths(many: Path, tmp_path: Path) -> None:
    base = DataSettings(source=str(many), tokenizer="byte")
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(many.read_bytes())
    first = prepare(base).fingerprint
    assert prepare(DataSettings(source=str(copy), tokenizer="byte", workers=2)).fingerprint == first
    changed = write_rows(tmp_path / "changed.jsonl", [{"text": text} for text in [*documents(59), "x"]])
    others = [
        DataSettings(source=str(changed), tokenizer="byte"),
        DataSettings(source=str(many), tokenizer="char"),
        DataSettings(source=str(many), tokenizer="byte", length=128),
        DataSettings(source=str(many), tokenizer="byte", eos="none"),
        DataSettings(source=str(many), tokenizer="byte", valid_share=0.1),
        DataSettings(source=str(many), tokenizer="byte", valid=str(changed)),
    ]
    assert len({first, *(prepare(changed).fingerprint for changed in others)}) == len(others) + 1


def test_an_encoder_that_is_killed_is_named(tmp_path: Path) -> None:
    """By the batch that it had; the control: without the death all batches come."""

    def batches(*, deadly: bool) -> Iterator[list[str]]:
        for text in "abc":
            yield [text]
            for process in multiprocessing.active_children() if deadly else ():
                process.kill()

    with pytest.raises(RunError, match=r"^batch 1 of the text: its process ended with code -9"):
        list(encode_batches(batches(deadly=True), byte_tokenizer(), np.dtype(np.uint16), 2))
    ids = list(encode_batches(batches(deadly=False), byte_tokenizer(), np.dtype(np.uint16), 2))
    assert [[len(text) for text in batch] for batch in ids] == [[1], [1], [1]]


def test_the_cache_is_used_and_a_broken_one_is_made_again(many: Path, cache: Path) -> None:
    settings_ = DataSettings(source=str(many), tokenizer="bpe")
    notes: list[str] = []
    first = prepare(settings_, note=notes.append)
    assert [sentence for sentence in notes if sentence.startswith("encoding")]
    notes.clear()
    again = prepare(settings_, note=notes.append)
    assert notes == list(again.notes) == list(first.notes)
    folder = cache / "data" / first.fingerprint
    rows = folder / "train-00000.rows"
    short = rows.read_bytes()[:-2]
    rows.unlink()  # `again` still maps the old file
    rows.write_bytes(short)
    notes.clear()
    mended = prepare(settings_, note=notes.append)
    assert [sentence for sentence in notes if sentence.startswith("encoding")]
    assert same_rows(mended, again)
    assert [path.name for path in (cache / "data").iterdir()] == [first.fingerprint]


def flipped(content: bytes) -> bytes:
    """The same number of bytes, of which one in the middle differs."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("name", ["train-00000.rows", "valid-00000.rows", "unmask-data.json", "control"])
def test_prepared_data_of_the_right_size_with_other_content_are_made_again(many: Path, cache: Path, name: str) -> None:
    data = DataSettings(source=str(many), tokenizer="byte")
    first = prepare(data)
    folder = cache / "data" / first.fingerprint
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if name != "control":
        content = (
            before[name].replace(b'"count": 60', b'"count": 61') if name.endswith("json") else flipped(before[name])
        )
        assert content != before[name]
        (folder / name).unlink()  # `first` still maps the old file
        (folder / name).write_bytes(content)
    notes: list[str] = []
    prepare(data, note=notes.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    damaged = [sentence for sentence in notes if "made again" in sentence]
    assert len(damaged) == (name != "control")
    assert all(str(folder) in sentence and f"{name} has changed" in sentence for sentence in damaged)


def test_a_tokenizer_in_the_cache_with_other_content_is_made_again(many: Path, cache: Path) -> None:
    data = DataSettings(source=str(many), tokenizer="char")
    first = prepare(data).tokenizer.to_json()
    (path,) = (cache / "tokenizers").glob("*/tokenizer.json")
    notes: list[str] = []
    assert prepare(data, note=notes.append).tokenizer.to_json() == first
    assert not any("damaged" in sentence for sentence in notes)  # the control
    path.write_text(path.read_text(encoding="utf-8").replace('"D"', '"\\u00c4"'), encoding="utf-8")
    assert prepare(data, note=notes.append).tokenizer.to_json() == first
    assert any("damaged" in sentence for sentence in notes)
    assert path.read_text(encoding="utf-8") == first


def test_an_interrupt_leaves_no_files(many: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unmask.data.build._write_index", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(DataSettings(source=str(many), tokenizer="byte"))
    assert list((cache / "data").iterdir()) == []


@pytest.mark.parametrize("size", [40, 1000, 200_000])
def test_few_documents_are_cut_near_the_share_at_a_break(tmp_path: Path, size: int) -> None:
    text = ("One line of verse,\nand a second one.\n\n" * (1 + size // 38))[:size]
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    corpus = prepare(DataSettings(source=str(tmp_path / "one.txt"), tokenizer="byte", length=16))
    train, valid = texts(corpus, corpus.train), texts(corpus, corpus.valid)
    assert "".join(train + valid) == text
    assert len(train) == len(valid) == corpus.facts.train.documents == corpus.facts.valid.documents == 1
    assert 0.02 <= len(valid[0]) / size <= 0.1
    assert train[0][-1] in "\n " or valid[0][0] == " " or size == 40
    assert tokens(corpus.train)[-1] != corpus.tokenizer.eos_id  # the document does not end at the cut
    assert tokens(corpus.valid)[-1] == corpus.tokenizer.eos_id
    assert any("fewer than 20" in sentence for sentence in corpus.notes)


def test_a_validation_source_replaces_the_split(many: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("Other text.", encoding="utf-8")
    corpus = prepare(DataSettings(source=str(many), tokenizer="byte", valid=str(tmp_path / "other.txt")))
    assert texts(corpus, corpus.train) == documents(60)
    assert texts(corpus, corpus.valid) == ["Other text."]


def test_a_tokenizer_that_is_passed_replaces_that_of_the_settings(many: Path) -> None:
    corpus = prepare(DataSettings(source=str(many), tokenizer="char"), tokenizer=byte_tokenizer())
    assert (corpus.facts.tokenizer, corpus.facts.vocab_size) == ("file", 259)


def test_pairs_are_rows_whose_answers_may_be_masked(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(30)]
    rows += [{"prompt": "x" * 90, "answer": "long"}, {"prompt": "none", "answer": ""}]
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    corpus = prepare(DataSettings(source=str(path), tokenizer="byte", length=16, valid_share=0.2))
    pairs: list[tuple[str, str]] = []
    for packed in (corpus.train, corpus.valid):
        batch = packed.batch(np.arange(len(packed)))
        for ids, maskable, valid in zip(*batch, strict=True):
            assert ids[maskable][-1] == corpus.tokenizer.eos_id
            assert (ids[~valid] == corpus.tokenizer.pad_id).all()
            pairs.append((corpus.tokenizer.decode(ids[valid & ~maskable]), corpus.tokenizer.decode(ids[maskable])))
        assert packed.tokens == batch.maskable.sum() == packed.bytes + len(packed)
    assert sorted(pairs) == sorted((row["prompt"], row["answer"]) for row in rows[:30])
    assert corpus.facts.paired
    assert "rows left out because they are longer than 16 tokens: 1." in corpus.notes
    assert "rows left out because their answer is empty: 1." in corpus.notes


def test_a_wide_vocabulary_is_kept_in_wider_ids(many: Path) -> None:
    assert prepare(DataSettings(source=str(many)), tokenizer=byte_tokenizer()).train.ids.dtype == np.uint16

    assert token_type(1 << 16) == np.uint16
    assert token_type((1 << 16) + 1) == np.uint32


@given(st.lists(st.text(st.sampled_from("ab \n\N{SNOWMAN}"), max_size=9), max_size=30), st.integers(1, 4000))
@settings(max_examples=60, deadline=None)
def test_pieces_are_the_document(chunks: list[str], repeat: int) -> None:
    stretched = [chunk * repeat for chunk in chunks]
    pieces = list(document_pieces(7, stretched))
    assert "".join(piece.text for piece in pieces) == "".join(stretched)
    assert all(0 < len(piece.text) <= PIECE_LIMIT and piece.document == 7 for piece in pieces)
    assert [piece.last_in_document for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


@given(st.text(st.sampled_from("ab \n"), min_size=2, max_size=80), st.integers(0, 90), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_a_break_is_inside_of_the_text(text: str, target: int, slack: int) -> None:
    index = nearest_break(text, target, slack)
    assert 0 < index < len(text)
    assert abs(index - min(max(target, 1), len(text) - 1)) <= slack


# ---- the order of rows


def flat(order: Callable[..., np.ndarray], seed: int, batch: int, size: int, steps: int) -> list[int]:
    return np.concatenate([order(seed, step, batch, size) for step in range(steps)]).tolist()


def is_without_replacement(order: Callable[..., np.ndarray], batch: int, size: int) -> bool:
    """Whether each epoch has every row once, whatever the batch."""
    rows = flat(order, 3, batch, size, 1 + 3 * size // batch)
    return all(sorted(rows[e * size : (e + 1) * size]) == list(range(size)) for e in range(3))


@given(st.integers(1, 40), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_an_epoch_has_every_row_once(batch: int, size: int) -> None:
    assert is_without_replacement(batch_indices, batch, size)


def test_control_drawing_with_replacement_breaks_that_law() -> None:
    def drawn(seed: int, step: int, batch: int, size: int) -> np.ndarray:
        return np.random.default_rng([seed, step]).integers(0, size, batch)

    assert not is_without_replacement(drawn, 5, 30)


def test_the_order_is_a_function_of_its_arguments_and_differs_between_epochs_and_seeds() -> None:
    assert flat(batch_indices, 1, 7, 50, 20) == flat(batch_indices, 1, 10, 50, 14)
    assert flat(batch_indices, 1, 50, 50, 1) != flat(batch_indices, 2, 50, 50, 1)
    assert batch_indices(1, 0, 50, 50).tolist() != batch_indices(1, 1, 50, 50).tolist()
    assert sorted(batch_indices(-5, -3, 50, 50).tolist()) == list(range(50))
    assert sorted(batch_indices(10**30, 10**30, 50, 50).tolist()) == list(range(50))
    assert batch_indices(0, 0, 8, 100).tolist() == [44, 61, 35, 1, 22, 69, 52, 92]  # resumed runs depend on it
    with pytest.raises(DataError):
        batch_indices(0, 0, 4, 0)


def test_a_batch_out_of_range_is_refused(many: Path) -> None:
    packed = prepare(DataSettings(source=str(many), tokenizer="byte")).valid
    assert packed.batch(np.array([], dtype=np.int64)).ids.shape == (0, packed.length)
    for wrong in ([len(packed)], [-1]):
        with pytest.raises(DataError):
            packed.batch(np.array(wrong))
