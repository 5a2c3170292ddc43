"""The table of a family: how config.json, the names of tensors and the tokens of a published model are read."""

__all__ = ["Family", "size_of"]

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from unmask.text.published import Chat

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Family:
    """Published models with one kind of config.json and of tensor names.

    A place in config.json is written "key", "key.inner", "key / key" for a quotient, "key * key" for a product,
    "key + 1" for a sum, "=4" for that number, and "a | b" for the first that exists. All but those of `fixed` have to
    exist: the defaults of the original classes are often wrong. A setting "a.b" is the field b of the field a.
    """

    about: str
    """The models in words."""
    repositories: tuple[str, ...]
    """Their names on the Hugging Face hub."""
    matches: Mapping[str, Any]
    """Place in config.json -> the value there, or its first element, by which the family is recognised."""
    keys: Mapping[str, str]
    """Setting of the network -> its place in config.json."""
    names: Mapping[str, str | tuple[str, ...]]
    """Name of a tensor -> our name, {} for the number of a block in both; "" for a tensor that is not needed; several
    names for a matrix that holds queries, keys and values one below the other."""
    mask: int | str
    """MASK: an id, a place in config.json (a sum, or one that ends with "_id"), or the name of a token. "" for a causal
    model, which has none: the first id after the tokenizer's."""
    eos: int | str
    """EOS, likewise."""
    time: float | None = None
    """The time at which a network with a time input is always run; its effect is folded into constants."""
    tokenizer: str = ""
    """The repository of the tokenizer, where it is not published with the weights."""
    token: str = ""
    """A token that the tokenizer has to have, where config.json is that of another family."""
    pad: int | str = ""
    """Padding, likewise; "" for that of EOS. It is never attended to."""
    bos: int | str = ""
    """The token that begins a text, likewise; "" for none."""
    architecture: str = "transformer"
    """The network, by its name in `unmask.model.load.ARCHITECTURES`."""
    constants: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    """Setting of the network -> its value, which config.json does not have."""
    scaling: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    """As `keys`, where the first of them, "scaling.rule", has a value other than "default" in config.json."""
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: _EMPTY)
    """Place in config.json -> the values for which the network is the right one; None: absent or null."""
    refused: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: _EMPTY)
    """Place in config.json -> values of models of the same name that are other networks."""
    decoding: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    """The default decoding: policy, temperature, top_p, block_size."""
    chat: Chat | None = None
    """The template of conversations, where the models were trained on any."""


_SIZES = {
    "LLaDA-1.5": "8B",
    "LLaDA2.0-mini": "16B",
    "LLaDA2.0-flash": "100B",
    "LLaDA2.1-mini": "16B",
    "mdlm-owt": "170M",
    "mdlm-no_flashattn-fp32-owt": "170M",
    "bd3lm-owt-block_size4": "170M",
    "bd3lm-owt-block_size8": "170M",
    "bd3lm-owt-block_size16": "170M",
    "sedd-small": "170M",
    "sedd-medium": "424M",
    "bert-base-uncased": "110M",
    "bert-base-multilingual-cased": "179M",
    "roberta-base": "125M",
}
"""Parameters of models whose names do not say it."""


def size_of(repository: str) -> str:
    """OWNER/NAME -> the number of parameters, such as "8B": what the name says, or a table."""
    name = repository.partition("/")[2]
    match = re.search(r"(?<![\d.])(\d+(?:\.\d+)?[BM])\b", name)
    return match[1] if match else _SIZES[name]
