"""Which tokens of a tokenizer are MASK, PAD and EOS: recorded, by their usual names, or by their ids."""

__all__ = ["EOS_NAMES", "MASK_NAMES", "PAD_NAMES", "ROLE", "names_of", "role_names"]

from collections.abc import Collection, Mapping
from typing import Any

from unmask.errors import DataError

ROLE = "unmask_role"
"""The field of an added token that has its roles, divided by spaces."""
MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>", "<|mask_token|>", "<MASK>", "<|MASK|>")
PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<PAD>", "<|finetune_right_pad_id|>")
EOS_NAMES = ("<eos>", "[EOS]", "</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<EOS>", "[SEP]")


def role_names(record: dict[str, Any], known: Collection[str], mask_token: str | None) -> dict[str, str] | None:
    """The names of MASK, PAD and EOS (if it exists) by role; None without a MASK."""
    roles: dict[str, str] = {
        role: token["content"] for token in record["added_tokens"] for role in token.get(ROLE, "").split()
    }
    if roles.get("pad", "") == roles.get("eos") and "mask" in roles:
        return roles  # two roles of one token, as `to_json` has recorded them

    def find(role: str, usual: tuple[str, ...], taken: set[str]) -> str | None:
        candidates = (roles[role], *usual) if role in roles else usual
        return next((name for name in candidates if name in known and name not in taken), None)

    mask = mask_token or find("mask", MASK_NAMES, set())
    if mask is None:
        return None
    pad = find("pad", PAD_NAMES, {mask}) or next(name for name in PAD_NAMES[1:] if name not in known and name != mask)
    eos = find("eos", EOS_NAMES, {mask, pad})
    return {"mask": mask, "pad": pad} if eos is None else {"mask": mask, "pad": pad, "eos": eos}


def names_of(roles: Mapping[str, int], vocabulary: Mapping[str, int], name: str) -> dict[str, str]:
    """The ids of MASK, PAD and EOS by role -> their names. Raises DataError for an id that has no token."""
    names = {number: content for content, number in vocabulary.items()}
    roles = {role: roles[role] for role in ("mask", "pad", "eos")}
    spare = 1 + max(names, default=-1)
    if roles["mask"] == spare:  # the id that the tokenizer gives to the next token which is added to it
        names[spare] = next(name for name in MASK_NAMES if name not in vocabulary)
    for role, number in roles.items():
        if number not in names:
            raise DataError(
                f"{name} has no token with the id {number}, which is {role.upper()} of the model: copy "
                "the tokenizer that was published with the model."
            )
    return {role: names[number] for role, number in roles.items()}
