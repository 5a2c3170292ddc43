"""The workloads, and what the published code reached on them. No torch here."""

__all__ = [
    "DECODE",
    "FIELD",
    "LARGE_VOCABULARY",
    "MEMORY",
    "PUBLISHED",
    "PUBLISHED_CPU_SECONDS",
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
# A prompt of 16 tokens and 128 to write, one a pass, in blocks of 32; 8,406,272 parameters with an MLP of 6 * width,
# whose two matrices are as large as the three of a gated MLP of 4 * width in the published loops.
FIELD = Shape("8.4M", 256, 4, 4, 8192, 144, 1)

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

# CPU-seconds of the published loops on FIELD in fp32, one thread, 98 GFLOP/s: LLaDA's uncached, dLLM's cached ones.
PUBLISHED_CPU_SECONDS = {"none": 3.72, "prefix": 3.04, "dual": 1.82}
