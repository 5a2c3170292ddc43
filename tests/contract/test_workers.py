"""Worker processes: answers as they come, a death in one sentence, one interrupt each, nothing left running."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from unmask.errors import ConfigError, RunError
from unmask.run.loop import Interrupt
from unmask.run.workers import Workers

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"
sys.path.insert(0, str(HERE))  # worker processes get this path too

import worker_jobs  # noqa: E402


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_warm_process_takes_job_after_job_and_an_error_ends_only_its_job() -> None:
    with Workers[tuple[int, int, str | None]](1, setup=worker_jobs.counting) as pool:
        answers = {answer.name: answer for answer in pool.answers([("a", 1), ("b", -1), ("c", 1)])}
        assert pool.at_work == []
    (process, first, threads), (again, second, _) = answers["a"].result(), answers["c"].result()
    assert (first, second) == (1, 2)
    assert process == again != os.getpid()
    assert threads == "1"
    with pytest.raises(ConfigError, match="-1 is below zero"):
        answers["b"].result()
    assert not alive(process)
    with Workers[int](1) as pool:  # the control: without a setup each job has a process of its own
        processes = [answer.result() for answer in pool.answers([("a", os.getpid), ("b", os.getpid)])]
    assert len({*processes, os.getpid()}) == 3


def test_a_setup_that_fails_is_the_answer_to_every_job() -> None:
    with Workers[int](1, setup=worker_jobs.impossible) as pool:
        answers = list(pool.answers([("a", 1), ("b", 2)]))
    for answer in answers:
        with pytest.raises(ConfigError, match="no such model"):
            answer.result()
    assert len(answers) == 2


ABANDONED = """
import os, worker_jobs
from unmask.run.workers import Workers
def numbers():
    with Workers(2, setup=worker_jobs.counting) as pool:
        for answer in pool.answers([(str(n), n) for n in range(9)]):
            yield answer.result()[0]
if __name__ == "__main__":
    kept = numbers()
    print(next(kept), flush=True)
"""


def test_an_abandoned_sweep_leaves_no_process_and_lets_the_program_end(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ABANDONED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SRC), str(HERE)])}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert not alive(int(done.stdout))


def test_answers_come_as_jobs_end_and_not_as_they_were_given(tmp_path: Path) -> None:
    jobs = [
        ("first", partial(worker_jobs.quick_or_slow, tmp_path, False)),
        ("second", partial(worker_jobs.quick_or_slow, tmp_path, True)),
    ]
    order: list[str] = []
    with Workers[str](2) as pool:
        for answer in pool.answers(jobs):
            order.append(answer.result())
            (tmp_path / "seen").write_text("yes")
    assert order == ["quick", "slow"]
    with Workers[str](1) as pool:  # the control: one after the other, in their order
        assert [answer.result() for answer in pool.answers(jobs)] == ["slow", "quick"]


def test_a_worker_that_dies_is_reported_with_its_code(tmp_path: Path) -> None:
    jobs = [
        ("good", os.getpid),
        ("bad", partial(os._exit, 3)),
        ("killed", partial(signal.raise_signal, signal.SIGKILL)),
    ]
    with Workers[int](2) as pool:
        answers = {answer.name: answer for answer in pool.answers(jobs)}
    assert {name: answer.code for name, answer in answers.items()} == {"good": None, "bad": 3, "killed": -9}
    with pytest.raises(RunError, match=r"^bad: its process ended with code 3 before it had a result\.$"):
        answers["bad"].result()
    assert answers["good"].result() > 0


def test_an_interrupt_reaches_each_worker_once_and_begins_no_other(tmp_path: Path) -> None:
    """The third job waits for a free place and is never begun; the others save."""
    jobs = [(name, partial(worker_jobs.patient, tmp_path, name)) for name in ("a", "b", "c")]
    with Interrupt() as interrupt, Workers[int](2, interrupt=interrupt) as pool:
        answers = pool.answers(jobs)
        for name, job in jobs[:2]:
            pool.give(name, job)
        for name in ("a", "b"):
            worker_jobs.wait_for(tmp_path / f"{name}.begun")
        os.kill(os.getpid(), signal.SIGINT)
        codes = {answer.name: answer.result() for answer in answers}
    assert codes == {"a": 130, "b": 130}
    assert [(tmp_path / f"{name}.saved").read_text() for name in ("a", "b")] == ["1", "1"]
    assert not (tmp_path / "c.begun").exists()


def test_ctrl_c_at_a_terminal_is_no_second_interrupt(tmp_path: Path) -> None:
    """SIGINT to the whole process group, as a terminal sends it: the worker ignores it and hears its parent alone."""
    process = subprocess.Popen(
        [sys.executable, worker_jobs.__file__, "patient", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    worker_jobs.wait_for(tmp_path / "a.begun")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("[130]\n", "")
    assert worker_jobs.wait_for(tmp_path / "a.saved") == "1"


def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    with Interrupt() as interrupt, Workers[None](1, interrupt=interrupt) as pool:
        pool.give("a", partial(worker_jobs.stubborn, tmp_path))
        process = int(worker_jobs.wait_for(tmp_path / "process"))
        os.kill(os.getpid(), signal.SIGINT)
        assert pool.collect(0.5) == []
        assert alive(process)  # the first was passed on, and it did not listen
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert not alive(process)


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, worker_jobs.__file__, "unending", str(tmp_path)]
    parent = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SRC)})
    process = int(worker_jobs.wait_for(tmp_path / "process"))
    assert alive(process)  # the control
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while alive(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process)


def test_what_a_job_prints_goes_to_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Workers[None](1) as pool:
        pool.give("a", partial(print, "into the log"), tmp_path / "a.log")
        while not pool.collect():
            pass
        pool.give("b", partial(print, "to the terminal"))
        while not pool.collect():
            pass
    assert (tmp_path / "a.log").read_text() == "into the log\n"
    assert capfd.readouterr().out == "to the terminal\n"
