"""Settings of the networks: their shapes. Imported without torch, so that `--help` and `--dry` stay fast."""

__all__ = [
    "SIZES",
    "DiTSettings",
    "EncoderSettings",
    "ExpertSettings",
    "RotaryScaling",
    "TransformerSettings",
    "in_int8",
    "size_for",
]

from dataclasses import dataclass
from typing import Annotated, Literal

from unmask.errors import ConfigError
from unmask.ranges import Count, Natural, check_numbers, real


@dataclass(frozen=True, slots=True)
class DiTSettings:
    """MDLM's diffusion transformer (arXiv:2406.07524 D.4; Peebles and Xie, arXiv:2212.09748)."""

    vocab_size: Count
    """Number of token ids of the embedding and the head, MASK and PAD included."""
    mask_id: Natural
    """The id of MASK."""
    max_length: Count = 256
    """Longest sequence in tokens."""
    width: Count = 256
    """Size of the residual stream."""
    blocks: Count = 6
    """Number of transformer blocks."""
    heads: Count = 4
    """Attention heads; a divisor of the width."""
    dropout: Annotated[float, real(0, 1, below=True)] = 0.1
    """Probability that an element of a branch is dropped before it is added to the residual stream."""
    gelu: Literal["exact", "tanh"] = "exact"
    """Exact GELU, or its tanh approximation as in MDLM's code. They differ by less than 5e-4, and the exact one was
    faster on the measured CPUs (docs/log.md)."""
    modulation: Literal["none", "constant", "time"] = "none"
    """Shift, scale and gate of the branches: absent; constants (a published model without its time input); or computed
    from the time by adaLN (a time-conditioned model)."""
    absolute: bool = False
    """Learned absolute positions besides the rotary ones, for canvases of a fixed form such as a grid."""
    causal_block: Natural = 0
    """Block-causal attention (BD3-LM, arXiv:2503.09573): a position attends to its own block of so many positions and
    to earlier blocks, so that keys and values of finished blocks stay exact. 0: attention to all positions."""
    cond: Count = 128
    """Width of the time embedding, for modulation by time."""
    shift: bool = False
    """Whether the hidden state at position i predicts token i + 1: in an autoregressive model (`causal_block` 1)."""
    parameterization: Literal["subs", "mlm", "zero-masking", "d3pm", "sedd"] = "subs"
    """What the logits are. subs: of the clean token, and visible tokens are copied (MDLM). mlm: the same, trained with
    a fixed share of MASK (BERT). zero-masking: without the copy. d3pm: MASK has a probability too. sedd: logarithms of
    scores, which have no sum (`objective.baselines`)."""
    soft: Natural = 0
    """Soft masks (`model.soft`): tokens of the last pass whose embeddings are mixed into that of MASK; 0: none."""

    def __post_init__(self) -> None:
        check_numbers(self, "model.")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ConfigError(
                f"model.width {self.width} does not divide into {self.heads} heads of an even size; "
                f"choose a width that is a multiple of {2 * self.heads}."
            )
        if self.mask_id >= self.vocab_size:
            raise ConfigError(f"model.mask_id is {self.mask_id}, outside the vocabulary of {self.vocab_size} ids.")

    @property
    def parameters(self) -> int:
        """The number of parameters of the network, without building it: D = width, V = vocab_size, C = cond.

        Each block has 12 D^2 + 7 D, its modulation 6 D more, or 6 D (C + 1) where it is computed from the time.
        """
        width = self.width
        vector = {"none": 0, "constant": 1, "time": self.cond + 1}[self.modulation] * width
        time = self.cond * (256 + 1) + self.cond * (self.cond + 1) if self.modulation == "time" else 0
        ends = 2 * self.vocab_size * width + self.vocab_size + self.max_length * width * self.absolute
        blocks = self.blocks * (12 * width**2 + 7 * width + 6 * vector)
        return blocks + ends + time + width + 2 * vector + (3 if self.soft else 0)


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """How rotary frequencies were changed for texts longer than those of the first training."""

    rule: Literal["yarn", "llama3", "linear"]
    """YaRN (arXiv:2309.00071), the rule of Llama 3.1, or all frequencies divided by the factor."""
    factor: Annotated[float, real(1)]
    """Ratio of the longest text to that of the first training."""
    original: Count = 1
    """Longest text of the first training, in tokens."""
    slow: Annotated[float, real(0, above=True)] = 1.0
    """Turns over `original` positions below which a frequency is divided by the factor."""
    fast: Annotated[float, real(0, above=True)] = 32.0
    """Turns over `original` positions above which a frequency is unchanged."""


@dataclass(frozen=True, slots=True)
class ExpertSettings:
    """A feed-forward of several experts, of which a router chooses some for each position."""

    count: Count
    """Number of experts."""
    chosen: Count
    """Experts of a position."""
    inner: Count
    """Width of an expert."""
    shared: Natural = 0
    """Width of an expert that every position has besides; 0: none."""
    dense: Natural = 0
    """First blocks that have a single feed-forward instead."""
    rule: Literal["softmax", "sigmoid"] = "softmax"
    """softmax: the probabilities among all experts, not renormalised (LLaDA-MoE). sigmoid: those of the chosen experts,
    divided by their sum; the bias takes part in the choice alone (LLaDA2)."""
    bias: bool = False
    """Whether the router has a bias."""
    groups: Count = 1
    """Groups of experts of equal size."""
    groups_chosen: Count = 1
    """Groups, by the sum of their two best scores, in which experts are chosen."""
    scale: Annotated[float, real(0)] = 1.0
    """Factor of the weights of the experts."""


