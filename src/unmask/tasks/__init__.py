"""Tasks, problems with exact verifiers: `frontier` measures policies on them, and `learn` trains policies on them."""

__all__ = ["Example", "Task", "Verdict", "judge", "judge_all", "make", "names"]

from unmask.tasks.base import Example, Task, Verdict, judge, judge_all
from unmask.tasks.registry import make_typed as make
from unmask.tasks.registry import names
