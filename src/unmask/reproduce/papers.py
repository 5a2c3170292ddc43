"""The tables and figures of the papers, and the question that makes each; imports no torch."""

__all__ = ["PLACES", "Place"]

from typing import NamedTuple

_MDLM = "MDLM, arXiv:2406.07524"
_PRECISION = "Masked diffusion models are secretly time-agnostic, arXiv:2409.02908"
_MASKS = "Masks can be distracting, arXiv:2511.21338"
_SOFT = "Soft-Masked Diffusion Language Models, arXiv:2510.17206"
_LENGTHS = "CAL, arXiv:2602.00476, and LR-DLLM, arXiv:2602.07546"
_POLICIES = "Learning unmasking policies, arXiv:2512.09106"


class Place(NamedTuple):
    """A table, figure or section of a paper."""

    paper: str
    item: str
    subject: str
    question: str
    """The name that `unmask reproduce` takes."""


PLACES = (
    Place(_MDLM, "Table 1, Figure 1", "perplexity on LM1B", "mdlm-baselines"),
    Place(_MDLM, "Table 2", "perplexity on OpenWebText", "mdlm-baselines"),
    Place(_MDLM, "Table 3", "zero-shot perplexity", "mdlm-zero-shot"),
    Place(_MDLM, "Table 4", "classification of texts", "mdlm-representations"),
    Place(_MDLM, "Table 6", "perplexity on DNA", "mdlm-dna"),
    Place(_MDLM, "Table 7", "classification of DNA", "mdlm-dna"),
    Place(_MDLM, "Table 5", "texts longer than a window", "mdlm-length"),
    Place(_MDLM, "Table 8", "what each part contributes", "mdlm-ablation"),
    Place(_MDLM, "Table 9", "variance by noise schedule", "mdlm-schedules"),
    Place(_MDLM, "Table 10, Figure 2", "generative perplexity against time", "mdlm-generation"),
    Place(_MDLM, "Table 11", "the bound by steps T", "mdlm-steps"),
    Place(_MDLM, "Table 12", "a network that reads the time", "mdlm-time"),
    Place(_MDLM, "Figure 3", "training with estimators of less variance", "mdlm-estimators"),
    Place(_PRECISION, "32-bit sampling", "entropy and perplexity by the format of noise", "mdlm-precision"),
    Place(_MASKS, "the mask-agnostic loss", "accuracy by the number of MASKs", "kindred-mask-agnostic"),
    Place(_SOFT, "tables of perplexity and of passes", "the same training with and without", "kindred-soft-masks"),
    Place(_LENGTHS, "infilling of free length", "the length of held-out spans", "kindred-holes"),
    Place(_POLICIES, "section 5.1", "policies in blocks", "policies-blocks"),
    Place(_POLICIES, "section 5.2", "policies over the whole canvas", "policies-full"),
    Place(_POLICIES, "sections 3.3 and 6", "control of speed by alpha", "policies-alpha"),
    Place(_POLICIES, "section 5.4", "transfer", "policies-transfer"),
    Place(_POLICIES, "section 5.5, appendices E and F", "ablations", "policies-ablations"),
)
"""In the order of the papers."""
