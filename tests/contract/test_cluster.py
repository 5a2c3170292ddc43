"""The pool of a Ray cluster, with a local one of two processes; what is refused without one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.extras import library

from unmask.cli.main import main
from unmask.errors import ConfigError, RunError
from unmask.run import cluster as cluster_module
from unmask.run.cluster import RayWorkers, check_address
from unmask.run.loop import Interrupt
from unmask.run.workers import Pool, open_pool

HERE = Path(__file__).parent
SRC = HERE.parents[1] / "src"
sys.path[:0] = [str(HERE), str(HERE.parent / "laws")]  # the processes of a cluster get these paths too

import test_collect  # noqa: E402  # pyright: ignore[reportMissingImports]
import worker_jobs  # noqa: E402

extras = pytest.mark.extras


# ---- addresses -------------------------------------------------------------------------------------------------------


def test_without_the_package_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"^--ray needs the package ray: pip install 'unmask\[ray\]'\.$"):
        check_address("local")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nonsense", "'nonsense' is no address of a Ray cluster: give HOST:PORT of its head, auto for the cluster of "),
        ("ray://localhost:10001", "'ray://localhost:10001' is no address of a Ray cluster: "),
        ("localhost:99999", "'localhost:99999' is no address of a Ray cluster: "),
        ("127.0.0.1:1", "The Ray cluster at '127.0.0.1:1' cannot be reached (connection refused): start it with "),
        ("no.such.host.invalid:6379", "The Ray cluster at 'no.such.host.invalid:6379' cannot be reached ("),
    ],
)
def test_an_address_that_is_none_or_cannot_be_reached(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_library", lambda: None)
    with pytest.raises(ConfigError) as caught:
        check_address(address)
    assert str(caught.value).startswith(sentence)
    with socket.socket() as listening:  # the control: something answers there
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        check_address(f"127.0.0.1:{listening.getsockname()[1]}")


# ---- a local cluster -------------------------------------------------------------------------------------------------


def descendants(process: int) -> set[int]:
    """All processes that a process began, and those began."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    known = {process}
    while new := {child for child, parent in parents.items() if parent in known} - known:
        known |= new
    return known - {process}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A cluster of two processors on this machine; none of its processes is left at the end."""
    library("ray", "ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = f"start --head --block --node-ip-address 127.0.0.1 --port {port} --num-cpus 2 --include-dashboard false "
    words += f"--object-store-memory {10**8}"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(SRC)}
    environment |= {"RAY_AUTH_MODE": "disabled"}  # nobody else reaches 127.0.0.1
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words.split()]
    with (tmp_path_factory.mktemp("ray") / "log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert head.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        begun = descendants(head.pid)
        head.terminate()
        head.wait(60)
        for process in begun:
            worker_jobs.wait_for_end(process)


@extras
def test_a_warm_actor_takes_job_after_job_and_an_error_ends_only_its_job(address: str) -> None:
    with RayWorkers[Any](address, 1, setup=worker_jobs.counting) as pool:
        answers = {answer.name: answer for answer in pool.answers([("a", 1), ("b", -1), ("c", 1)])}
        assert pool.at_work == []
    (process, first, threads), (again, second, _) = answers["a"].result(), answers["c"].result()
    assert (first, second, threads) == (1, 2, "1")
    assert process == again != os.getpid()
    with pytest.raises(ConfigError, match="-1 is below zero"):
        answers["b"].result()
    worker_jobs.wait_for_end(process)
    with RayWorkers[Any](address, setup=worker_jobs.impossible) as pool:
        assert pool.count == 2
        for answer in pool.answers([("a", 1), ("b", 2)]):
            with pytest.raises(ConfigError, match="no such model"):
                answer.result()


@extras
def test_jobs_of_their_own_a_death_and_an_interrupt(address: str, tmp_path: Path) -> None:
    """As in `test_workers`; what a job prints goes to its log."""
    with Interrupt() as interrupt, RayWorkers[Any](address, 2, interrupt=interrupt) as pool:
        pool.give("log", partial(print, "into the log"), tmp_path / "log")
        jobs = [("a", os.getpid), ("dead", partial(os._exit, 3)), ("b", os.getpid)]
        answers = {answer.name: answer for answer in pool.answers(jobs)}
        assert len({answers["a"].result(), answers["b"].result(), os.getpid()}) == 3
        assert answers["dead"].lost
        assert "into the log\n" in (tmp_path / "log").read_text()
        with pytest.raises(RunError, match=r"^dead: its process on the Ray cluster ended before it had a result \("):
            answers["dead"].result()
        pool.give("patient", partial(worker_jobs.patient, tmp_path, "a"))
        worker_jobs.wait_for(tmp_path / "a.begun")
        os.kill(os.getpid(), signal.SIGINT)
        assert [(answer.name, answer.result()) for answer in pool.answers([("never", os.getpid)])] == [("patient", 130)]
    assert worker_jobs.wait_for(tmp_path / "a.saved")


@extras
def test_two_actors_of_ray_are_one_process(address: str, tmp_path: Path) -> None:
    with closing(test_collect.open_learning(test_collect.RUN, out=tmp_path / "run", ray=address)) as session:
        assert test_collect.same(test_collect.alone(), test_collect.train(session.learner))


@extras
def test_an_actor_that_is_killed_in_a_round_changes_nothing(address: str, tmp_path: Path) -> None:
    """The law of `test_work_that_is_lost_is_done_again`, with actors."""
    setup = partial(test_collect.dying, tmp_path, 1, test_collect.RUN)
    pool: Pool[bytes]
    with open_pool(2, address, setup=setup) as pool:
        test_collect.compare_with_one_process(pool)
    assert (tmp_path / "0").exists()


@extras
def test_the_command_learns_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    """Local: one object on stdout, and no process is left."""
    library("ray", "ray")
    words = "learn automaton_eos --ray local --workers 2 --learn.rounds 1 --learn.prompts 2 --learn.group 2 --json "
    words += "--learn.scored 2 --learn.pool 4 --learn.warm 0 --learn.valid-prompts 2 --learn.calibrated 2 "
    words += "--learn.alphas 0.3 --policy.width 16 --learn.threads 1"
    command = [sys.executable, "-m", "unmask.cli.main", *words.split(), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(SRC)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    begun = set[int]()
    while process.poll() is None:
        begun |= descendants(process.pid)
        time.sleep(0.2)
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert json.loads(out)["reason"] == "finished"
    assert len(begun) > 3  # the control: there were processes
    for each in begun:
        worker_jobs.wait_for_end(each)


@extras
def test_a_frontier_on_a_cluster_is_that_of_processes(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "frontier automaton_eos --task automaton --policies threshold:threshold=0.9 confidence:steps=8 "
    words += "--blocks full --count 4 --json"
    results: list[Any] = []
    for name, more in (("here", ["--workers", "1"]), ("there", ["--ray", address])):
        assert main([*words.split(), *more, "--out", str(tmp_path / name)]) == 0
        lines = (tmp_path / name / "outcomes.jsonl").read_text().splitlines()[1:]
        rows = sorted((json.loads(line) for line in lines), key=lambda row: str(row["setting"]))
        results.append([(row["setting"], row["scores"], row["passes"]) for row in rows])
    assert results[0] == results[1]
    assert len(results[0]) == 2
    capsys.readouterr()


@extras
def test_a_reproduction_on_a_cluster_is_that_of_processes(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control: other cells of the same reproduction differ."""
    results: list[dict[str, Any]] = []
    for name, more in (("here", ["--workers", "1"]), ("there", ["--ray", address])):
        words = ["reproduce", "mdlm-schedules", "--fast", *more, "--out", str(tmp_path / name)]
        assert main(words) == 0
        cells = [json.loads(path.read_text()) for path in (tmp_path / name / "cells").glob("*.json")]
        results.append({cell["cell"]["name"]: cell["result"] | {"seconds": 0.0} for cell in cells})
    assert results[0] == results[1]
    first, *others = results[0].values()
    assert first not in others
    capsys.readouterr()
