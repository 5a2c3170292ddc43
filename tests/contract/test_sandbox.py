"""A program that a model wrote cannot reach anything outside of its sandbox, nor the verdict on itself."""

from unmask.tasks.sandbox import Outcome, Program, run_programs

RIGHT = "def double(x):\n    return 2 * x\n"
TESTS = "assert double(2) == 4\nassert double('ab') == 'abab'\n"


def outcome(source: str, tests: str = TESTS, seconds: int = 5) -> Outcome:
    return run_programs([Program(source, tests, ("double",))], seconds)[0]


def test_a_right_program_passes_and_a_wrong_one_does_not() -> None:
    assert outcome(RIGHT) == ("passed", "", "")
    status, why, _ = outcome("def double(x):\n    return x + 2\n")
    assert status == "failed"
    assert "TypeError" in why
    assert "`assert double('ab') == 'abab'`" in why