@dataclass(frozen=True, slots=True)
class TransformerSettings:
    """A transformer of the kind of Llama (arXiv:2302.13971) and Qwen (arXiv:2412.15115), bidirectional by default."""

    vocab_size: Count
    """Number of token ids of the embedding and the head, MASK and padding rows included."""
    mask_id: Natural
    """The id of MASK."""
    max_length: Count
    """Longest sequence in tokens."""
    width: Count
    """Size of the residual stream."""
    blocks: Count
    """Number of transformer blocks."""
    heads: Count
    """Heads of queries."""
    kv_heads: Count
    """Heads of keys and values; a divisor of `heads` (grouped-query attention, arXiv:2305.13245)."""
    head: Count
    """Size of a head; even."""
    inner: Count
    """Width of the SwiGLU feed-forward (arXiv:2002.05202)."""
    eps: Annotated[float, real(0, 1)] = 1e-6
    """Added to the mean square in RMSNorm."""
    base: Annotated[float, real(1)] = 10_000.0
    """Base of the rotary frequencies."""
    scaling: RotaryScaling | None = None
    """Change of the rotary frequencies; None for none."""
    rotation: Literal["float32", "model"] = "model"
    """Number format in which queries and keys are rotated: float32, or that of the products."""
    qkv_bias: bool = False
    """Biases of queries, keys and values."""
    qk_norm: bool = False
    """RMSNorm of each head's queries and keys, before their rotation."""
    tied: bool = False
    """Whether the head has the weights of the embedding."""
    causal_block: Natural = 0
    """Block-causal attention over blocks of so many positions, as in `DiTSettings`; 1: causal. 0: all positions."""
    shift: bool = False
    """Whether the hidden state at position i predicts token i + 1, as in the causal model that it was made from."""
    rotary: Natural = 0
    """Channels of a head that are rotated, from the first on; 0: all."""
    experts: ExpertSettings | None = None
    """A mixture of experts in place of the feed-forward; None: none."""
    family: str = ""
    """The family of published models that it comes from, whose conversations and decoding are its defaults."""
    start_id: Natural | None = None
    """The id of the token that begins a text: an empty prompt is this token where the network is shifted."""
    soft: Natural = 0
    """Soft masks, as in `DiTSettings`."""

    def __post_init__(self) -> None:
        check_numbers(self, "model.")
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"model.kv_heads {self.kv_heads} does not divide model.heads {self.heads}; choose a divisor."
            )
        if self.head % 2:
            raise ConfigError(f"model.head is {self.head}; rotary positions need an even size.")
        if self.mask_id >= self.vocab_size:
            raise ConfigError(f"model.mask_id is {self.mask_id}, outside the vocabulary of {self.vocab_size} ids.")


def in_int8(name: str, dimensions: int) -> bool:
    """Our name of a tensor of a transformer, and its number of dimensions -> whether weight-only int8 changes it.

    It changes the matrices of the blocks, but for routers. Embedding, head, norms and biases stay as they are.
    """
    return name.startswith("blocks.") and dimensions == 2 and ".router." not in name


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """The encoder of BERT (arXiv:1810.04805) and RoBERTa (arXiv:1907.11692) with its masked-language-model head."""

    vocab_size: Count
    """Number of token ids of the embedding, which is the last layer of the head too."""
    mask_id: Natural
    """The id of MASK."""
    start_id: Natural
    """The id of the token before every text ([CLS], <s>)."""
    end_id: Natural
    """The id of the token after every text ([SEP], </s>)."""
    positions: Count
    """Number of learned positions."""
    width: Count
    """Size of the residual stream."""
    blocks: Count
    """Number of transformer blocks."""
    heads: Count
    """Attention heads; a divisor of the width."""
    inner: Count
    """Width of the feed-forward."""
    eps: Annotated[float, real(0, 1)] = 1e-12
    """Added to the variance in LayerNorm."""
    first: Natural = 0
    """Row of the learned positions that belongs to the start token: 2 in RoBERTa."""
    types: Natural = 0
    """Number of embeddings of token types, of which the first is used; 0: there are none."""

    def __post_init__(self) -> None:
        check_numbers(self, "model.")
        if self.width % self.heads:
            raise ConfigError(f"model.width {self.width} does not divide into {self.heads} heads; choose a multiple.")
        if self.max_length < 1:
            raise ConfigError(f"model.positions is {self.positions}: at least {self.first + 3} are needed.")
        if max(self.mask_id, self.start_id, self.end_id) >= self.vocab_size:
            raise ConfigError(f"The ids of MASK, start and end have to be below model.vocab_size {self.vocab_size}.")

    @property
    def max_length(self) -> int:
        """Longest text in tokens: start and end token have positions too."""
        return self.positions - self.first - 2


# (width, blocks, heads). tiny, small and medium are MDLM's; the others are ours, for a laptop.
SIZES: dict[str, tuple[int, int, int]] = {
    "nano": (128, 4, 4),
    "micro": (192, 6, 6),
    "mini": (256, 6, 4),
    "base": (384, 6, 6),
    "tiny": (512, 8, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
}


def size_for(tokens: int) -> str:
    """Number of training tokens -> the name of the largest size for which they are enough."""
    limits = (("nano", 200_000), ("micro", 1_000_000), ("mini", 20_000_000), ("base", 200_000_000))
    return next((name for name, limit in limits if tokens < limit), "small")
