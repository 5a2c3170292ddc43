"""The options that several verbs share."""

__all__ = ["DecodingOptions", "MachineOptions", "OutputOptions", "RecordingOptions"]

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from unmask.api import Model


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How masked positions are filled."""

    policy: str = "random"
    """Which tokens appear when: a name, or name:key=value (`unmask list policies`)."""
    temperature: float = 1.0
    """0 takes the most probable token; 1 samples from the model."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that has this share of the probability."""
    dial: float | None = None
    """From 0 (accurate) to 1 (one pass), for a learned policy (learned:from=FOLDER); 0.25 where nothing is said."""
    passes: float | None = None
    """The passes that a learned policy may spend on average: its dial is set by its calibration."""
    block_size: int | None = None
    """Fill blocks of so many positions from left to right; by default all at once."""
    cache: str | None = None
    """Keep keys and values between passes: prefix, dual (both with blocks) or delayed; an option is written
    dual:refresh=8. Faster, and only nearly the same text."""
    guidance: float = 0.0
    """Scale of classifier-free guidance towards the text that is given; each pass then costs two."""
    suppress: tuple[str, ...] = ()
    """Tokens that are never written: texts of one token each, or names of special tokens."""
    only: str | None = None
    """Write only tokens that are made of these characters, such as 0123456789."""
    seed: int = 0
    """The same seed gives the same text."""

    def keywords(self, model: "Model") -> dict[str, Any]:
        """The same as keyword arguments of `Model.stream` and `Model.stream_fill`."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "only"}
        return values | {"constraint": None if self.only is None else model.only(self.only)}


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """What is shown and kept while a text is written."""

    watch: bool = False
    """Show the text while it is written."""
    trace: str | None = None
    """Record what happened in FILE.jsonl, for `unmask watch`, or as a page that plays it in FILE.html."""


@dataclass(frozen=True, slots=True)
class MachineOptions:
    """Where and in which arithmetic the network runs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network."""
    threads: int | None = None
    """Processor threads; by default torch's own choice."""

    def load(self, checkpoint: str) -> "Model":
        """A checkpoint or run folder, or the name of a bundled model -> the model on this machine."""
        import unmask

        return unmask.load(checkpoint, device=self.device, dtype=self.dtype, threads=self.threads)


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What is printed."""

    json: bool = False
    """Print one JSON object on stdout."""
