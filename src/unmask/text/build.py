"""Tokenizers made by this library: bytes, characters, DNA letters, and trained byte-level BPE (byte-pair encoding)."""

__all__ = ["bpe_tokenizer", "byte_tokenizer", "char_tokenizer", "dna_tokenizer", "letter_tokenizer", "refuse_foreign"]

import re
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from unmask.errors import DataError
from unmask.limits import require_memory
from unmask.text.tokenizer import BYTE_CHARACTERS, Tokenizer

UNKNOWN = "<unk>"
_SPECIAL = ("<mask>", "<pad>", "<eos>")


def byte_tokenizer() -> Tokenizer:
    """A tokenizer with one token per byte: id = value of the byte; <mask>, <pad>, <eos> have the ids 256, 257, 258."""
    backend = Backend(models.BPE({character: byte for byte, character in enumerate(BYTE_CHARACTERS)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _finished(backend)


def char_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Texts -> a tokenizer with one token per character of them, ordered by code point; others become <unk> (id 0).

    Raises:
        DataError: if the texts have no character.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise DataError("a char tokenizer needs at least one character of text: the source is empty.")
    return _finished(_alphabet([UNKNOWN, *sorted(characters)], UNKNOWN))


def dna_tokenizer() -> Tokenizer:
    """A tokenizer of DNA letters: A C G T N have the ids 0 to 4.

    FASTA is understood: header lines (>) and comment lines (;) are dropped, whether lines end with LF, CR LF or CR. Of
    the other lines the letters count: a c g t are encoded as upper case, other letters become N; white space, digits,
    - and * are dropped.
    """
    backend = _alphabet(["A", "C", "G", "T", "N"], "N")
    fold = [normalizers.Replace(letter, letter.upper()) for letter in "acgt"]
    lines = Regex(r"(?<![^\r\n])[>;][^\r\n]*")  # a line starts where no character but CR or LF comes before
    drop = [normalizers.Replace(lines, ""), normalizers.Replace(Regex(r"[^\p{L}]+"), "")]
    backend.normalizer = normalizers.Sequence([*drop, *fold])
    return _finished(backend)


_FOREIGN = re.compile(r"[^ACGTRYKMSWBDHVN\W\d_]", re.IGNORECASE)  # IUPAC's codes are known: N is any of the four


def refuse_foreign(letters: str, name: str) -> None:
    """Raise DataError for a letter that is neither A, C, G, T nor a code of several of them; `name` begins it."""
    if match := _FOREIGN.search(letters):
        advice = "replace U by T" if match[0] in "Uu" else "is it a protein? Give DNA, or another tokenizer"
        raise DataError(f"{name} has the letter '{match[0]}', which stands for no nucleotide of DNA: {advice}.")


def letter_tokenizer(tokens: Sequence[str], unknown: str, special: Sequence[str]) -> Tokenizer:
    """The tokens of a published model of letters by id -> its tokenizer: a letter is a token, others are `unknown`."""
    backend = _alphabet(list(tokens), unknown)
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return Tokenizer.from_json(backend.to_str())


def bpe_tokenizer(texts: Iterable[str], vocab_size: int, spaced: bool = False) -> Tokenizer:
    """Texts -> a byte-level BPE tokenizer trained on them: it encodes any string, and decodes it exactly.

    `vocab_size` counts all ids: 256 bytes, the merges, and the three special tokens, which have the highest ids. The
    vocabulary is smaller if the texts have too few pairs to merge. With `spaced`, a text that begins with a letter or
    a digit is encoded as if a space stood before it, and a space at the beginning of a text is lost: a word has the
    same ids at the beginning of a text and inside it.

    Raises:
        DataError: if `vocab_size` is too small for the bytes and the special tokens.
    """
    smallest = len(BYTE_CHARACTERS) + len(_SPECIAL)
    if vocab_size < smallest:
        raise DataError(f"a bpe tokenizer of {vocab_size} ids was asked for: it has at least {smallest}.")
    require_memory(vocab_size * 16, f"A tokenizer of {vocab_size:,} ids", "ask for fewer ids")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if spaced:
        drop = normalizers.Replace(Regex(r"^ (?![\p{L}\p{N}])"), "")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), drop])
        backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_SPECIAL),
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=list(BYTE_CHARACTERS),
    )
    backend.train_from_iterator(_nonempty(texts), trainer)
    return _finished(backend)


def _nonempty(texts: Iterable[str]) -> Iterator[str]:
    """`texts` without the empty ones."""
    return (text for text in texts if text)


def _alphabet(tokens: list[str], unknown: str) -> Backend:
    """A backend in which each character is one token; BPE without merges is the fastest model for that."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocabulary, [], unk_token=unknown, fuse_unk=False))
    backend.decoder = decoders.Fuse()
    return backend


def _finished(backend: Backend) -> Tokenizer:
    """`backend` with the special tokens of this library added after its own tokens."""
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    return Tokenizer.from_json(backend.to_str())
