"""A learner -> its checkpoints, from which a run resumes, and the folder of its policy."""

__all__ = ["restore", "save", "write_policy"]

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from unmask.config import run_record, to_dict
from unmask.disk.checkpoint import load_state, load_tensors, write_checkpoint
from unmask.disk.folders import keep_last, require_step, step_folder
from unmask.errors import CheckpointError
from unmask.policies.learned.policy import TRAINED_DIAL, Calibration, policy_config
from unmask.ranges import Natural, whole
from unmask.rl.learner import Learner
from unmask.rl.rollout import experts
from unmask.run.loop import Standing
from unmask.run.optim import load_optimizer_tensors, optimizer_tensors


def write_policy(learner: Learner, calibration: Calibration | None) -> None:
    """Write the policy with the current weights to the folder `policy` of the run."""
    run = learner.run
    facts = {
        "checkpoint": learner.origin["checkpoint"],
        "task": learner.world.task.name,
        "round": learner.standing.best_step,
        "reward": learner.standing.merit,
        "learn": to_dict(run.learn),
        "record": run_record(),
    }
    tensors = {name: value.detach().clone() for name, value in learner.network.state_dict().items()}
    write_checkpoint(
        learner.folder / "policy",
        tensors,
        policy_config(run.policy, facts, calibration),
        card=_card(learner, facts, calibration),
    )


def save(learner: Learner) -> None:
    """Write a checkpoint with everything that training needs to resume."""
    standing = learner.standing
    tensors = {name: value.detach().clone() for name, value in learner.network.state_dict().items()}
    write_checkpoint(
        step_folder(learner.folder, learner.step),
        tensors,
        {"policy": to_dict(learner.run.policy)},
        run={
            "settings": to_dict(replace(learner.run, checkpoint=learner.origin["checkpoint"])),
            "denoiser": learner.origin,
            "record": run_record(),
        },
        state={
            "optimizer": optimizer_tensors(learner.optimizer),
            "scales": {"variance": learner.variance},
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


def restore(learner: Learner, folder: Path) -> None:
    """Load a checkpoint into the learner. Raises CheckpointError where it is damaged or belongs to another network."""
    parts, facts = load_state(folder, str(learner.world.device), _State, ("optimizer", "scales"))
    require_step(folder, facts.round)
    length = learner.world.length
    by_name = {repr(expert): expert for expert in experts(min(length, learner.settings.block_size or length))}
    try:
        learner.network.load_state_dict(load_tensors(folder, str(learner.world.device)))
        learner.variance = parts["scales"]["variance"].to(learner.world.device)
        learner.teachers = [by_name[name] for name in facts.teachers]
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} does not hold the policy and the heuristics of this run.") from error
    for optimizer, name in ((learner.optimizer, "optimizer"), (learner.warm_optimizer, "warm")):
        if parts.get(name):
            load_optimizer_tensors(optimizer, parts[name])
    learner.step = facts.round
    learner.warmed = learner.settings.warm if facts.warmed is None else facts.warmed
    merit = -math.inf if facts.best is None else facts.best
    learner.standing = Standing(merit, facts.best_round, facts.stale, facts.validated_at)


def _card(learner: Learner, facts: dict[str, Any], calibration: Calibration | None) -> str:
    """The description of a policy, as Markdown."""
    s, features = learner.settings, learner.run.policy.features
    lines = [
        "# An unmasking policy trained by unmask",
        "",
        f"- denoiser: {learner.origin['typed']}; task: {facts['task']}; "
        + ("the whole canvas" if s.block_size is None else f"blocks of {s.block_size}"),
        f"- network: {sum(p.numel() for p in learner.params):,} parameters, features {', '.join(features)}",
        f"- training: {s.warm} rounds of imitation, {facts['round']} of {s.rounds} rounds of GRPO",
        f"  ({s.prompts} problems x {s.group} rollouts), seed {s.seed}; the best by validation reward was kept",
        f"- validation reward: {facts['reward']:.4f}, mean over alpha = {', '.join(f'{a:g}' for a in s.alphas)}",
    ]
    if calibration is not None:
        lines += [
            f"- dial: a cost of passes up to {TRAINED_DIAL}, alpha {calibration.last:g}; above it the cut falls",
            "",
            f"Dial, on {calibration.problems} validation problems:",
            "",
            "| dial | passes | accuracy |",
            "|---|---|---|",
        ]
        rows = zip(calibration.dial, calibration.passes, calibration.accuracy, strict=True)
        lines += [f"| {dial:g} | {passes:.2f} | {accuracy:.3f} |" for dial, passes, accuracy in rows]
    return "\n".join([*lines, "", "Licence: Apache-2.0, as the library.", ""])
