"""Laws of collecting rollouts: who decodes, and whether a process is lost, changes neither rollouts nor the policy."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import safetensors.torch
import torch
from torch import Tensor

from unmask import api
from unmask.errors import ConfigError, RunError
from unmask.noise import derive
from unmask.policies.learned.settings import PolicySettings
from unmask.rl import session as session_module
from unmask.rl.collect import FINAL, Attempts, Collector, InProcess, Pooled, answer_calls, policy_bytes
from unmask.rl.learner import Learner
from unmask.rl.loop import validate
from unmask.rl.rollout import Rollout, World, experts, make_world, merged
from unmask.rl.session import open_learning
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.rl.warm import imitate
from unmask.run.parallel import Group
from unmask.run.workers import Answer, Pool, Workers
from unmask.train.checkpoint import agreed_folder

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # worker processes get this path too

SMALL = LearnSettings(
    rounds=2, prompts=4, group=3, steering=1, alphas=(0.3, 10.0), warm=1, mixed=True, pool=16, valid_prompts=2,
    calibrated=2, threads=1,
)  # fmt: skip
RUN = LearnRun(
    "automaton_eos",
    "automaton:length=8",
    PolicySettings(width=8, length=True, entropy="bounded"),
    SMALL,
    ("automaton:length=12=automaton",),
)
ROUNDS = 2


@cache
def worlds() -> list[World]:
    """The denoisers and problems of RUN."""
    return [
        make_world(api.load(pair.checkpoint, threads=1), pair.checkpoint, pair.task, train=16, valid=2, seed=0)
        for pair in RUN.pairs
    ]


class Noting:
    """A collector that keeps the rollouts of another one."""

    def __init__(self, inner: Collector) -> None:
        self.inner, self.seen = inner, list[Rollout]()

    def collect(self, policy: bytes, groups: Sequence[Attempts], *, record: bool = True) -> Rollout:
        self.seen.append(self.inner.collect(policy, groups, record=record))
        return self.seen[-1]


def train(learner: Learner) -> dict[str, Tensor]:
    """A learner -> all that was decoded in a round of imitation, two rounds and a validation; rewards, and weights."""
    noting = learner.collector = Noting(learner.collector)
    rules = experts(8)
    learner.teachers = [rules[5], rules[-1]] * 2
    imitate(learner)
    reports = [learner.take_round() for _ in range(ROUNDS)]
    figure = validate(learner)
    results = {f"weight {n}": parameter.detach().clone() for n, parameter in enumerate(learner.params)}
    results |= {"rewards": torch.tensor([report.reward for report in reports]), "validation": figure.reward}
    for n, rollout in enumerate(noting.seen):
        results |= {f"{n} {name}": getattr(rollout, name) for name in ("scores", "passes", "lengths")}
        results[f"{n} tokens"] = torch.tensor([token for row in rollout.rows for token in row])
        if rollout.trajectory is not None:
            seen, *others = rollout.trajectory
            results |= {f"{n} trajectory {k}": value for k, value in enumerate((*seen, *others))}
    return results


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two trainings are the same: numbers to 1e-5 of the largest, all else exactly."""
    if first.keys() != second.keys():
        return False
    for name, value in first.items():
        other = second[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            return False
        largest = 1 + float(value.abs().max()) if value.is_floating_point() else 0
        if not (torch.equal(value, other) or (value.is_floating_point() and near(value, other, 1e-5 * largest))):
            return False
    return True


def near(first: Tensor, second: Tensor, gap: float) -> bool:
    return bool(((first - second).abs() <= gap).all())


def alone(change: Callable[[Collector], Collector] = lambda collector: collector) -> dict[str, Tensor]:
    """RUN in this process -> its figures; `change` puts another collector around the one of this process."""
    torch.set_num_threads(1)
    made = worlds()
    run = replace(RUN, policy=replace(RUN.policy, unit=12.0))
    return train(Learner(run, made, Path("unused"), Group(), change(InProcess(run, made))))


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return alone()


# ---- how rollouts are divided ----------------------------------------------------------------------------------------


class Divided:
    """Two shares of the groups, decoded one after the other, as two processes do; the subclasses are wrong variants."""

    def __init__(self, inner: Collector) -> None:
        self.inner = inner

    def collect(self, policy: bytes, groups: Sequence[Attempts], *, record: bool = True) -> Rollout:
        shares = [range(rank, len(groups), 2) for rank in range(2)]
        parts = [
            self.inner.collect(policy, self.asked(rank, [groups[n] for n in share]), record=record)
            for rank, share in enumerate(shares)
        ]
        return self.together(groups, shares, parts)

    def asked(self, rank: int, groups: list[Attempts]) -> list[Attempts]:
        return groups

    def together(self, groups: Sequence[Attempts], shares: list[range], parts: list[Rollout]) -> Rollout:
        first = [sum(len(group.seeds) for group in groups[:n]) for n in range(len(groups) + 1)]
        rows = [[row for n in share for row in range(first[n], first[n + 1])] for share in shares]
        return merged([(torch.tensor(own), part) for own, part in zip(rows, parts, strict=True)])


class SeedsOfRank(Divided):
    """Seeds by the process and the place in its share, as before."""

    def asked(self, rank: int, groups: list[Attempts]) -> list[Attempts]:
        return [
            replace(group, seeds=tuple(derive(0, rank, n, k) for k in range(len(group.seeds))))
            for n, group in enumerate(groups)
        ]


class Unsorted(Divided):
    """Results in the order in which they come."""

    def together(self, groups: Sequence[Attempts], shares: list[range], parts: list[Rollout]) -> Rollout:
        rows = len(parts[0].scores)
        both = (torch.arange(rows), torch.arange(rows, rows + len(parts[1].scores)))
        return merged(list(zip(both, parts, strict=True)))


@pytest.mark.parametrize(("wrong", "equal"), [(Divided, True), (SeedsOfRank, False), (Unsorted, False)])
def test_shares_of_the_groups_are_the_whole(whole: dict[str, Tensor], wrong: type[Divided], equal: bool) -> None:
    assert same(whole, alone(wrong)) is equal


@pytest.mark.slow
def test_two_worker_processes_are_one(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """By the session, as the command does it, so that the pool's setup is tested too."""
    with closing(open_learning(RUN, out=tmp_path / "run", workers=2)) as session:
        assert same(whole, train(session.learner))


RANKS = """
import sys
from contextlib import closing
from pathlib import Path
import safetensors.torch
from test_collect import RUN, train
from unmask.rl.session import open_learning

with closing(open_learning(RUN, out=sys.argv[1])) as session:
    results = {name: value.contiguous() for name, value in train(session.learner).items()}
    safetensors.torch.save_file(results, f"{sys.argv[1]}-{session.group.rank}")
"""


@pytest.mark.slow
def test_two_processes_of_torchrun_are_one(whole: dict[str, Tensor], tmp_path: Path) -> None:
    """Over gloo; both have the rollouts of both, and the same update."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE)])
    crew = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(tmp_path / "run")],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=400) for process in crew] == [0, 0]
    for rank in range(2):
        assert same(whole, safetensors.torch.load_file(tmp_path / f"run-{rank}"))


# ---- work that is lost -----------------------------------------------------------------------------------------------


def dying(folder: Path, deaths: int, run: LearnRun) -> Callable[[tuple[bytes, bytes]], bytes]:
    """The setup of a process that is killed in the middle of its first call, as often as `deaths` says in all."""
    answer = answer_calls(run, worlds())

    def work(call: tuple[bytes, bytes]) -> bytes:
        data = answer(call)
        for n in range(deaths):
            try:
                (folder / f"{n}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    return work


def groups_of(count: int) -> list[Attempts]:
    return [Attempts(n % 2, n, 0.3, (n, n + 100)) for n in range(count)]


def compare_with_one_process(pool: Pool[bytes], count: int = 6) -> None:
    """The rollouts of groups in a pool are those of this process."""
    made = worlds()
    learner = Learner(RUN, made, Path("unused"), Group())
    policy, groups = policy_bytes(learner.policy(sample=True)), groups_of(count)
    expected = learner.collector.collect(policy, groups)
    received = Pooled(pool, made[0].device).collect(policy, groups)
    assert received.rows == expected.rows
    assert received.trajectory is not None
    assert expected.trajectory is not None
    assert torch.equal(received.trajectory.row, expected.trajectory.row)


@pytest.mark.slow
def test_work_that_is_lost_is_done_again(tmp_path: Path) -> None:
    """The rollouts are those of one process; a part at which every process dies ends the call."""
    with Workers[bytes](2, setup=partial(dying, tmp_path, 1, RUN)) as pool:
        compare_with_one_process(pool)
    assert (tmp_path / "0").exists()
    (again := tmp_path / "again").mkdir()
    sentence = r"^attempts 1 of 1: its process ended with code -9 before it had a result\.$"
    with Workers[bytes](1, setup=partial(dying, again, 99, RUN)) as pool, pytest.raises(RunError, match=sentence):
        compare_with_one_process(pool, 1)
    assert len(list(again.iterdir())) == 3


class Silent(Workers[bytes]):
    """A pool whose process is stopped for the first `looks` looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__(1)
        self.looks, self.names = looks, list[str]()

    @property
    def at_work(self) -> list[str]:
        return self.names

    def give(self, name: str, job: Any, log: Path | None = None) -> None:
        self.names = [name]

    def collect(self, timeout: float = 0.2) -> list[Any]:
        self.looks -= 1
        if self.looks >= 0:
            return []
        (name,), self.names = self.names, []
        return [Answer(name, None, ConfigError("it answers"), None)]


def test_a_process_that_is_stopped_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks are an hour here. The control: one that answers after an hour and a half."""
    hours = (1800.0 * n for n in range(1000))
    monkeypatch.setattr("unmask.rl.collect.time.monotonic", lambda: next(hours))
    with pytest.raises(RunError, match=r"^The processes that decode attempts 1 of 1 sent no answer for 2 hours: "):
        Pooled(Silent(100), torch.device("cpu")).collect(b"", groups_of(1))
    with pytest.raises(ConfigError, match="it answers"):
        Pooled(Silent(3), torch.device("cpu")).collect(b"", groups_of(1))


# ---- what travels, and what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["", FINAL])
def test_what_travels_comes_back_as_it_was(who: str) -> None:
    """Seeds of 63 bits, dial values and figures, through JSON and safetensors; the control is another seed."""
    made = worlds()
    learner, large = Learner(RUN, made, Path("unused"), Group()), 2**62 + 1
    groups = [Attempts(0, 3, 0.1 + 0.2, (large, 7), who), Attempts(1, 1, 0.7, (5,), who, valid=True)]
    policy = policy_bytes(learner.policy(sample=True))
    direct = learner.collector.collect(policy, groups)

    class Here(Workers[bytes]):
        """A pool that answers in this process."""

        waiting: tuple[str, Any] | None = None

        @property
        def at_work(self) -> list[str]:
            return [] if self.waiting is None else [self.waiting[0]]

        def give(self, name: str, job: Any, log: Path | None = None) -> None:
            self.waiting = name, job

        def collect(self, timeout: float = 0.2) -> list[Any]:
            assert self.waiting is not None
            (name, job), self.waiting = self.waiting, None
            return [Answer(name, answer_calls(RUN, made)(job), None, None)]

    travelled = Pooled(Here(1), made[0].device).collect(policy, groups)
    for name in ("scores", "passes", "lengths"):
        assert torch.equal(getattr(direct, name), getattr(travelled, name))
    assert direct.rows == travelled.rows
    assert direct.trajectory is not None
    assert travelled.trajectory is not None
    parts = [(*each.seen, *each[1:]) for each in (direct.trajectory, travelled.trajectory)]
    pairs = zip(*parts, strict=True)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)
    other = learner.collector.collect(policy, [replace(groups[0], seeds=(large - 1, 7)), groups[1]])
    assert who or other.rows != direct.rows or not torch.equal(other.passes, direct.passes)


def test_a_process_with_other_weights_or_problems_is_refused() -> None:
    made = worlds()
    true = [session_module._weights_of(pair.checkpoint) for pair in RUN.pairs]
    mark = session_module._mark(session_module._worlds(RUN, "cpu"))
    assert callable(session_module._answers(RUN, "cpu", true, mark))  # the control
    with pytest.raises(ConfigError, match=r"^automaton has other weights on .* copy it there\.$"):
        session_module._answers(RUN, "cpu", [true[0], "other"], mark)
    with pytest.raises(ConfigError, match=r"^The problems are others on .* the same files of the tasks\.$"):
        session_module._answers(RUN, "cpu", true, session_module._mark(made[:1]))


class Thread(Group):
    """A process of two, in a thread: texts go round by a list."""

    texts: ClassVar[list[str]] = ["", ""]
    met: ClassVar[threading.Barrier] = threading.Barrier(2, timeout=60)

    def gather(self, text: str, device: torch.device) -> list[str]:
        self.texts[self.rank] = text
        self.met.wait()
        texts = list(self.texts)
        self.met.wait()
        return texts


def in_two(ask: Callable[[Group], Any]) -> list[Any]:
    """What two processes get, or the error of each."""

    def work(rank: int) -> Any:
        try:
            return ask(Thread(rank, 2))
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, range(2)))


def test_processes_that_go_on_from_different_checkpoints_are_refused() -> None:
    """The control: from the same one. A new run is in the folder of the first process."""
    made, origins = worlds(), [{"weights": ""}] * 2

    def ask(*names: str) -> Callable[[Group], None]:
        return lambda group: session_module._require_same(RUN, group, origins, made, Path("run") / names[group.rank])

    assert in_two(ask("step-2", "step-2")) == [None, None]
    sentence = (
        "The 2 processes of the run have different checkpoints: the run goes on from is step-2 in process 0 and step-4 "
        "in process 1 (other than process 0: 1); start all of them with the same command, library versions and files."
    )
    assert in_two(ask("step-2", "step-4")) == [sentence] * 2
    cpu = torch.device("cpu")
    folders = in_two(lambda group: agreed_folder(f"runs/{group.rank}", "learn-automaton", group, cpu))
    assert folders == [Path("runs/0")] * 2


def test_worker_processes_are_refused_where_they_are_no_use() -> None:
    with pytest.raises(ConfigError, match=r"^--workers does not go with torchrun, whose 2 processes share"):
        session_module._check_place(2, None, Group(0, 2), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"^--workers are processes of one processor thread each, .* on cuda:1"):
        session_module._check_place(2, None, Group(), torch.device("cuda", 1))
    session_module._check_place(2, None, Group(), torch.device("cpu"))  # the control
    session_module._check_place(None, None, Group(0, 2), torch.device("cuda"))
