"""The workloads, and what the published code reached on them. No torch here."""

__all__ = [
    "DECODE",
    "LARGE_VOCABULARY",
    "MEMORY",
    "PUBLISHED",
    "PUBLISHED_RATE",
    "PUBLISHED_RATE_ONE_THREAD",
    "TRAIN",
    "TRAIN_14M",
    "Shape",
]

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """A network and a batch."""

    name: str
    width: int
    blocks: int
    heads: int
    vocab: int
    length: int
    batch: int


TRAIN = Shape("6.6M", 256, 6, 4, 1024, 128, 32)
TRAIN_14M = Shape("14M", 384, 6, 6, 4096, 256, 16)
LARGE_VOCABULARY = Shape("V=50258", 256, 6, 4, 50258, 128, 2)
MEMORY = Shape("V=50258, L=1024", 256, 4, 4, 50258, 1024, 8)
DECODE = Shape("6.6M", 256, 6, 4, 1024, 128, 8)

# kuleshov-group/mdlm at c112c52 on two shared cores whose float32 matmul rate was 169-189 GFLOP/s; tokens/s.
PUBLISHED_RATE = 180.0
PUBLISHED = {
    "train float32": 3710.0,
    "train bfloat16": 6401.0,
    "decode T=128": 69.0,
    "decode T=1000": 11.0,
    # one thread, 98 GFLOP/s: 1.100 CPU-seconds for 256 tokens
    "train V=50258 per CPU-second": 256 / 1.1,
}
PUBLISHED_RATE_ONE_THREAD = 98.0
