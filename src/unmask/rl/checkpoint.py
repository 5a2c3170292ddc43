"""A learner -> its checkpoints, from which a run resumes, and the folder of its policy."""

__all__ = ["restore", "save", "write_policy"]

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from unmask.config import run_record, to_dict
from unmask.disk.checkpoint import load_state, load_tensors, write_checkpoint
from unmask.disk.folders import keep_last, require_step, step_folder
from unmask.errors import CheckpointError
from unmask.policies.learned.policy import TRAINED_DIAL, Calibration, policy_config
from unmask.ranges import Natural, whole
from unmask.rl.collect import rules_of
from unmask.rl.learner import Learner
from unmask.run.loop import Standing
from unmask.run.optim import load_optimizer_tensors, optimizer_tensors


def write_policy(learner: Learner, calibration: Sequence[Calibration]) -> None:
    """Write the policy with the current weights to the folder `policy` of the run; a calibration for each pair."""
    run = learner.run
    facts: dict[str, Any] = {
        "checkpoint": learner.origins[0]["checkpoint"],
        "task": learner.worlds[0].task.name,
        "round": learner.standing.best_step,
        "reward": learner.standing.merit,
        "learn": to_dict(run.learn),
        "record": run_record(),
    }
    if run.others:
        facts |= {"others": _others(learner), "left_out": list(learner.left_out.values())}
    tensors = {name: value.detach().clone() for name, value in learner.network.state_dict().items()}
    write_checkpoint(
        learner.folder / "policy",
        tensors,
        policy_config(run.policy, facts, calibration),
        card=_card(learner, facts, calibration),
    )


def _others(learner: Learner) -> list[str]:
    """All pairs but the first, with absolute places, as in `LearnRun.others`."""
    pairs = zip(learner.run.pairs[1:], learner.origins[1:], strict=True)
    return [f"{pair.task}={origin['checkpoint']}" for pair, origin in pairs]


def save(learner: Learner) -> None:
    """Write a checkpoint with everything that training needs to resume."""
    standing = learner.standing
    tensors = {name: value.detach().clone() for name, value in learner.network.state_dict().items()}
    write_checkpoint(
        step_folder(learner.folder, learner.step),
        tensors,
        {"policy": to_dict(learner.run.policy)},
        run={
            "settings": to_dict(
                replace(learner.run, checkpoint=learner.origins[0]["checkpoint"], others=tuple(_others(learner)))
            ),
            "denoiser": learner.origins[0],
            "others": learner.origins[1:],
            "left_out": list(learner.left_out.values()),
            "record": run_record(),
        },
        state={
            "optimizer": optimizer_tensors(learner.optimizer),
            "scales": {"variance": learner.variance, "usual": learner.usual, "groups": learner.groups},
            **({} if learner.step else {"warm": optimizer_tensors(learner.warm_optimizer)}),
        },
        state_facts={
            "round": learner.step,
            "warmed": learner.warmed,
            "best": standing.merit if math.isfinite(standing.merit) else None,
            "best_round": standing.best_step,
            "stale": standing.stale,
            "validated_at": standing.validated_at,
            "teachers": [repr(teacher) for teacher in learner.teachers],
            "left_out": {str(m): reason for m, reason in learner.left_out.items()},
        },
    )
    keep_last(learner.folder, learner.settings.keep)


@dataclass(frozen=True, slots=True)
class _State:
    """The content of a checkpoint's state.json."""

    round: Natural
    best: float | None
    best_round: Natural
    stale: Natural
    validated_at: Annotated[int, whole(-1)]
    """-1 before the first validation."""
    teachers: list[str]
    warmed: Natural | None = None
    """Rounds of the warm start; None in checkpoints of older versions, which were written after it."""
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    """By the index of a pair that is not trained on, the reason."""


def restore(learner: Learner, folder: Path) -> None:
    """Load a checkpoint into the learner. Raises CheckpointError where it is damaged or belongs to another network."""
    parts, facts = load_state(folder, str(learner.device), _State, ("optimizer", "scales"))
    require_step(folder, facts.round)
    by_name = rules_of(learner.run, learner.worlds)
    try:
        learner.network.load_state_dict(load_tensors(folder, str(learner.device)))
        for name, value in parts["scales"].items():
            setattr(learner, name, value.to(learner.device))
        learner.teachers = [by_name[name] for name in facts.teachers]
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} does not hold the policy and the heuristics of this run.") from error
    for optimizer, name in ((learner.optimizer, "optimizer"), (learner.warm_optimizer, "warm")):
        if parts.get(name):
            load_optimizer_tensors(optimizer, parts[name])
    learner.step = facts.round
    learner.warmed = learner.settings.warm if facts.warmed is None else facts.warmed
    learner.left_out = {int(m): reason for m, reason in facts.left_out.items()}
    merit = -math.inf if facts.best is None else facts.best
    learner.standing = Standing(merit, facts.best_round, facts.stale, facts.validated_at)


def _card(learner: Learner, facts: dict[str, Any], calibration: Sequence[Calibration]) -> str:
    """The description of a policy, as Markdown."""
    s, features = learner.settings, learner.run.policy.features
    blocks = "the whole canvas" if s.block_size is None else f"blocks of {s.block_size}"
    lines = ["# An unmasking policy trained by unmask", ""]
    for m in range(len(learner.worlds)):
        name = learner.worlds[m].task.name
        lines.append(learner.left_out.get(m, f"- denoiser: {learner.pair(m).checkpoint}; task: {name}; {blocks}"))
    lines += [
        f"- network: {sum(p.numel() for p in learner.params):,} parameters, features {', '.join(features)}",
        f"- training: {s.imitated}, {facts['round']} of {s.rounds} rounds of GRPO",
        f"  ({s.prompts} problems x {s.group} rollouts), seed {s.seed}; the best by validation reward was kept",
        f"- validation reward: {facts['reward']:.4f}, mean over alpha = {', '.join(f'{a:g}' for a in s.alphas)}",
    ]
    if calibration:
        last = calibration[0].last
        lines.append(f"- dial: a cost of passes up to {TRAINED_DIAL}, alpha {last:g}; above it the cut falls")
    for table in calibration:
        title = f"Dial, on {table.problems} validation problems" + (f" of {table.task}" if learner.run.others else "")
        lines += ["", f"{title}:", "", "| dial | passes | accuracy |", "|---|---|---|"]
        rows = zip(table.dial, table.passes, table.accuracy, strict=True)
        lines += [f"| {dial:g} | {passes:.2f} | {accuracy:.3f} |" for dial, passes, accuracy in rows]
    return "\n".join([*lines, "", "Licence: Apache-2.0, as the library.", ""])
