"""Programs of the tasks humaneval and mbpp -> the time in which the sandbox judges one, in milliseconds.

    python tools/program_time.py [mbpp.jsonl ...]

Prints the time of a program on all processors and on one, that of the 164 reference answers of HumanEval where they
were fetched, the time in which a plain Python process begins and ends, and how many reference answers of files of MBPP
pass.
"""

__all__ = ["main", "milliseconds", "passed", "references"]

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from unmask.errors import RequestError
from unmask.tasks import Example, judge_all, make
from unmask.tasks.base import SPLITS
from unmask.tasks.sandbox import Program, run_programs

_PROGRAM = Program("def double(x):\n    return 2 * x\n", "assert double(2) == 4\n" * 5, ("double",))


def milliseconds(work: Callable[[], object], count: int, repeats: int = 5) -> float:
    """Work on `count` programs -> the median time of one."""
    times: list[float] = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - begin) / count)
    return statistics.median(times)


def references(name: str, splits: Sequence[str]) -> list[tuple[Example, str]]:
    """A task and splits -> its problems with their reference answers."""
    return [(example, example.answer) for split in splits for example in make(name).examples(split, 10**6)]


def passed(name: str, pairs: list[tuple[Example, str]]) -> str:
    """Problems and answers -> how many are right, in words."""
    return f"{sum(verdict.score for verdict in judge_all(make(name), pairs)):g} of {len(pairs)} reference answers pass"


def main() -> None:
    """Measure and print."""
    processors, programs = len(os.sched_getaffinity(0)), [_PROGRAM] * 200
    run_programs(programs[:processors])
    print(f"a program, {processors} at a time: {milliseconds(lambda: run_programs(programs), 200):.1f} ms")
    print(f"a program, one at a time: {milliseconds(lambda: run_programs([_PROGRAM]), 1, 50):.1f} ms")
    try:
        pairs = references("humaneval", ["test"])
        time_each = milliseconds(lambda: judge_all(make("humaneval"), pairs), len(pairs), 3)
        print(f"a reference answer of HumanEval: {time_each:.1f} ms; {passed('humaneval', pairs)}")
    except RequestError as error:
        print(error)
    plain = [sys.executable, "-I", "-S", "-c", "pass"]
    print(f"a plain Python process: {milliseconds(lambda: subprocess.run(plain), 1, 20):.1f} ms")
    for file in sys.argv[1:]:
        name = f"mbpp:path={file},seconds=10"
        print(f"{file}: {passed(name, references(name, SPLITS))}")


if __name__ == "__main__":
    main()
