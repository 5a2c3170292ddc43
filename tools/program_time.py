"""Programs of the tasks humaneval and mbpp -> the time in which the sandbox judges one, in milliseconds.

    python tools/program_time.py

Prints the time of a program on all processors and on one, that of the 164 reference answers of HumanEval where they
were fetched, and the time in which a plain Python process begins and ends.
"""

__all__ = ["main", "milliseconds"]

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from unmask.errors import RequestError
from unmask.tasks import judge_all, make
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


def main() -> None:
    """Measure and print."""
    processors, programs = len(os.sched_getaffinity(0)), [_PROGRAM] * 200
    run_programs(programs[:processors])
    print(f"a program, {processors} at a time: {milliseconds(lambda: run_programs(programs), 200):.1f} ms")
    print(f"a program, one at a time: {milliseconds(lambda: run_programs([_PROGRAM]), 1, 50):.1f} ms")
    try:
        task = make("humaneval")
        pairs = [(example, example.answer) for example in task.examples("test", 164)]
        right = sum(verdict.score for verdict in judge_all(task, pairs))
        time_each = milliseconds(lambda: judge_all(task, pairs), len(pairs), 3)
        print(f"a reference answer of HumanEval: {time_each:.1f} ms; {right:g} of {len(pairs)} pass")
    except RequestError as error:
        print(error)
    plain = [sys.executable, "-I", "-S", "-c", "pass"]
    print(f"a plain Python process: {milliseconds(lambda: subprocess.run(plain), 1, 20):.1f} ms")


if __name__ == "__main__":
    main()
