"""The contract of tokenizers: decoding inverts encoding, no text encodes to a special id, files keep all ids."""

import json
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from unmask.errors import DataError
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.roles import MASK_NAMES
from unmask.text.template import Edit, Hole, Part, Slot, parse_template
from unmask.text.tokenizer import Tokenizer

TEXT = ["the cat sat on the mat, and the cat is fat.\n\nSo it sat <mask> \N{SNOWMAN}.\n"] * 20
BYTE, CHAR, DNA, BPE = byte_tokenizer(), char_tokenizer(TEXT), dna_tokenizer(), bpe_tokenizer(TEXT, 300)
ALL = [pytest.param(each, id=name) for each, name in ((BYTE, "byte"), (CHAR, "char"), (DNA, "dna"), (BPE, "bpe"))]
STRINGS = st.text(st.characters(exclude_categories=["Cs"]))
LOOKALIKES = "a <mask><pad><eos> [MASK] <|endoftext|> b"


def foreign(*names: str, special: bool = True) -> str:
    """A tokenizer.json not made by this library, with `names` as added tokens after four words."""
    backend = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "to": 1, "be": 2, "or": 3}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_tokens([tokenizers.AddedToken(name, special=special) for name in names])
    return backend.to_str()


@given(STRINGS)
@settings(max_examples=200, deadline=None)
def test_bytes_and_bpe_give_every_string_back(text: str) -> None:
    for tokenizer in (BYTE, BPE):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.sampled_from(sorted(set("".join(TEXT))))))
@settings(max_examples=100, deadline=None)
def test_char_gives_known_characters_back(text: str) -> None:
    ids = CHAR.encode(text)
    assert len(ids) == len(text)
    assert CHAR.decode(ids) == text


@given(STRINGS | st.lists(st.sampled_from(["<mask>", "<pad>", "<eos>", "a", " "])).map("".join))
@settings(max_examples=200, deadline=None)
def test_no_text_becomes_a_special_id(text: str) -> None:
    for tokenizer in (BYTE, CHAR, DNA, BPE):
        assert not set(tokenizer.encode(text)) & set(tokenizer.special_ids)


def test_control_a_backend_with_its_defaults_encodes_special_tokens_in_text() -> None:
    backend = tokenizers.Tokenizer.from_str(BPE.to_json())
    assert BPE.mask_id in backend.encode("a <mask> b").ids


@pytest.mark.parametrize("tokenizer", ALL)
def test_saving_keeps_every_id(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "folder")
    for again in (Tokenizer.load(tmp_path / "new" / "folder"), Tokenizer.load(tmp_path / "new/folder/tokenizer.json")):
        assert again.to_json() == tokenizer.to_json()
        assert (again.special_ids, again.vocab_size) == (tokenizer.special_ids, tokenizer.vocab_size)
        assert again.encode(LOOKALIKES) == tokenizer.encode(LOOKALIKES)
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("tokenizer", ALL)
def test_special_ids_are_distinct_and_left_out_of_text(tokenizer: Tokenizer) -> None:
    assert len(set(tokenizer.special_ids)) == 3
    assert max(tokenizer.special_ids) == tokenizer.vocab_size - 1
    assert tokenizer.decode([*tokenizer.special_ids, *tokenizer.encode("ACGT"), tokenizer.mask_id]) == tokenizer.decode(
        tokenizer.encode("ACGT")
    )
    assert tokenizer.piece(tokenizer.mask_id) == "<mask>"
    assert tokenizer.piece(tokenizer.vocab_size) == tokenizer.piece(-1) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("tokenizer", [BYTE, BPE])
def test_pieces_joined_are_the_text(tokenizer: Tokenizer) -> None:
    text = "the cat sat on the mat\n"
    assert "".join(map(tokenizer.piece, tokenizer.encode(text))) == text
    assert tokenizer.piece(tokenizer.encode("\N{SNOWMAN}")[0]) == "\N{REPLACEMENT CHARACTER}"


