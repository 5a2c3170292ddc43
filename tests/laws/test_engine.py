"""The engine of `unmask serve`: each row equals itself alone, whatever joins, leaves or is aborted beside it."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from unmask import api
from unmask.decode.rows import Written, continuation
from unmask.errors import RequestError, RunError
from unmask.serve.engine import Engine
from unmask.serve.job import Busy, Decoding, Job, Late, Progress

MODEL = api.load("automaton", device="cpu", threads=1)
PROMPTS = ("", "A", "ab", "Cdef.")
POLICIES = ("random:steps=4", "threshold:threshold=0.5", "ancestral:steps=5", "remdm:steps=6,eta=0.3", "confidence")


def program(prompt: str, new: int, seed: int, window: int = 0) -> Any:
    """The windows of a row, as those of `Model.generate` with this list of seeds."""
    tokenizer, most = MODEL.tokenizer, window or MODEL.window
    return continuation(
        tokenizer.encode(prompt),
        new,
        seed,
        window=most,
        stride=most // 2,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
    )


def alone(prompt: str, new: int, seed: int, policy: str, temperature: float, size: int | None) -> Any:
    """What `generate` writes."""
    return MODEL.generate([prompt], length=new, seed=[seed], policy=policy, temperature=temperature, block_size=size)


class Rows(RuleBasedStateMachine):
    """Rows are submitted, aborted and decoded in any order; what is finished is compared with the row alone."""

    @initialize()
    def begin(self) -> None:
        self.engine = Engine({"m": MODEL}, positions=256)
        self.jobs: list[tuple[Job, tuple[Any, ...], list[Any]]] = []

    @rule(
        prompt=st.sampled_from(PROMPTS),
        new=st.sampled_from((1, 3, 9, 30)),
        seed=st.integers(0, 50),
        policy=st.sampled_from(POLICIES),
        temperature=st.sampled_from((0.0, 1.0, 0.7)),
        size=st.sampled_from((None, 4)),
    )
    def submit(self, prompt: str, new: int, seed: int, policy: str, temperature: float, size: int | None) -> None:
        result: list[Any] = []
        job = Job(Decoding("m", policy, size), program(prompt, new, seed), result.append, temperature=temperature)
        self.engine.submit([job])
        self.jobs.append((job, (prompt, new, seed, policy, temperature, size), result))

    @rule(count=st.integers(1, 4))
    def turns(self, count: int) -> None:
        for _ in range(count):
            self.engine.turn()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        job, _, _ = data.draw(st.sampled_from(self.jobs))
        job.aborted = True

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(500):
            if not (self.engine.waiting or self.engine.active):
                break
            self.engine.turn()
        for job, row, result in self.jobs:
            assert result or job.aborted
            if result:
                assert differing(result[0], alone(*row)) == []


def differing(written: Written, other: Any) -> list[str]:
    """The names of what differs between a row of the engine and the row alone."""
    assert isinstance(written, Written)
    values = {"tokens": written.tokens, "log_probs": written.log_probs, "passes": written.passes}
    return [name for name, value in values.items() if [value] != getattr(other, name)]


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)


def finished(engine: Engine, job: Job, result: list[Any]) -> Any:
    """Take turns until the row is finished -> its result."""
    for _ in range(500):
        if result or job.aborted:
            break
        engine.turn()
    return result[0]


def job_of(new: int = 20, seed: int = 1, **options: Any) -> tuple[Job, list[Any]]:
    result: list[Any] = []
    decoding = options.pop("decoding", Decoding("m", "confidence"))
    return Job(decoding, program("", new, seed), result.append, **options), result


def test_another_seed_is_another_row() -> None:
    """The control of the law: the comparison notices a row that is not the same."""
    engine = Engine({"m": MODEL})
    job, result = job_of(temperature=1.0, decoding=Decoding("m", "random:steps=8"))
    engine.submit([job])
    written = finished(engine, job, result)
    assert differing(written, alone("", 20, 1, "random:steps=8", 1.0, None)) == []
    assert differing(written, alone("", 20, 2, "random:steps=8", 1.0, None)) != []


def test_windows_slide_as_in_generate() -> None:
    """A text of several windows, in which the row changes the batch."""
    engine, result = Engine({"m": MODEL}), list[Any]()
    job = Job(Decoding("m", "confidence", ends=False), program("", 60, 3, window=24), result.append, temperature=0.0)
    engine.submit([job])
    written = finished(engine, job, result)
    assert len(written.tokens) == 60
    many = [job_of(20, seed)[0] for seed in range(3)]
    again: list[Any] = []
    job = Job(Decoding("m", "confidence", ends=False), program("", 60, 3, window=24), again.append, temperature=0.0)
    engine.submit([*many, job])
    assert finished(engine, job, again).tokens == written.tokens


def test_progress_is_what_a_stream_can_show() -> None:
    """The text grows, what is settled never changes, and the last text is the result."""
    seen: list[Progress] = []
    job, result = job_of(decoding=Decoding("m", "confidence", 4), temperature=0.0)
    job.passed = lambda progress: bool(seen.append(progress))
    engine = Engine({"m": MODEL})
    engine.submit([job])
    written = finished(engine, job, result)
    assert [progress.passes for progress in seen] == list(range(1, len(seen) + 1))
    for before, after in itertools.pairwise(seen):
        assert before.settled <= after.settled
        assert before.tokens[: before.settled] == after.tokens[: before.settled]
    assert seen[-1].settled >= len(written.tokens)
    assert seen[-1].tokens[: len(written.tokens)] == written.tokens
    assert seen[0].turn().lengths == (len(seen[0].tokens),)


def test_a_listener_ends_its_row_and_no_other() -> None:
    job, result = job_of(temperature=0.0)
    other, fine = job_of(seed=2, temperature=0.0)
    job.passed = lambda progress: progress.passes == 3
    engine = Engine({"m": MODEL})
    engine.submit([job, other])
    assert finished(engine, other, fine)
    assert not result
    assert engine.counts.finished == 2


def test_a_listener_that_fails_ends_its_row_with_a_sentence() -> None:
    job, result = job_of(temperature=0.0)
    other, fine = job_of(seed=2, temperature=0.0)

    def passed(progress: Progress) -> bool:
        raise ValueError("no")

    job.passed = passed
    engine = Engine({"m": MODEL})
    engine.submit([job, other])
    assert isinstance(finished(engine, other, fine), Written)
    assert isinstance(result[0], RunError)
    assert len(result) == 1


def test_late_rows_end_with_a_sentence() -> None:
    engine = Engine({"m": MODEL})
    job, result = job_of(deadline=time.monotonic() - 1)
    engine.submit([job])
    engine.turn()
    assert isinstance(result[0], Late)
    assert engine.active == engine.waiting == 0


def test_the_queue_is_bounded_and_rooms_are_counted_in_positions() -> None:
    engine = Engine({"m": MODEL}, queue=3, positions=64)
    jobs = [job_of(seed=seed)[0] for seed in range(3)]
    engine.submit(jobs)
    with pytest.raises(Busy, match="3 rows are waiting, and 3 at most may"):
        engine.submit([job_of()[0]])
    engine.turn()
    assert (engine.active, engine.waiting) == (2, 1)  # of 32 positions each


def test_a_pass_that_fails_ends_its_rows_and_the_engine_goes_on() -> None:
    engine = Engine({"m": MODEL})

    def constraint(tokens: Any, where: Any) -> Any:
        raise ValueError("broken")

    job, result = job_of(constraint=constraint)
    engine.submit([job])
    assert "broken" in str(finished(engine, job, result))
    job, result = job_of()
    engine.submit([job])
    assert isinstance(finished(engine, job, result), Written)


@pytest.mark.parametrize(
    "decoding",
    [Decoding("other"), Decoding("m", "none-such"), Decoding("m", cache="prefix")],
    ids=("model", "policy", "cache"),
)
def test_impossible_rows_are_refused_before_they_wait(decoding: Decoding) -> None:
    with pytest.raises(RequestError):
        Engine({"m": MODEL}).submit([job_of(decoding=decoding)[0]])
    with pytest.raises(RequestError):
        Engine({})


def waited(condition: Callable[[], bool]) -> bool:
    """Whether a condition became true within a minute."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_the_thread_serves_and_stops() -> None:
    engine = Engine({"m": MODEL})
    engine.start()
    job, result = job_of(temperature=0.0)
    engine.submit([job])
    assert waited(lambda: bool(result))
    assert isinstance(result[0], Written)
    hold = threading.Event()
    job, result = job_of()
    job.passed = lambda progress: not hold.wait(60)
    engine.submit([job])
    assert waited(lambda: engine.active == 1)
    threading.Timer(0.1, hold.set).start()
    engine.stop()
    assert "stopped before the text was finished" in str(result[0])
    with pytest.raises(Busy, match="is stopping"):
        engine.submit([job_of()[0]])
