"""The bodies of requests, as OpenAI's clients write them, with our own field `unmask`. Checked before anything runs.

A field that would change the answer and that nothing here heeds is refused by name. Unknown fields are ignored, as
clients send new ones.
"""

__all__ = [
    "ChatBody",
    "CompletionBody",
    "DenoiseBody",
    "ErrorBody",
    "ErrorFacts",
    "FimBody",
    "JsonSchema",
    "Message",
    "OwnOptions",
    "ResponseFormat",
    "ScoreBody",
    "StreamOptions",
    "TextPart",
]

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
_Text = Annotated[str, Field(max_length=2**20)]
_NOT_HEEDED = {
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "best_of": (None, 1),
    "tools": (None, []),
    "functions": (None, []),
    "audio": (None,),
    "prediction": (None,),
    "min_tokens": (None, 0),
}
"""Fields that are not heeded -> values that say nothing."""


class OwnOptions(BaseModel):
    """How a request is decoded; what is left out has the model's default."""

    model_config = ConfigDict(extra="forbid")
    policy: Annotated[str, Field(max_length=1000)] | None = None
    dial: Annotated[_Number, Field(ge=0, le=1)] | None = None
    passes: Annotated[_Number, Field(gt=0)] | None = None
    block_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    cache: Literal["prefix", "dual", "delayed"] | None = None
    length: Annotated[int, Field(ge=1)] | None = None
    """Tokens to write, as max_tokens."""
    regex: Annotated[str, Field(max_length=10_000)] | None = None
    """The text matches this regular expression."""
    choices: Annotated[list[_Text], Field(min_length=1, max_length=256)] | None = None
    """The text is one of these."""


class _Body(BaseModel):
    """What all requests share."""

    not_heeded: ClassVar[Mapping[str, tuple[Any, ...]]] = _NOT_HEEDED
    model_config = ConfigDict(extra="allow")
    model: Annotated[str, Field(max_length=300)] | None = None
    temperature: Annotated[_Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[_Number, Field(gt=0, le=1)] | None = None
    seed: _Seed | None = None
    unmask: OwnOptions = OwnOptions()

    @field_validator("unmask", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _heeded(self) -> "_Body":
        """Refuse a field that would change the answer and is not heeded."""
        for name, nothing in self.not_heeded.items():
            if (value := (self.model_extra or {}).get(name)) not in nothing:
                raise ValueError(f"{name} is {str(value)[:60]!r} and is not supported; leave it out")
        return self


class StreamOptions(BaseModel):
    """Whether the last chunk of a stream has the usage."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool = False


class _Writing(_Body):
    """What requests for a text share."""

    n: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: Annotated[str, Field(max_length=256)] | list[Annotated[str, Field(max_length=256)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool | None = None
    """A stream of drafts: each chunk has the whole text as it stands, in place of what is new."""

    @model_validator(mode="after")
    def _drafts(self) -> "_Writing":
        """Drafts are for streams alone."""
        if self.diffusing and not self.stream:
            raise ValueError("diffusing asks for a stream of drafts; give stream too, or leave it out")
        return self

    @property
    def stops(self) -> list[str]:
        """The texts at which to stop."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @field_validator("stop")
    @classmethod
    def _few(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 16 or not all(stops):
            raise ValueError(f"stop has {len(stops)} texts; give at most 16, none of them empty")
        return value


class JsonSchema(BaseModel):
    """The schema of an answer."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    name: str = ""
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of an answer."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class CompletionBody(_Writing):
    """POST /v1/completions: a prompt, or several, as texts or as ids; with `suffix` the text between the two."""

    prompt: _Text | list[_Text] | list[int] | list[list[int]] = ""
    suffix: _Text | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None

    @field_validator("prompt")
    @classmethod
    def _any(cls, value: Any) -> Any:
        if value == []:
            raise ValueError("prompt is an empty list; give a text, or a list of at least one")
        return value

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [list(self.prompt)]  # pyright: ignore[reportReturnType, reportArgumentType]
        return list(self.prompt)  # pyright: ignore[reportReturnType, reportArgumentType]


class FimBody(CompletionBody):
    """POST /v1/fim/completions: the name of the same request elsewhere."""

    random_seed: _Seed | None = None


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="allow")
    type: Literal["text"]
    text: _Text


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant"]
    content: _Text | list[TextPart]

    @field_validator("content", mode="before")
    @classmethod
    def _readable(cls, value: Any) -> Any:
        """Refuse pictures and sounds by name."""
        for part in value if isinstance(value, list) else []:
            if isinstance(part, dict) and isinstance(name := part.get("type"), str) and name != "text":
                raise ValueError(f"content has a part of type {name[:60]!r}; only those of type 'text' are read")
        return value

    @property
    def text(self) -> str:
        """The text of the message."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Writing):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class ScoreBody(_Body):
    """POST /v1/score: how probable each choice is where the template has [?]."""

    template: _Text
    choices: Annotated[list[_Text], Field(min_length=1, max_length=256)]
    orders: Annotated[int, Field(ge=2, le=1024)] = 32

    @model_validator(mode="after")
    def _plain(self) -> "ScoreBody":
        """Refuse what only a text that is written has."""
        for name in ("temperature", "top_p"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} has no meaning where choices are compared; leave it out")
        if own := [name for name, value in self.unmask.model_dump().items() if value is not None]:
            raise ValueError(f"unmask.{own[0]} has no meaning where choices are compared; leave it out")
        return self


class DenoiseBody(_Body):
    """POST /v1/denoise: each change of a template, of a prompt, or of token ids with null where to write."""

    not_heeded: ClassVar[Mapping[str, tuple[Any, ...]]] = _NOT_HEEDED | {"stop": (None, []), "n": (None, 1)}
    template: _Text | None = None
    prompt: _Text | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    tokens: list[int | None] | None = None
    provisional: bool = False
    """Whether each pass also has what the model would write where nothing is written yet."""
    alternatives: Annotated[int, Field(ge=0, le=5)] = 0
    stream: bool = True

    @model_validator(mode="after")
    def _single(self) -> "DenoiseBody":
        """Exactly one canvas."""
        canvases = [name for name in ("template", "prompt", "tokens") if getattr(self, name) is not None]
        if len(canvases) != 1:
            raise ValueError(f"{' and '.join(canvases) or 'nothing'} was given; give template, or prompt, or tokens")
        return self


class ErrorFacts(BaseModel):
    """What an error says."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error, see `guard.error_body`."""

    error: ErrorFacts
