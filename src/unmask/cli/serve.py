"""`unmask serve CHECKPOINT [CHECKPOINT ...]`: an OpenAI-compatible server and a page on which a text appears."""

__all__ = ["ServeArguments", "run"]

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from unmask.cli.common import MachineOptions
from unmask.cli.parse import Flat, Positional, parse
from unmask.disk.folders import DEFAULT_MODEL
from unmask.errors import ConfigError, Interrupted
from unmask.output import note
from unmask.serve.settings import ServeSettings


@dataclass(frozen=True, slots=True)
class ServeArguments:
    """Serve models over HTTP to OpenAI's clients and to a page that shows a text while it is written.

    The server listens on this machine alone unless --host says otherwise. NAME=CHECKPOINT gives a model another name.
    """

    checkpoints: Positional[tuple[str, ...]] = (DEFAULT_MODEL,)
    """Checkpoint or run folders, or names of models: bundled, in the cache, or of the Hugging Face hub."""
    settings: Flat[ServeSettings] = ServeSettings()
    machine: Flat[MachineOptions] = MachineOptions()


def run(argv: Sequence[str]) -> NoReturn:
    """Words of the command line -> serves until a signal ends it; raises Interrupted, which has the exit code."""
    args = parse(ServeArguments, argv, "serve")
    try:
        _serve(args)
    except KeyboardInterrupt as ended:
        number = ended.number if isinstance(ended, Interrupted) else int(signal.SIGINT)
        raise Interrupted("the server has stopped.", number) from None


def _serve(args: ServeArguments) -> NoReturn:
    """Load the models and serve them."""
    from unmask.serve.main import serve

    named: dict[str, str] = {}
    for typed in args.checkpoints:
        name, equals, path = typed.partition("=")
        name, path = (name, path) if equals and not os.path.exists(typed) else (Path(typed).name or typed, typed)
        if name in named:
            raise ConfigError(f"Two models are called '{name}'; give one of them another name: NAME=CHECKPOINT.")
        named[name] = path
    models = {name: args.machine.load(path) for name, path in named.items()}
    serve(models, args.settings, note)
