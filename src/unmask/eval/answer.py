"""Problems and a decoder -> -log p of the reference answers, where the policy decides the order and the model draws.

The policy decodes greedily, but at each pass the positions that it reveals get the tokens of the answer, and what the
model gave them is summed. The decisions depend on the canvas before the pass alone, so this is the exact -log p of the
answer under one process: the policy chooses positions as it does at temperature 0, and the tokens of a pass are drawn
independently from the model. A policy with noise has another order for each seed; the mean of -log p is then a bound.
Shapes: B rows, L positions, V vocabulary.
"""

__all__ = ["answer_nats"]

from collections.abc import Sequence
from dataclasses import replace

import torch

from unmask.batch import keep_rows, pad_ids
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder, Step
from unmask.errors import RequestError
from unmask.noise import derive
from unmask.solve.problems import Problem
from unmask.text.tokenizer import Tokenizer


def answer_nats(
    decoder: Decoder,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    *,
    device: torch.device,
    seed: int = 0,
    batch: int = 256,
) -> tuple[list[float], list[int]]:
    """Problems -> -log p of the answer of each in nats, and its passes. The noise is that of `solve` with this seed.

    All V log-probabilities of each position are held: (batch, L, V) has to fit into memory.
    Raises RequestError for an answer that does not fill its holes, and for a policy that hides tokens again.
    """
    decoder = replace(decoder, temperature=0.0, alternatives=decoder.denoiser.vocab_size)
    nats: list[float] = []
    passes: list[int] = []
    for at in range(0, len(problems), batch):
        part = problems[at : at + batch]
        tokens, valid = pad_ids([problem.row for problem in part], tokenizer.pad_id, device)
        answers, _ = pad_ids([_filled(problem, tokenizer) for problem in part], tokenizer.pad_id, device)
        seeds = torch.tensor([derive(seed, at + n) for n in range(len(part))], device=device)
        sums, canvas = _forced(decoder, Canvas.start(tokens, seeds, valid), answers)
        nats += sums.tolist()
        passes += canvas.passes.tolist()
    return nats, passes


def _filled(problem: Problem, tokenizer: Tokenizer) -> list[int]:
    """A problem -> its row with the tokens of the answer in its holes."""
    row, ids = list(problem.row), tokenizer.encode(problem.example.answer)
    if len(ids) != len(problem.holes):
        raise RequestError(
            f"The answer '{problem.example.answer}' has {len(ids)} tokens, and its problem {len(problem.holes)} "
            "positions to fill; give a task whose answers fill their holes."
        )
    for place, token in zip(problem.holes, ids, strict=True):
        row[place] = token
    return row


@torch.no_grad()
def _forced(decoder: Decoder, canvas: Canvas, answers: torch.Tensor) -> tuple[torch.Tensor, Canvas]:
    """Rows and their answers (B, L) -> -log p of each answer (B,) float64, and the finished canvas."""
    nats = torch.zeros(len(answers), dtype=torch.float64, device=answers.device)
    rows, state = decoder.unfinished(canvas).nonzero().squeeze(-1), None
    while len(rows):
        part, state, step = decoder.step(canvas.keep(rows), state)
        if bool(step.remasked.any()):
            raise RequestError(f"{decoder.policy!r} hides tokens again, so that an answer has no single probability.")
        log_prob = _log_probs(step, answers[rows])
        nats[rows] -= log_prob.double().sum(-1)
        part = replace(
            part,
            tokens=torch.where(step.revealed, answers[rows], part.tokens),
            log_prob=torch.where(step.revealed, log_prob, part.log_prob),
        )
        canvas, left = canvas.put(rows, part), decoder.unfinished(part)
        rows, state = rows[left], keep_rows(state, left)
    return nats, canvas


def _log_probs(step: Step, answers: torch.Tensor) -> torch.Tensor:
    """A step of b rows -> the log-probability of the answer at what it revealed (b, L), 0 elsewhere."""
    if step.candidates is None or step.candidate_log_probs is None:  # a turn that revealed nothing
        return torch.zeros(answers.shape, device=answers.device)
    same = (step.candidates == answers[..., None]) & step.revealed[..., None]
    return torch.where(same, step.candidate_log_probs, 0.0).sum(-1)
