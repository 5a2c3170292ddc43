"""Problems of a task as rows of token ids, decoded, and scored by the verifier of the task."""

__all__ = ["Problem", "fitting", "most_holes", "problems", "scored", "solve"]

from collections.abc import Sequence
from typing import NamedTuple

import torch

from unmask.decode.loop import Decoder
from unmask.decode.rows import decode_rows, run_to_end
from unmask.errors import RequestError
from unmask.noise import derive
from unmask.tasks import judge_all
from unmask.tasks.base import Example, Task
from unmask.text.chat import chat_ids, message_end
from unmask.text.published import Chat
from unmask.text.template import Hole, parse_template
from unmask.text.tokenizer import Tokenizer


class Problem(NamedTuple):
    """An example of a task as a row of token ids."""

    example: Example
    row: list[int]  # MASK in its holes
    holes: list[int]  # the positions of the MASKs
    end: int | None = None  # the token that ends an answer in a conversation, as EOS does


def problems(examples: Sequence[Example], tokenizer: Tokenizer, chat: Chat | None = None) -> list[Problem]:
    """Examples -> problems; `chat` is the model's template of conversations.

    Raises RequestError for a hole without a fixed length, and for a conversation with a model that has no template.
    """
    return [_problem(example, tokenizer, chat) for example in examples]


def fitting(
    task: Task,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    window: int | None,
    checkpoint: str,
    chat: Chat | None = None,
) -> list[Problem]:
    """Examples of a task -> problems that fit a model.

    `window` is the longest row that the model takes (None: any), `checkpoint` its name for error sentences, `chat` its
    template of conversations. Raises RequestError where there are no examples, where every problem has characters that
    the tokenizer lacks, where a problem is longer than the window, and as `problems`.
    """
    _check_longest(max(map(_hole_tokens, examples), default=0), window, task, checkpoint)
    if chat is None and any(example.message for example in examples):
        raise RequestError(
            f"The problems of {task.name} are messages of a conversation, and {checkpoint} has no template of "
            "conversations; choose the task's option prompt=plain, or a model that was trained on conversations."
        )
    rows = problems(examples, tokenizer, chat)
    if not rows:
        raise RequestError(f"{task.name} has no problems of the split that was asked for; choose another split.")
    if all(tokenizer.unknown_id in problem.row for problem in rows):
        raise RequestError(
            f"The problems of {task.name} have characters for which {checkpoint} has no tokens; "
            "name the model that was trained on them."
        )
    _check_longest(max(len(problem.row) for problem in rows), window, task, checkpoint)
    return rows


def _check_longest(longest: int, window: int | None, task: Task, checkpoint: str) -> None:
    """Raise RequestError if a problem of `longest` tokens does not fit the window of a model."""
    if window is not None and longest > window:
        raise RequestError(
            f"A problem of {task.name} has {longest} tokens, but the window of {checkpoint} is {window}; "
            "choose a task that fits the model."
        )


def _hole_tokens(example: Example) -> int:
    """Example -> the number of tokens in its holes, before any row of that length is made."""
    return sum(part.length for part in parse_template(example.template) if isinstance(part, Hole))


def most_holes(problems: Sequence[Problem]) -> int:
    """Problems -> L, the largest number of positions that one of them has to fill."""
    return max(len(problem.holes) for problem in problems)


def _problem(example: Example, tokenizer: Tokenizer, chat: Chat | None) -> Problem:
    """Example -> its problem. Raises RequestError as `problems`."""
    row, end = list[int](), None
    if example.message:
        if chat is None:
            raise RequestError("A problem is a message of a conversation, and the model has no template of these.")
        row, end = chat_ids(tokenizer, chat, [("user", example.message)]), message_end(tokenizer, chat)
    for part in parse_template(example.template):
        if isinstance(part, str):
            row += tokenizer.encode(part, inside=bool(row))
        elif isinstance(part, Hole) and part.longest is None:
            row += [tokenizer.mask_id] * part.length
        else:
            raise RequestError(
                f"The problem '{example.template}' has a hole of no fixed length; write [5] for 5 tokens."
            )
    return Problem(example, row, [at for at, token in enumerate(row) if token == tokenizer.mask_id], end)


def solve(
    decoder: Decoder,
    task: Task,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    *,
    device: torch.device,
    seed: int = 0,
    batch: int = 256,
) -> tuple[list[float], list[int], list[int]]:
    """Problems -> score, passes and row-passes of each, decoded in batches on the `device` of the denoiser.

    Row-passes are canvases that went through the network (`Canvas.row_passes`).
    The noise of problem i is that of the seed derive(seed, i), so that a problem is decoded alike in any batch.
    """
    stream = decode_rows(
        decoder,
        [problem.row for problem in problems],
        [derive(seed, number) for number in range(len(problems))],
        pad_id=tokenizer.pad_id,
        batch=batch,
        device=device,
    )
    filled = run_to_end(stream)
    scores = scored(task, problems, [row.tokens for row in filled], tokenizer)
    return scores, [row.passes for row in filled], [row.row_passes for row in filled]


def scored(task: Task, problems: Sequence[Problem], rows: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[float]:
    """Problems and their filled rows -> scores. The verifier gets the text in the holes up to EOS or `end`."""
    texts: list[str] = []
    for problem, tokens in zip(problems, rows, strict=True):
        written = [tokens[at] for at in problem.holes]
        ends = (at for at, token in enumerate(written) if token in (tokenizer.eos_id, problem.end))
        inside = problem.holes[0] > 0
        texts.append(tokenizer.decode(written[: next(ends, len(written))], inside=inside))
    verdicts = judge_all(task, [(problem.example, text) for problem, text in zip(problems, texts, strict=True)])
    return [verdict.score for verdict in verdicts]
