"""MDLM's OpenWebText model (arXiv:2406.07524): 110M parameters, window 1024, a million steps of 512; for GPUs.

    torchrun --nproc-per-node 8 -m unmask.cli.main train mdlm_owt --data.tokenizer gpt2/tokenizer.json \\
        --data.mask-token '<mask>' --train.accumulate 2

Needs `pip install 'unmask[hf]'`, the data set over the network, and GPT-2's tokenizer.json on disk; without one a BPE
of 32768 ids is trained on the text, and figures are then not comparable with the paper's. `unmask train mdlm_owt --dry`
says how long it takes where you are. The paper reports a perplexity of at most 23.05 without time; we have not
repeated that run.
"""

__all__ = ["recipe"]

from unmask.data.settings import DataSettings
from unmask.train.settings import ModelChoice, TextRun, TrainSettings


def recipe() -> TextRun:
    """The run."""
    return TextRun(
        data=DataSettings("hf:Skylion007/openwebtext", length=1024, valid_share=0.0125),
        model=ModelChoice(size="small"),
        train=TrainSettings(
            steps=1_000_000,
            batch=512,
            lr=3e-4,
            warmup=2500,
            shape="constant",
            ema=0.9999,
            estimator="stratified",
            patience=0,
            eval_every=10_000,
            dtype="bfloat16",
        ),
    )
