"""lm-evaluation-harness itself runs our models, on small tasks made here, offline. Needs the extra harness."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.extras import library
from tests.laws.test_harness import EXACT, JOINT, true_log_prob

from unmask.cli.main import main
from unmask.errors import RequestError
from unmask.eval import harness
from unmask.eval.harness import run_tasks
from unmask.eval.scorer import HarnessOptions

lm_eval: Any = library("lm_eval", "harness")
pytestmark = [
    pytest.mark.extras,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the libraries that the harness imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CHOICES = [("a", ["bc", "ab", "ca"]), ("bc", ["a", "ccc"]), ("", ["abc", "cab"])]
DOCUMENTS = ["abcab", "cab"]
TASKS = {
    "local_choice": """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
target_delimiter: ""
metric_list: [{metric: acc}, {metric: exact_match}]
""",
    "local_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
""",
    "local_writing": """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{written}}"
generation_kwargs: {until: ["|"], max_gen_toks: 2}
metric_list: [{metric: exact_match}]
""",
}


def log_prob(context: str, text: str) -> float:
    return true_log_prob(JOINT, context + text) - (true_log_prob(JOINT, context) if context else 0.0)


def best(context: str, choices: list[str]) -> int:
    return max(range(len(choices)), key=lambda i: log_prob(context, choices[i]))


QUESTIONS = [(q, c, best(q, c) if n else (best(q, c) + 1) % len(c)) for n, (q, c) in enumerate(CHOICES)]
"""The answer of the first is not the most probable one: the control."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tasks and their rows, and the cache of the datasets library in it."""
    folder = tmp_path_factory.mktemp("harness")
    written = [
        EXACT.generate(q, length=2, policy="confidence", temperature=0.0).text[len(q) :] for q, _, _ in QUESTIONS
    ]
    rows = {
        "local_choice": [{"question": q, "choices": c, "gold": g} for q, c, g in QUESTIONS],
        "local_rolling": [{"text": text} for text in DOCUMENTS],
        "local_writing": [
            {"question": q, "written": text if i else "no"}
            for i, ((q, _, _), text) in enumerate(zip(QUESTIONS, written, strict=True))
        ],
    }
    for name, body in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
        source = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder}/cache}}\n"
        (folder / f"{name}.yaml").write_text(f"task: {name}\ntest_split: test\n{source}{body}")
    return folder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    return run_tasks(EXACT, list(TASKS), HarnessOptions(draws=64), include=str(folder))


def test_multiple_choice(result: dict[str, Any]) -> None:
    assert result["results"]["local_choice"]["acc"] == pytest.approx(2 / 3)
    bound = result["bounds"]["local_choice"]
    assert (bound["requests"], bound["exact"], bound["stderr"]) == (7, 7, 0)
    mean = sum(log_prob(q, text) for q, c, _ in QUESTIONS for text in c) / 7
    assert bound["nats"] == pytest.approx(-mean, abs=1e-4)


def test_rolling(result: dict[str, Any]) -> None:
    nats = -sum(true_log_prob(JOINT, text) for text in DOCUMENTS)
    expected = nats / sum(map(len, DOCUMENTS)) / 0.6931471805599453
    assert result["results"]["local_rolling"]["bits_per_byte"] == pytest.approx(expected, abs=0.02)


def test_writing(result: dict[str, Any]) -> None:
    """Of three texts the first is wrong on purpose: the control."""
    assert result["results"]["local_writing"]["exact_match"] == pytest.approx(2 / 3)


def test_the_entry_point_is_the_class_of_the_harness(folder: Path) -> None:
    cls = harness.UnmaskLM
    assert issubclass(cls, lm_eval.api.model.LM)
    made = cls.create_from_arg_string("pretrained=wordnet,draws=3", {"device": "cpu", "batch_size": 4})
    assert (made.scorer.options.draws, made.scorer.options.batch) == (3, 4)
    plain = lm_eval.simple_evaluate(
        model=cls(EXACT),
        tasks=["local_rolling"],
        task_manager=lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=False,
    )
    assert plain["results"]["local_rolling"]["bits_per_byte,none"] > 0


def test_the_command_prints_metrics_and_the_errors_of_the_bounds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "wordnet", "--task", "lm-eval:local_choice", "--include", str(folder), "--draws", "2"]
    assert main([*words, "--limit", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "local_choice (2 examples)" in out
    assert "log p is a bound in " in out
    assert main([*words, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["examples"] == {"local_choice": 3}


def test_an_unknown_task_and_data_that_are_not_there_are_one_sentence(folder: Path) -> None:
    with pytest.raises(RequestError) as error:
        run_tasks(EXACT, ["local_chioce"], HarnessOptions(), include=str(folder))
    assert str(error.value) == "lm-evaluation-harness has no task 'local_chioce'; did you mean 'local_choice'?"
    assert main(["eval", "wordnet", "--task", "lm-eval:no_such_thing_xyzzy", "--device", "cpu"]) == 2
    (folder / "local_lost.yaml").write_text(
        (folder / "local_rolling.yaml").read_text().replace("local_rolling", "local_lost")
    )
    with pytest.raises(RequestError, match=r"The data of the task 'local_lost' cannot be loaded \("):
        run_tasks(EXACT, ["local_lost"], HarnessOptions(), include=str(folder))
