"""The tokenizers that we make ourselves: bytes, characters, DNA and trained byte-level BPE."""

__all__ = ["bpe_tokenizer", "byte_tokenizer", "char_tokenizer", "dna_tokenizer"]

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from unmask.errors import DataError
from unmask.text.tokenizer import BYTE_CHARACTERS, Tokenizer

UNKNOWN = "<unk>"
_SPECIAL = ("<mask>", "<pad>", "<eos>")


def byte_tokenizer() -> Tokenizer:
    """A token a byte: id = value of the byte; then <mask>, <pad>, <eos> (256, 257, 258)."""
    backend = Backend(models.BPE({character: byte for byte, character in enumerate(BYTE_CHARACTERS)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _finished(backend)


def char_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A token a character that occurs in `texts`, in the order of their code points; any other becomes <unk> (id 0).

    Raises:
        DataError: where the texts hold no character.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    if not characters:
        raise DataError("a char tokenizer needs at least one character of text: the source is empty.")
    return _finished(_alphabet([UNKNOWN, *sorted(characters)], UNKNOWN))


def dna_tokenizer() -> Tokenizer:
    """A C G T N, ids 0 to 4. Case is folded, white space and FASTA header lines are dropped, other letters become N."""
    backend = _alphabet(["A", "C", "G", "T", "N"], "N")
    fold = [normalizers.Replace(letter, letter.upper()) for letter in "acgt"]
    drop = [normalizers.Replace(Regex(r"^>[^\n]*"), ""), normalizers.Replace(Regex(r"\s+"), "")]
    backend.normalizer = normalizers.Sequence([*drop, *fold])
    return _finished(backend)


def bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on `texts`: any string can be encoded, and decodes to itself.

    `vocab_size` counts everything: 256 bytes, the merges and the three special tokens, which come last. Texts with too
    few pairs to merge give a smaller vocabulary.

    Raises:
        DataError: where `vocab_size` leaves no room for the bytes and special tokens.
    """
    smallest = len(BYTE_CHARACTERS) + len(_SPECIAL)
    if vocab_size < smallest:
        raise DataError(f"a bpe tokenizer of {vocab_size} ids was asked for: it has at least {smallest}.")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_SPECIAL),
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=list(BYTE_CHARACTERS),
    )
    backend.train_from_iterator(_sized(texts), trainer)
    return _finished(backend)


def _sized(texts: Iterable[str]) -> Iterator[str]:
    """`texts` without empty ones, which the trainer has no use for."""
    return (text for text in texts if text)


def _alphabet(tokens: list[str], unknown: str) -> Backend:
    """A backend in which each character is a token of its own; BPE without merges is the quickest model for that."""
    backend = Backend(
        models.BPE({token: one for one, token in enumerate(tokens)}, [], unk_token=unknown, fuse_unk=False)
    )
    backend.decoder = decoders.Fuse()
    return backend


def _finished(backend: Backend) -> Tokenizer:
    """`backend` with our special tokens behind its own."""
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _SPECIAL])
    return Tokenizer.from_json(backend.to_str())
