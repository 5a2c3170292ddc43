"""The settings of training data; imports neither numpy nor torch, so that `--help` is fast."""

__all__ = ["BUILT_IN_TOKENIZERS", "FIXED", "INDEX_FILE", "SMALLEST_BPE", "SPLIT_RULE", "Columns", "DataSettings"]

from dataclasses import dataclass
from typing import Annotated, Literal

from unmask.errors import ConfigError
from unmask.ranges import Threads, check_numbers, real, whole

BUILT_IN_TOKENIZERS = ("auto", "byte", "char", "dna", "bpe", "words")
FIXED = frozenset({"tokenizer", "vocab_size", "mask_token"})  # settings that a checkpoint decides
SMALLEST_BPE = 259  # 256 bytes, MASK, PAD and EOS
INDEX_FILE = "unmask-data.json"  # the index of a folder of prepared data
SPLIT_RULE = 2
"""The rule by which sources are read and split; a run records its number.

1: CSV, JSON lists and FASTA are plain text; the share of documents with the largest hashes of number and start is for
validation; of fewer than 20 documents, the end of the text. 2: see `data.split.plan_split`; in plain text CRLF and CR
are line ends as LF is.
"""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns (keys) of rows that are asked for, or are taken: of text, or of prompts and answers."""

    text: str | None = "text"
    prompt: str | None = None
    answer: str | None = None

    def __str__(self) -> str:
        """What is taken, as a part of a sentence."""
        pair = f"prompts from '{self.prompt}', answers from '{self.answer}'"
        return pair if self.text is None else f"text from '{self.text}'"


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The source of text, and how it becomes rows of token ids."""

    source: str = "shakespeare"
    """A file of text, rows (.jsonl, .json, .csv, .tsv, .parquet) or FASTA, also with .gz; a folder, a glob, the name of
    a bundled corpus, a folder that unmask data prepare wrote, task:NAME@COUNT for problems of a task, or
    hf:NAME[:CONFIG][@SPLIT] for a data set of the `datasets` library (the default split is train)."""

    tokenizer: str = "auto"
    """auto, byte, char, dna, bpe, words, or the path of a tokenizer.json or of a checkpoint folder. words is a bpe for
    documents that begin with a word: the word has the same id there as after a space. auto means words for the bundled
    wordnet, dna for the genome, else bpe."""

    vocab_size: Annotated[int | None, whole(SMALLEST_BPE, 1 << 24, "256 bytes and 3 special tokens")] = None
    """Ids of a trained bpe tokenizer, special tokens included; by default 512 for less than 200 kB of text, 1024 below
    2 MB, 2048 below 20 MB, 8192 below 200 MB, else 32768."""

    mask_token: str | None = None
    """The token of a tokenizer file to use as MASK; a name that the file does not have is added as a new id."""

    length: Annotated[int, whole(2)] = 256
    """Positions in a row."""

    rows: Literal["stream", "whole"] = "stream"
    """How documents fill rows. stream: one after another, cut where a row ends. whole: each in one row, beside others
    that fit there; only a document longer than a row is cut. Then every row begins with a document."""

    eos: Literal["append", "none"] = "append"
    """Whether EOS follows each document."""

    valid_share: Annotated[float, real(0, 1, "such as 0.05", above=True, below=True)] = 0.05
    """The share of documents that is kept for validation; of each document if there are fewer than 20 of them."""

    text_key: str = "text"
    """The column (key) that holds the text in rows. Rows without it are prompts and answers."""

    prompt_key: str | None = None
    """The column of the prompts; by default prompt or question, with answer."""

    answer_key: str | None = None
    """The column of the answers."""

    workers: Threads = 1
    """Processes that encode text; the result does not depend on their number."""

    valid: str | None = None
    """A separate source for validation, written like source; all of source is then for training."""

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ConfigError: if a value is out of its range, or does not apply to the tokenizer.
        """
        check_numbers(self, "data.")
        if not self.source:
            raise ConfigError(
                "data.source is empty: give a file, a folder, a corpus name such as shakespeare, or hf:NAME."
            )
        if self.valid == "":
            raise ConfigError("data.valid is empty: give a source like data.source, or leave it out.")
        self._check_columns()
        self._check_tokenizer()

    @property
    def columns(self) -> Columns:
        """The columns that are asked for; a key of prompts or answers alone goes with the usual name of the other."""
        if self.prompt_key is None and self.answer_key is None:
            return Columns(self.text_key)
        return Columns(None, self.prompt_key or "prompt", self.answer_key or "answer")

    def _check_columns(self) -> None:
        """Raise ConfigError for names of columns that are empty or contradict each other."""
        if not self.text_key:
            raise ConfigError("data.text_key is empty: give the name of the key that holds the text, such as text.")
        for name, usual in (("prompt_key", "question"), ("answer_key", "answer")):
            if getattr(self, name) == "":
                raise ConfigError(f"data.{name} is empty: give the name of a column, such as {usual}.")
        asked = self.columns
        if asked.text is None and self.text_key != "text":
            raise ConfigError(
                f"data.text_key is '{self.text_key}', but data.prompt_key and data.answer_key ask for pairs: "
                "give either a column of text or the two of prompts and answers."
            )
        if asked.text is None and asked.prompt == asked.answer:
            raise ConfigError(f"'{asked.prompt}' cannot be the column of the prompts and of the answers: give two.")

    def _check_tokenizer(self) -> None:
        """Raise ConfigError for options that do not apply to the chosen tokenizer."""
        if not self.tokenizer:
            raise ConfigError(f"data.tokenizer is empty: give one of {', '.join(BUILT_IN_TOKENIZERS)}, or a path.")
        if self.vocab_size is not None and self.tokenizer not in ("auto", "bpe", "words"):
            raise ConfigError(
                f"data.vocab_size is for the bpe and words tokenizers, but data.tokenizer is '{self.tokenizer}'."
            )
        if self.mask_token is not None and self.tokenizer in BUILT_IN_TOKENIZERS:
            raise ConfigError(
                f"data.mask_token names the MASK of a tokenizer file, but data.tokenizer is '{self.tokenizer}', "
                "which has its own."
            )
        if self.mask_token == "":
            raise ConfigError("data.mask_token is empty: give the name of a token, such as <mask>.")
