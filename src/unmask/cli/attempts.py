"""Fillings of a template for people and for programs: a table of the lengths that were tried, and plain data."""

__all__ = ["attempt_table", "described"]

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.fill.holes import Fill


def attempt_table(attempts: list[dict[str, Any]]) -> list[str]:
    """Attempts -> the lines of a table with the bound of each combination of lengths, the best first."""
    width = max(6, *(len(_lengths(attempt)) for attempt in attempts))
    lines = [f"  {'tokens':>{width}}  nats of the whole text  behind the best"]
    for n, attempt in enumerate(attempts):
        behind = f"{attempt['behind']:7.2f} ± {attempt['behind_stderr']:.2f}" if n else ""
        holes = " | ".join(f"{text!r}" for text in attempt["holes"])
        nats = f"{attempt['nats']:12.2f} ± {attempt['stderr']:<7.2f}"
        lines.append(f"  {_lengths(attempt):>{width}}  {nats}  {behind:<15}  {holes}")
    return lines


def _lengths(attempt: dict[str, Any]) -> str:
    """The lengths of an attempt as text: 3 + 2."""
    return " + ".join(map(str, attempt["lengths"]))


def described(model: "Model", row: "Fill") -> dict[str, Any]:
    """Filling -> plain data for JSON; `nats` is minus the sum of the log-probabilities of the written tokens."""
    from unmask.results import hole_texts

    return {
        "text": model.tokenizer.text(row.tokens, row.typed),
        "holes": hole_texts(row, model.tokenizer),
        "log_probs": row.hole_log_probs,
        "nats": -sum(row.log_probs),
        "passes": row.passes,
        "attempts": [
            {
                "lengths": attempt.lengths,
                "text": model.tokenizer.text(attempt.tokens, attempt.typed),
                "holes": hole_texts(attempt, model.tokenizer),
                "nats": attempt.nats,
                "stderr": attempt.stderr,
                "behind": attempt.behind,
                "behind_stderr": attempt.behind_stderr,
                "passes": attempt.passes,
            }
            for attempt in row.attempts
        ],
        "length_scores": {} if row.choice is None else row.choice.scores,
    }
