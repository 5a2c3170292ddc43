"""Templates of conversations as data: messages -> token ids. A template that a file brings is never rendered."""

__all__ = ["chat_ids", "message_end", "special_tokens"]

import re
from collections.abc import Sequence

from unmask.errors import RequestError
from unmask.text.published import Chat
from unmask.text.tokenizer import Tokenizer

_SPECIAL = re.compile(r"<\|?/?\w+\|?>")
_END = re.compile(rf"\{{text\}}({_SPECIAL.pattern})")


def chat_ids(tokenizer: Tokenizer, chat: Chat, messages: Sequence[tuple[str, str]]) -> list[int]:
    """(role, text) of each message -> the ids of the conversation up to the answer of the model.

    The special tokens of the template become their ids. Names of special tokens in a message stay text. Raises
    RequestError where the tokenizer lacks a token of the template.
    """
    if chat.system and all(role != "system" for role, _ in messages):
        messages = [("system", chat.system), *messages]
    ids = _ids(tokenizer, chat.start)
    for role, text in messages:
        ids += _ids(tokenizer, chat.message, role=chat.roles.get(role, role), text=text.strip())
    return ids + _ids(tokenizer, chat.answer)


def message_end(tokenizer: Tokenizer, chat: Chat) -> int | None:
    """The id of the token that ends a message, and so an answer, as EOS does; None for a template without one."""
    match = _END.search(chat.message)
    return None if match is None else tokenizer.backend.token_to_id(match[1])


def special_tokens(part: str) -> list[str]:
    """A part of a template -> the names of the special tokens in it."""
    return _SPECIAL.findall(part)


def _ids(tokenizer: Tokenizer, template: str, **words: str) -> list[int]:
    """A part of a template and the words for its names in braces -> its ids."""
    ids: list[int] = []
    end = 0
    for match in [*_SPECIAL.finditer(template), None]:
        plain = template[end : None if match is None else match.start()]
        ids += tokenizer.encode(plain.format(**words)) if plain else []
        if match is not None:
            token = tokenizer.backend.token_to_id(match[0])
            if token is None:
                raise RequestError(
                    f"The tokenizer has no token {match[0]}, which its template of conversations needs: the model only "
                    "continues texts; leave out --chat."
                )
            ids.append(token)
            end = match.end()
    return ids
