"""Several processes of a test that run one program, started as torchrun starts them."""

__all__ = ["crew", "outcomes", "start"]

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def crew(program: str, size: int, *words: object, seconds: float = 600) -> list[tuple[int, str]]:
    """A program, the number of processes and its arguments -> exit code and stderr of each, by rank."""
    started = start([sys.executable, "-c", program, *map(str, words)], size)
    return outcomes(started, seconds)


def start(command: Sequence[str], size: int) -> list["subprocess.Popen[str]"]:
    """A command -> its processes, one of them alone without a group; `tests` can be imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parents[2]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join([str(root / "src"), str(root)])
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [
        subprocess.Popen(command, env=os.environ | shared | place, stderr=subprocess.PIPE, text=True)
        for place in places
    ]


def outcomes(started: Sequence["subprocess.Popen[str]"], seconds: float = 600) -> list[tuple[int, str]]:
    """Processes -> exit code and stderr of each. All are ended where one takes longer than `seconds`."""
    try:
        return [(process.wait(seconds), process.communicate()[1]) for process in started]
    finally:
        for process in started:
            process.kill()
