"""Problems whose answers can be checked exactly: what `frontier` measures and what a policy is trained on."""

__all__ = ["Example", "Task", "Verdict", "judge", "judge_all", "make", "names"]

from unmask.tasks.base import Example, Task, Verdict, judge, judge_all
from unmask.tasks.registry import make, names
