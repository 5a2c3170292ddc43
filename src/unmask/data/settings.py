"""The settings of training data; imports neither numpy nor torch, so that `--help` is fast."""

__all__ = ["BUILT_IN_TOKENIZERS", "SMALLEST_BPE", "DataSettings"]

from dataclasses import dataclass
from typing import Annotated, Literal

from unmask.errors import ConfigError
from unmask.ranges import Threads, check_numbers, real, whole

BUILT_IN_TOKENIZERS = ("auto", "byte", "char", "dna", "bpe")
SMALLEST_BPE = 259  # 256 bytes, MASK, PAD and EOS


@dataclass(frozen=True, slots=True)
class DataSettings:
    """The source of text, and how it becomes rows of token ids."""

    source: str = "shakespeare"
    """A text file, a folder, a glob, a .jsonl or .jsonl.gz file, the name of a bundled corpus, task:NAME@COUNT for
    problems of a task, or hf:NAME[:CONFIG][@SPLIT] for a data set of the `datasets` library (the default split
    is train)."""

    tokenizer: str = "auto"
    """auto, byte, char, dna, bpe, or the path of a tokenizer.json or of a checkpoint folder; auto means dna for the
    bundled genome, else bpe."""

    vocab_size: Annotated[int | None, whole(SMALLEST_BPE, 1 << 24, "256 bytes and 3 special tokens")] = None
    """Ids of a trained bpe tokenizer, special tokens included; by default 512 for less than 200 kB of text, 1024 below
    2 MB, 2048 below 20 MB, 8192 below 200 MB, else 32768."""

    mask_token: str | None = None
    """The token of a tokenizer file to use as MASK; a name that the file does not have is added as a new id."""

    length: Annotated[int, whole(2)] = 256
    """Positions in a row."""

    eos: Literal["append", "none"] = "append"
    """Whether EOS follows each document."""

    valid_share: Annotated[float, real(0, 1, "such as 0.05", above=True, below=True)] = 0.05
    """The share of documents that is kept for validation; of the text if there are fewer than 20 documents."""

    text_key: str = "text"
    """The key that holds the text in a row of a .jsonl file or of an hf: data set."""

    workers: Threads = 1
    """Threads that encode text; the result does not depend on their number."""

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
        if self.eos not in ("append", "none"):
            raise ConfigError(f"data.eos is '{self.eos}': it is append or none.")
        if not self.text_key:
            raise ConfigError("data.text_key is empty: give the name of the key that holds the text, such as text.")
        self._check_tokenizer()

    def _check_tokenizer(self) -> None:
        """Raise ConfigError for options that do not apply to the chosen tokenizer."""
        if not self.tokenizer:
            raise ConfigError(f"data.tokenizer is empty: give one of {', '.join(BUILT_IN_TOKENIZERS)}, or a path.")
        if self.vocab_size is not None and self.tokenizer not in ("auto", "bpe"):
            raise ConfigError(f"data.vocab_size is for the bpe tokenizer, but data.tokenizer is '{self.tokenizer}'.")
        if self.mask_token is not None and self.tokenizer in BUILT_IN_TOKENIZERS:
            raise ConfigError(
                f"data.mask_token names the MASK of a tokenizer file, but data.tokenizer is '{self.tokenizer}', "
                "which has its own."
            )
        if self.mask_token == "":
            raise ConfigError("data.mask_token is empty: give the name of a token, such as <mask>.")