def test_ids_of_the_byte_tokenizer_are_the_bytes_and_equal_those_of_the_library() -> None:
    text = bytes(range(256)).decode("latin-1")
    assert BYTE.encode("A\N{SNOWMAN}") == [65, 0xE2, 0x98, 0x83]
    assert BYTE.backend.encode(text).ids == BYTE.encode(text)
    assert BYTE.backend.decode(BYTE.encode(text)) == text
    assert (BYTE.mask_id, BYTE.pad_id, BYTE.eos_id, BYTE.vocab_size) == (256, 257, 258, 259)


def test_bytes_are_quick() -> None:
    text = "To be, or not to be. " * 250_000
    start = time.perf_counter()
    BYTE.encode(text)
    assert len(text) / (time.perf_counter() - start) > 5e6


def test_dna_folds_case_and_drops_headers_and_white_space() -> None:
    assert [DNA.piece(token) for token in DNA.encode(">chr1 A\nacgT\nRn\n>x\nA")] == list("ACGTNNA")
    assert DNA.vocab_size == 8


FASTA = [">chr1 ACGT", "ACGTACGT", "acgtnnRY", "; ACGT, a comment", "AC GT 10 AC-GT*", ">chr2", ";x", "TTTT"]
BASES = "ACGTACGTACGTNNNNACGTACGTTTTT"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n", "\r\r\n"])
def test_dna_takes_the_letters_of_sequence_lines_whatever_ends_a_line(end: str) -> None:
    assert DNA.decode(DNA.encode(end.join([*FASTA, ""]))) == BASES
    assert DNA.decode(DNA.encode(end.join(FASTA))) == BASES
    assert DNA.decode(DNA.encode(" ".join(FASTA))) == ""  # the control: without line ends all of it is a header
    assert DNA.decode(DNA.encode("A>C;G")) == "ACG"  # neither sign starts its line


def test_bpe_has_the_size_asked_for_and_is_the_same_each_time() -> None:
    text = [f"{number} bottles of beer on the table, {number * 7919} more\n" for number in range(2000)]
    tokenizer, again = bpe_tokenizer(text, 400), bpe_tokenizer(iter(text), 400)
    assert tokenizer.vocab_size == 400
    assert tokenizer.to_json() == again.to_json()
    with pytest.raises(DataError):
        bpe_tokenizer(text, 258)


def test_words_gives_a_word_the_same_id_at_the_beginning_of_a_text() -> None:
    text = ["river: a river with a dog", "dog: a dog of the river"] * 9
    words, plain = bpe_tokenizer(text, 300, spaced=True), bpe_tokenizer(text, 300)
    for tokenizer, same in ((words, True), (plain, False)):  # the control: a bpe tokenizer has two ids for the word
        head, (colon, *_, last) = tokenizer.encode("river: a river")[0], tokenizer.encode(": a river")
        assert (head == last) is same
        assert tokenizer.piece(colon) == ":"
    for sample in ("river: a dog", "2 dogs", "(dog) river", ": a dog", "\ndog", ""):
        assert words.decode(words.encode(sample)) == sample
        assert "".join(map(words.piece, words.encode(sample))).removeprefix(" ") == sample
    assert words.decode(words.encode(" dog")) == "dog"  # what it loses
    assert words.piece(words.encode("dog")[0])[0] == " "
    assert words.piece(words.encode("dog", inside=True)[0])[0] == "d"
    for at in range(5):  # the parts of a text are its text
        ids = words.encode("river: a dog")
        assert words.decode(ids[:at]) + words.decode(ids[at:], inside=at > 0) == "river: a dog"
    assert Tokenizer.from_json(words.to_json()).encode("ho", inside=True) == words.encode("ho", inside=True)


def test_an_unknown_character_is_one_unknown_token() -> None:
    assert CHAR.encode("qQ") == [0, 0]
    assert CHAR.decode([0]) == "<unk>"


@pytest.mark.parametrize("name", MASK_NAMES)
def test_usual_names_of_mask_are_found(name: str) -> None:
    tokenizer = Tokenizer.from_json(foreign("[PAD]", name, "</s>", special=False))
    assert tokenizer.piece(tokenizer.mask_id) == name
    assert (tokenizer.pad_id, tokenizer.mask_id, tokenizer.eos_id, tokenizer.vocab_size) == (4, 5, 6, 7)
    assert tokenizer.encode(f"to {name} be") == [1, 0, 2]
    assert Tokenizer.from_json(tokenizer.to_json()).encode(f"to {name} be") == [1, 0, 2]


