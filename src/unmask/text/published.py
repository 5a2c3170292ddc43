"""The tokenizer of a published model: tokenizer.json, or vocab.json with merges.txt, or vocab.txt."""

__all__ = ["Chat", "Vocabulary", "read_vocabulary"]

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmask.disk.json import NotJson, parse_json, read_json, read_lines, read_text
from unmask.errors import CheckpointError

_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizer splits a text before byte pairs are merged."""


@dataclass(frozen=True, slots=True)
class Chat:
    """The text around the messages of a conversation. Names of special tokens in it are the tokens themselves."""

    message: str
    """A message, with {role} and {text}; texts are stripped of white space at their ends."""
    answer: str
    """What begins the answer."""
    start: str = ""
    """What begins the conversation."""
    system: str = ""
    """The text of the system message where there is none; "" for no such message."""
    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    """The names of roles, where they are not system, user and assistant."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The content of a tokenizer.json, and the id of each token by its text."""

    text: str | None = field(repr=False)
    """None where the folder has no tokenizer."""
    ids: dict[str, int] = field(repr=False)


def read_vocabulary(folder: Path) -> Vocabulary:
    """Folder of a published model -> its tokenizer. Raises CheckpointError for files that cannot be read."""
    if (folder / "tokenizer.json").is_file():
        text = _text(folder / "tokenizer.json")
        return Vocabulary(text, _ids(text, folder / "tokenizer.json"))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        record = _byte_pairs(folder)
        ids = record["model"]["vocab"] | {token["content"]: token["id"] for token in record["added_tokens"]}
        return Vocabulary(json.dumps(record, ensure_ascii=False), ids)
    if (folder / "vocab.txt").is_file():
        record = _word_pieces(folder)
        return Vocabulary(json.dumps(record, ensure_ascii=False), record["model"]["vocab"])
    return Vocabulary(None, {})


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, NotJson) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): download the file again.") from error


def _ids(text: str, path: Path) -> dict[str, int]:
    """The content of a tokenizer.json -> the ids of its tokens."""
    try:
        record = parse_json(text, dict[str, Any])
        vocabulary = record["model"]["vocab"]
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {row[0]: i for i, row in enumerate(vocabulary)}
        return ids | {token["content"]: token["id"] for token in record.get("added_tokens") or []}
    except (NotJson, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{path} is no tokenizer.json that can be read: download the file again.") from error


def _byte_pairs(folder: Path) -> dict[str, Any]:
    """vocab.json, merges.txt and the added tokens of a Qwen or GPT-2 tokenizer -> the record of a tokenizer.json."""
    vocabulary = read_json(folder / "vocab.json", dict[str, int], CheckpointError)
    merges = [line for line in read_lines(folder / "merges.txt", CheckpointError, "the merges of a tokenizer") if line]
    added = _added(folder)
    qwen = bool(added)  # GPT-2's files have no added tokens
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": not qwen}
    words = {"type": "Split", "pattern": {"Regex": _QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if qwen else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, split]} if qwen else split,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [line.split(" ") for line in merges if not line.startswith("#version")],
        },
    }


def _added(folder: Path) -> list[dict[str, Any]]:
    """tokenizer_config.json and added_tokens.json -> the tokens beside the vocabulary, by their ids."""
    tokens: dict[int, dict[str, Any]] = {}
    if (folder / "added_tokens.json").is_file():
        for content, number in read_json(folder / "added_tokens.json", dict[str, int], CheckpointError).items():
            tokens[number] = {"content": content, "special": True}
    if (folder / "tokenizer_config.json").is_file():
        config = read_json(folder / "tokenizer_config.json", dict[str, Any], CheckpointError)
        for number, facts in (config.get("added_tokens_decoder") or {}).items():
            tokens[int(number)] = {"content": facts["content"], "special": bool(facts.get("special"))}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [{"id": number, **plain, **tokens[number]} for number in sorted(tokens)]


def _word_pieces(folder: Path) -> dict[str, Any]:
    """vocab.txt of a BERT, a token on each line -> the record of a tokenizer.json of word pieces."""
    lines = read_lines(folder / "vocab.txt", CheckpointError, "the vocab.txt of its authors")
    options = folder / "tokenizer_config.json"
    facts = read_json(options, dict[str, Any], CheckpointError) if options.is_file() else {}
    lower = facts.get("do_lower_case", True) is True  # the default of BertTokenizer
    vocabulary = {token: number for number, token in enumerate(lines)}
    special = [token for token in lines if token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token} | flags for token in special],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }
