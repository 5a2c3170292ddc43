"""Dream (arXiv:2508.15487), Dream-Coder and DiffuCoder: Qwen2's tensors, full attention, shifted predictions."""

__all__ = ["DREAM", "QWEN_CHAT"]

from unmask.model.zoo.base import Family
from unmask.model.zoo.llama import LLAMA_KEYS, PLAIN, QWEN2_NAMES
from unmask.text.published import Chat

QWEN_CHAT = Chat(
    message="<|im_start|>{role}\n{text}<|im_end|>\n",
    answer="<|im_start|>assistant\n",
    system="You are a helpful assistant.",
)

DREAM = Family(
    about="Dream 7B, Dream-Coder and DiffuCoder: full attention, shifted, made from Qwen2.5",
    repositories=(
        "Dream-org/Dream-v0-Base-7B",
        "Dream-org/Dream-v0-Instruct-7B",
        "Dream-org/Dream-Coder-v0-Instruct-7B",
        "apple/DiffuCoder-7B-Instruct",
    ),
    matches={"architectures": "DreamModel"},
    keys=LLAMA_KEYS,
    constants={"qkv_bias": True, "shift": True},
    fixed=PLAIN,
    refused={"mask_token_id": (151669,)},  # DreamReasoner has this name too, and is block-causal and not shifted
    names=QWEN2_NAMES,
    mask="mask_token_id",
    eos="eos_token_id",
    pad="pad_token_id",
    bos="<|beginoftext|>",
    decoding={"policy": "dream:temperature=0.2,top_p=0.95", "temperature": 0.2, "top_p": 0.95},
    chat=QWEN_CHAT,
)