def test_a_named_mask_is_used_or_added_and_found_again() -> None:
    with pytest.raises(DataError):
        Tokenizer.from_json(foreign("<|endoftext|>"))
    added = Tokenizer.from_json(foreign("<|endoftext|>"), mask_token="<hole>")
    assert (added.eos_id, added.mask_id, added.pad_id, added.vocab_size) == (4, 5, 6, 7)
    again = Tokenizer.from_json(added.to_json())
    assert (again.special_ids, again.vocab_size) == (added.special_ids, added.vocab_size)
    named = Tokenizer.from_json(foreign("<mask>", "<other>"), mask_token="<other>")
    assert named.piece(named.mask_id) == "<other>"
    assert Tokenizer.from_json(named.to_json()).mask_id == named.mask_id


def test_pad_is_never_mask() -> None:
    tokenizer = Tokenizer.from_json(foreign("[PAD]"), mask_token="[PAD]")
    assert tokenizer.mask_id == 4
    assert tokenizer.pad_id == 5


def test_no_text_encodes_to_a_special_token_that_is_also_a_word_of_the_model() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "to": 1, "[MASK]": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert backend.encode("to [MASK]").ids == [1, 2]
    assert Tokenizer.from_json(backend.to_str()).encode("to [MASK]") == [1, 0]


def test_a_foreign_tokenizer_neither_truncates_nor_pads_nor_adds_tokens() -> None:
    backend = tokenizers.Tokenizer.from_str(foreign("[MASK]", "[CLS]"))
    backend.enable_truncation(2)
    backend.enable_padding(length=5)
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 5)])
    assert Tokenizer.from_json(backend.to_str()).encode("to be or to be") == [1, 2, 3, 1, 2]


def test_the_file_is_readable_json_that_the_library_reads() -> None:
    record = json.loads(CHAR.to_json())
    assert record["model"]["vocab"]["\N{SNOWMAN}"] > 0
    assert tokenizers.Tokenizer.from_str(CHAR.to_json()).get_vocab_size() == CHAR.vocab_size


def test_templates() -> None:
    assert parse_template("To be or [5] to be") == ["To be or ", Hole(5), " to be"]
    assert parse_template("[3]") == [Hole(3)]
    assert parse_template("[1][12]") == [Hole(1), Hole(12)]
    assert parse_template(r"a \[x\] b] [2] \\[1] c:\d") == ["a [x] b] ", Hole(2), " \\", Hole(1), r" c:\d"]
    assert parse_template("a[1-8]b[3-3]") == ["a", Hole(1, 8), "b", Hole(3, 3)]
    assert parse_template("The[= king] is [?]") == ["The", Edit(" king"), " is ", Slot()]
    assert parse_template("[4=a\nb][1-8=x=y]") == [Edit("a\nb", Hole(4)), Edit("x=y", Hole(1, 8))]
    assert parse_template(r"[=\[5\]\\ [?\d]") == [Edit(r"[5]\ [?\d")]


HOLES = st.integers(1, 999).map(Hole) | st.tuples(st.integers(1, 99), st.integers(99, 999)).map(
    lambda pair: Hole(*pair)
)
EDITS = st.builds(Edit, STRINGS.filter(bool), st.none() | HOLES)


@given(
    st.lists(STRINGS.filter(bool) | HOLES | EDITS | st.just(Slot()), min_size=1).filter(
        lambda parts: any(not isinstance(part, str) for part in parts)
    )
)
@settings(max_examples=100, deadline=None)
def test_every_escaped_text_comes_back_from_its_template(parts: list[Part]) -> None:
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    escape = str.maketrans({"[": r"\[", "]": r"\]", "\\": r"\\"})

    def length(hole: Hole | None) -> str:
        if hole is None:
            return ""
        return str(hole.length) if hole.longest is None else f"{hole.length}-{hole.longest}"

    def typed(part: Part) -> str:
        match part:
            case str():
                return part.translate(escape)
            case Hole():
                return f"[{length(part)}]"
            case Edit(words, hole):
                return f"[{length(hole)}={words.translate(escape)}]"
            case Slot():
                return "[?]"

    assert parse_template("".join(map(typed, merged))) == merged
