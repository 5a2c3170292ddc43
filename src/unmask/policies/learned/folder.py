"""A learned policy on disk: a folder of safetensors and JSON, well under 2 MB, with what it was trained on."""

__all__ = ["POLICY_FORMAT", "policy_config", "read_policy", "read_policy_config"]

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from unmask.config import from_dict, to_dict
from unmask.errors import CheckpointError, ConfigError
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import Calibration, Learned
from unmask.policies.learned.settings import PolicySettings

POLICY_FORMAT = 1
_CONFIG, _MODEL = "config.json", "model.safetensors"


def policy_config(
    settings: PolicySettings, trained_on: dict[str, Any], calibration: Calibration | None
) -> dict[str, Any]:
    """What config.json says beside format and versions."""
    told = None if calibration is None else asdict(calibration)
    return {"policy_format": POLICY_FORMAT, "policy": to_dict(settings), "trained_on": trained_on, "calibration": told}


def read_policy_config(path: str | Path) -> dict[str, Any]:
    """config.json of a policy folder. Raises CheckpointError where that is none."""
    folder = Path(path)
    if not (folder / _CONFIG).is_file() or not (folder / _MODEL).is_file():
        raise CheckpointError(
            f"{folder} is no policy folder: it holds {_MODEL} and {_CONFIG}, as unmask learn writes them."
        )
    try:
        facts = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder / _CONFIG} cannot be read: {error}.") from None
    if "policy" not in facts:
        raise CheckpointError(
            f"{folder} is a checkpoint of another kind; a policy folder is one that unmask learn wrote."
        )
    if facts.get("policy_format", 0) > POLICY_FORMAT:
        raise CheckpointError(f"{folder} has policy format {facts['policy_format']}; upgrade unmask to read it.")
    return facts


def read_policy(path: str | Path) -> Learned:
    """The policy in a folder. Raises CheckpointError, in one sentence, for whatever is not a whole one."""
    facts, told = read_policy_config(path), f"{path}/{_CONFIG}"
    try:
        settings = from_dict(PolicySettings, facts["policy"], told)
        given = facts.get("calibration")
        calibration = None if given is None else from_dict(Calibration, given, told)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    network = PolicyNetwork(settings)
    try:
        network.load_state_dict(load_file(Path(path) / _MODEL))
    except (SafetensorError, RuntimeError):
        raise CheckpointError(
            f"{Path(path) / _MODEL} cannot be read, or its weights are not those that {_CONFIG} describes; "
            "copy the folder again, or train the policy anew."
        ) from None
    last = None if calibration is None else calibration.last
    return replace(Learned(network.eval()), last=last, calibration=calibration, name=f"learned:from={path}")
