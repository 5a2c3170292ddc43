"""`unmask serve`: the requests of OpenAI's clients and our own, their errors, and who is let through."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.serve_client import client_of, events, post, read_late, scope_of

from unmask import api
from unmask.cli.main import main
from unmask.errors import ConfigError
from unmask.serve.app import create_app
from unmask.serve.engine import Engine
from unmask.serve.guard import Guard, error_body
from unmask.serve.settings import ServeSettings
from unmask.serve.text import TextRow

NAME = "wordnet"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine({NAME: api.load(NAME, device="cpu"), "automaton": api.load("automaton", device="cpu")})
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def client(engine: Engine) -> TestClient:
    return client_of(engine)


OWN = {"policy": "confidence:steps=6", "block_size": 8}


# ---- what is written -------------------------------------------------------------------------------------------------


def test_a_completion_is_what_generate_writes(client: TestClient, engine: Engine) -> None:
    """Two prompts, two texts each, with the seeds that generate gives its rows."""
    answer = post(
        client, "/v1/completions", prompt=["dog\n", "cat\n"], n=2, max_tokens=12, seed=5, temperature=0.7, unmask=OWN
    )
    result = engine.models[NAME].generate(
        ["dog\n"] * 2 + ["cat\n"] * 2, length=12, seed=5, temperature=0.7, policy="confidence:steps=6", block_size=8
    )
    begun = ["dog\n"] * 2 + ["cat\n"] * 2
    assert [a + choice["text"] for a, choice in zip(begun, answer["choices"], strict=True)] == result.texts
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["unmask"]["passes"] == result.passes
    assert answer["unmask"]["seed"] == 5
    other = post(client, "/v1/completions", prompt=["dog\n"] * 4, max_tokens=12, seed=6, temperature=0.7, unmask=OWN)
    assert [choice["text"] for choice in other["choices"]] != [choice["text"] for choice in answer["choices"]]


def test_a_stream_has_the_text_of_the_answer(client: TestClient) -> None:
    body: dict[str, Any] = {"prompt": "dog\n", "max_tokens": 20, "seed": 3, "temperature": 0.8, "unmask": OWN}
    whole = post(client, "/v1/completions", **body)["choices"][0]
    chunks = events(client, "/v1/completions", **body, stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == whole["text"]
    assert chunks[-2]["choices"][0]["finish_reason"] == whole["finish_reason"]
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-2])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert len(chunks) > 3


def test_a_stream_that_is_read_late_has_the_same_chunks(client: TestClient, engine: Engine) -> None:
    """Only the last chunk of a row says why it ended, also where the row is finished before the first one is sent."""
    body: dict[str, Any] = {"prompt": "dog\n", "max_tokens": 12, "seed": 3, "temperature": 0.8, "unmask": OWN}
    chunks = [chunk["choices"][0] for chunk in read_late(Engine(engine.models), "/v1/completions", body)]
    whole = post(client, "/v1/completions", **body)["choices"][0]
    assert len(chunks) > 2
    assert [chunk["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [whole["finish_reason"]]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]


def test_drafts_only_where_they_are_asked_for(client: TestClient) -> None:
    """Each draft is the whole text: what is written stands in it, and the last one is the answer."""
    body: dict[str, Any] = {"prompt": "dog\n", "max_tokens": 16, "seed": 3, "temperature": 0, "unmask": OWN}
    body |= {"stop": ["@@"], "logprobs": 1}
    plain = events(client, "/v1/completions", **body)
    assert not any("diffusing" in chunk for chunk in plain)
    text = "".join(chunk["choices"][0]["text"] for chunk in plain)
    chunks = events(
        client, "/v1/completions", **body, echo=True, diffusing=True, stream_options={"include_usage": True}
    )
    *drafts, last = chunks
    assert last["choices"] == []
    assert all(draft["diffusing"] for draft in drafts)
    texts = [draft["choices"][0]["text"] for draft in drafts]
    assert texts[-1] == f"dog\n{text}"
    assert all(each.startswith("dog\n") for each in texts)
    assert len(texts) - last["unmask"]["passes"][0] in (0, 1)  # one for each pass, and one for the end after the last
    assert any(not text.startswith(each.removeprefix("dog\n")) for each in texts)  # guesses, which change
    assert [draft["choices"][0]["logprobs"] is None for draft in drafts] == [True] * (len(drafts) - 1) + [False]
    facts = [chunk["choices"][0]["logprobs"]["token_logprobs"] for chunk in plain]
    prompt = [None] * last["usage"]["prompt_tokens"]
    values = drafts[-1]["choices"][0]["logprobs"]["token_logprobs"]
    assert values == [*prompt, *(value for part in facts for value in part)]
    refused = client.post("/v1/completions", json=body | {"diffusing": True})
    assert refused.status_code == 400
    assert "give stream too" in refused.json()["error"]["message"]


def test_echo_and_log_probabilities(client: TestClient, engine: Engine) -> None:
    answer = post(
        client,
        "/v1/completions",
        prompt="dog\n",
        max_tokens=6,
        seed=1,
        temperature=0,
        echo=True,
        logprobs=2,
        unmask=OWN,
    )
    choice = answer["choices"][0]
    facts = choice["logprobs"]
    result = engine.models[NAME].generate(
        "dog\n", length=6, seed=1, temperature=0, policy="confidence:steps=6", block_size=8
    )
    assert choice["text"] == result.text
    prompt = answer["usage"]["prompt_tokens"]
    assert facts["token_logprobs"][:prompt] == [None] * prompt
    assert facts["token_logprobs"][prompt:] == pytest.approx(result.log_probs[0])
    assert [len(best) for best in facts["top_logprobs"][prompt:]] == [2] * len(result.log_probs[0])
    for value, best in zip(facts["token_logprobs"][prompt:], facts["top_logprobs"][prompt:], strict=True):
        assert value == pytest.approx(max(best.values()), abs=1e-5)  # at temperature 0 the best token is written
    body: dict[str, Any] = {
        "prompt": "dog\n",
        "max_tokens": 6,
        "seed": 1,
        "temperature": 0,
        "logprobs": 2,
        "unmask": OWN,
    }
    for echo, begin in ((True, 0), (False, prompt)):
        parts = [chunk["choices"][0]["logprobs"] for chunk in events(client, "/v1/completions", **body, echo=echo)]
        joined = {name: [value for part in parts for value in part[name]] for name in facts}
        first = facts["text_offset"][begin]
        assert joined.pop("text_offset") == [at - first for at in facts["text_offset"][begin:]]
        assert joined == {name: values[begin:] for name, values in facts.items() if name != "text_offset"}


def test_a_stop_text_ends_a_row(client: TestClient) -> None:
    body: dict[str, Any] = {"prompt": "dog\n", "max_tokens": 24, "seed": 3, "temperature": 0, "unmask": OWN}
    whole = post(client, "/v1/completions", **body)
    text = whole["choices"][0]["text"]
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    cut = post(client, "/v1/completions", **body, stop=[stop, "\n\n\n"])
    assert cut["choices"][0]["text"] == text[: text.index(stop)]
    assert cut["choices"][0]["finish_reason"] == "stop"
    assert cut["unmask"]["passes"][0] < whole["unmask"]["passes"][0]
    streamed = events(client, "/v1/completions", **body, stop=stop)
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == text[: text.index(stop)]
    counted = post(client, "/v1/completions", **body, stop=stop, logprobs=0)
    tokens = counted["choices"][0]["logprobs"]["tokens"]  # those that the text needs, and none behind it
    assert len(tokens) == counted["usage"]["completion_tokens"] < whole["usage"]["completion_tokens"]
    assert not "".join(tokens[:-1]).startswith(counted["choices"][0]["text"])


def test_a_stop_text_ends_what_is_before_a_suffix(client: TestClient) -> None:
    body: dict[str, Any] = {"prompt": "a ", "suffix": " that barks", "max_tokens": 5, "seed": 1}
    text = post(client, "/v1/completions", **body)["choices"][0]["text"]
    cut = post(client, "/v1/completions", **body, stop=text[3:5])["choices"][0]
    assert cut["text"] == text[: text.index(text[3:5])]
    assert cut["finish_reason"] == "stop"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/fim/completions"])
def test_a_suffix_is_infilling(client: TestClient, engine: Engine, path: str) -> None:
    answer = post(client, path, prompt="a [young] ", suffix=" that barks", max_tokens=3, seed=1, n=2)
    result = engine.models[NAME].fill(r"a \[young\] [3] that barks", count=2, seed=1)
    texts = [f"a [young] {choice['text']} that barks" for choice in answer["choices"]]
    assert texts == result.texts


def test_prompts_can_be_ids(client: TestClient, engine: Engine) -> None:
    ids = engine.models[NAME].tokenizer.encode("dog\n")
    body: dict[str, Any] = {"max_tokens": 8, "seed": 2, "temperature": 0, "unmask": OWN}
    text = post(client, "/v1/completions", prompt="dog\n", **body)["choices"][0]["text"]
    assert post(client, "/v1/completions", prompt=ids, **body)["choices"][0]["text"] == text
    assert post(client, "/v1/completions", prompt=[ids, ids], **body)["choices"][0]["text"] == text


def test_scores_are_those_of_the_library(client: TestClient, engine: Engine) -> None:
    answer = post(client, "/v1/score", template="dog\n an [?]", choices=["animal", "idea"])
    choices = engine.models[NAME].score("dog\n an [?]", ["animal", "idea"])
    assert [row["nats"] for row in answer["choices"]] == [choice.nats for choice in choices]


def test_a_trace_while_it_happens(client: TestClient, engine: Engine) -> None:
    """The events are those of a trace of fill, and the last line has the text."""
    chunks = events(client, "/v1/denoise", template="a [4] dog", seed=1, alternatives=2, provisional=True, unmask=OWN)
    start, *passes, done = chunks
    result = engine.models[NAME].fill("a [4] dog", seed=1, policy="confidence:steps=6", block_size=8, trace=True)
    assert done["rows"][0]["text"] == result.text
    assert result.trace is not None
    events_of_rows = [
        (event["position"], event["token"], event["passes"]) for chunk in passes for event in chunk["events"]
    ]
    assert events_of_rows == [(event.position, event.token, event.passes) for event in result.trace.events]
    known = set(start["header"]["pieces"])
    for chunk in passes:
        known |= set(chunk["pieces"])
        assert {str(event["token"]) for event in chunk["events"]} <= known
        assert {str(guess[1]) for guess in chunk["provisional"]} <= known
    assert len(passes[0]["provisional"]) == 4 - len(passes[0]["events"])


def test_free_lengths_and_going_on(client: TestClient, engine: Engine) -> None:
    chunk = post(client, "/v1/denoise", template="a [1-3] dog", seed=1, stream=False, unmask=OWN)["events"][-1]
    result = engine.models[NAME].fill("a [1-3] dog", seed=1, policy="confidence:steps=6", block_size=8)
    assert chunk["rows"][chunk["best"]]["text"] == result.text
    tokens: list[int | None] = list(engine.models[NAME].tokenizer.encode("a small dog"))
    tokens[1] = None
    done = post(client, "/v1/denoise", tokens=tokens, seed=1, stream=False)["events"][-1]
    assert done["rows"][0]["text"].endswith(" dog")


CHOICES = ["a small dog", "a large cat", "an idea"]


def test_a_text_is_one_of_the_choices(client: TestClient, engine: Engine) -> None:
    own = OWN | {"choices": CHOICES}
    body: dict[str, Any] = {"prompt": "dog\n", "max_tokens": 12, "seed": 4, "temperature": 1}
    answer = post(client, "/v1/completions", **body, unmask=own, n=4)
    texts = [choice["text"] for choice in answer["choices"]]
    assert set(texts) <= set(CHOICES)
    model = engine.models[NAME]
    options: dict[str, Any] = {"length": 12, "policy": "confidence:steps=6", "block_size": 8}
    rule = model.matching(choices=CHOICES)
    result = model.generate(["dog\n"] * 4, seed=4, temperature=1, constraint=rule, **options)
    assert ["dog\n" + text for text in texts] == result.texts
    free = post(client, "/v1/completions", **body, unmask=OWN, n=4)  # the control
    assert not {choice["text"] for choice in free["choices"]} <= set(CHOICES)
    assert "".join(c["choices"][0]["text"] for c in events(client, "/v1/completions", **body, unmask=own)) in CHOICES
    between = post(client, "/v1/completions", prompt="It is", suffix=" .", max_tokens=1, unmask={"choices": [" a"]})
    assert between["choices"][0]["text"] == " a"


@pytest.mark.extras
def test_an_answer_fits_its_schema(client: TestClient, engine: Engine) -> None:
    pytest.importorskip("outlines_core")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "good": {"type": "boolean"}},
        "required": ["n"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "facts", "schema": schema}}
    model = engine.models[NAME]
    rule = model.matching(schema=schema)
    assert json.loads(model.generate("", length=24, seed=1, constraint=rule).text)
    text = post(client, "/v1/completions", prompt="", max_tokens=12, unmask={"regex": "[0-9]{3}-[a-f]+"})
    assert re.fullmatch("[0-9]{3}-[a-f]+", text["choices"][0]["text"])
    wrong = client.post("/v1/completions", json={"unmask": {"regex": "(?=a)b"}})
    assert wrong.status_code == 400
    bad = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}
    body = {"messages": [{"role": "user", "content": "x"}], "response_format": form | {"json_schema": {"schema": bad}}}
    assert client.post("/v1/chat/completions", json=body).status_code == 400


def test_models_health_metrics_and_the_schema(client: TestClient) -> None:
    cards = client.get("/v1/models").json()
    assert [card["id"] for card in cards["data"]] == [NAME, "automaton"]
    assert client.get(f"/v1/models/{NAME}").json() == cards["data"][0]
    assert client.get("/health").json() == {"status": "ok"}
    assert "unmask_passes_total" in client.get("/metrics").text
    assert "/v1/completions" in client.get("/openapi.json").json()["paths"]
    page = client.get("/")
    assert "<title>" in page.text
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"


# ---- what is refused -------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "no prompt": ("/v1/completions", {"prompt": []}, 400, "prompt is an empty list"),
    "model": ("/v1/completions", {"model": "nope"}, 404, "There is no model 'nope'"),
    "tokens": ("/v1/completions", {"max_tokens": 10**6}, 400, "writes at most 4096"),
    "rows": ("/v1/completions", {"n": 1000}, 400, "writes at most 32"),
    "n": ("/v1/completions", {"n": 10**6}, 400, "n: "),
    "temperature": ("/v1/completions", {"temperature": -1}, 400, "temperature"),
    "bias": ("/v1/completions", {"logit_bias": {"5": 1}}, 400, "logit_bias"),
    "penalty": ("/v1/completions", {"presence_penalty": 1}, 400, "presence_penalty"),
    "policy": ("/v1/completions", {"unmask": {"policy": "nope"}}, 400, "no policy named 'nope'"),
    "file": ("/v1/completions", {"unmask": {"policy": "learned:from=/etc/x"}}, 400, "from=/etc/x"),
    "unknown option": ("/v1/completions", {"unmask": {"polcy": "x"}}, 400, "unmask.polcy"),
    "dial": ("/v1/completions", {"unmask": {"dial": 0.5}}, 400, "has no dial"),
    "cache": ("/v1/completions", {"unmask": {"policy": "confidence", "cache": "prefix"}}, 400, "block_size"),
    "ids": ("/v1/completions", {"prompt": [8189]}, 400, "not MASK"),
    "large ids": ("/v1/completions", {"prompt": [10**9]}, 400, "from 0 to"),
    "stops": ("/v1/completions", {"stop": ["a"] * 17}, 400, "at most 16"),
    "suffix": ("/v1/completions", {"prompt": ["a", "b"], "suffix": "c"}, 400, "one prompt"),
    "window": ("/v1/completions", {"prompt": "a", "suffix": "b", "max_tokens": 4000}, 400, "window"),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, 400, "no template"),
    "messages": ("/v1/chat/completions", {"messages": []}, 400, "messages"),
    "long choice": ("/v1/completions", {"max_tokens": 1, "unmask": {"choices": ["a b c d"]}}, 400, "choices"),
    "two patterns": ("/v1/completions", {"unmask": {"choices": ["a"], "regex": "a"}}, 400, "give one of them"),
    "choices": ("/v1/score", {"template": "a", "choices": ["b"]}, 400, "no hole to fill"),
    "compared": ("/v1/score", {"template": "[?]", "choices": ["b"], "temperature": 1}, 400, "temperature has no"),
    "compared by": ("/v1/score", {"template": "[?]", "choices": ["b"], "unmask": {"dial": 1}}, 400, "unmask.dial has"),
    "orders": ("/v1/score", {"template": "[?]", "choices": ["dog " * 20], "orders": 1024}, 400, "too many to compare"),
    "written twice": ("/v1/denoise", {"template": "[5]", "n": 2}, 400, "n is '2' and is not supported"),
    "form": ("/v1/completions", {"response_format": {"type": "json_object"}}, 400, "json_object has no schema"),
    "canvas": ("/v1/denoise", {}, 400, "give template, or prompt, or tokens"),
    "no hole": ("/v1/denoise", {"template": "dog"}, 400, "no hole"),
    "no null": ("/v1/denoise", {"tokens": [5]}, 400, "no null"),
    "mask": ("/v1/denoise", {"tokens": [8189, None]}, 400, "null where to write"),
    "long": ("/v1/denoise", {"prompt": "a", "max_tokens": 4000}, 400, "ask for less"),
    "route": ("/v1/nope", {}, 404, "There is no POST /v1/nope"),
}


@pytest.mark.parametrize(("path", "body", "status", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals_are_one_sentence(
    client: TestClient, path: str, body: dict[str, Any], status: int, words: str
) -> None:
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == status
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "The body is not JSON: "),
        (b'{"prompt": "\xff\xfe"}', "The body is not JSON in UTF-8"),
        (b"[" * 20000, "nested too deeply"),
        (b"1", "valid dictionary"),
        (b'{"prompt": NaN}', "prompt"),
    ],
)
def test_bodies_that_are_no_request(client: TestClient, body: bytes, words: str) -> None:
    response = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_the_body_of_an_error_can_be_sent() -> None:
    """Also where it repeats half of a pair of UTF-16, which JSON can hold and UTF-8 cannot."""
    assert error_body(400, "\ud800 is no type")["error"]["message"] == "? is no type"
    assert [error_body(status, "")["error"]["type"] for status in (405, 503)] == [
        "invalid_request_error",
        "server_error",
    ]


def test_headers_are_bounded(client: TestClient) -> None:
    assert client.get("/v1/models", headers={"x-long": "a" * 40_000}).status_code == 431
    assert client.get("/v1/models", headers={"x-long": "a" * 20_000}).status_code == 200


def test_the_description_has_the_answers_that_there_are(client: TestClient) -> None:
    """Errors in our form and not FastAPI's 422, and streams beside answers."""
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/fim/completions", "/v1/chat/completions", "/v1/score", "/v1/denoise"} <= set(paths)
    for path, operations in paths.items():
        for operation in operations.values():
            assert set(operation["responses"]) == {"200", "4XX", "5XX"}
            error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorBody"}
            streams = "text/event-stream" in operation["responses"]["200"]["content"]
            assert streams == (path.endswith("completions") or path == "/v1/denoise")


def test_a_full_queue_is_a_429(engine: Engine) -> None:
    waiting = Engine(engine.models, queue=2)  # nobody takes its turns
    client = client_of(waiting)
    response = client.post("/v1/completions", json={"prompt": "a", "n": 3})
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "queue_full"
    assert response.headers["retry-after"] == "1"


def test_so_many_requests_are_answered_at_once(engine: Engine) -> None:
    guard = Guard(create_app(engine, ServeSettings(queue=2)), ServeSettings(queue=2))
    client = TestClient(guard, base_url="http://127.0.0.1:8000")
    for running, path, status in ((7, "models", 200), (8, "models", 429), (8, "health", 200), (0, "models", 200)):
        guard.running = running
        response = client.get("/health" if path == "health" else f"/v1/{path}")
        assert response.status_code == status
        assert ("retry-after" in response.headers) == (status == 429)
        assert guard.running == running


def test_a_late_request_is_a_504(engine: Engine) -> None:
    response = client_of(engine, seconds=1e-6).post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 504
    assert "time of the request was over" in response.json()["error"]["message"]


# ---- who is let through ----------------------------------------------------------------------------------------------


def test_hosts_and_origins(engine: Engine) -> None:
    client = client_of(engine, allow_host=("example.org",), allow_origin=("https://good.example",))
    assert client.get("/health").status_code == 200
    for host in ("evil.example", "127.0.0.1:9999", "localhost", ""):
        assert client.get("/health", headers={"host": host}).status_code == 403
    for host in ("localhost:8000", "[::1]:8000", "example.org", "EXAMPLE.org"):
        assert client.get("/health", headers={"host": host}).status_code == 200
    assert client.get("/health", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/health", headers={"origin": "null"}).status_code == 403
    assert client.get("/health", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    allowed = client.get("/health", headers={"origin": "https://good.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in client.get("/health").headers
    assert client.options("/v1/completions", headers={"origin": "https://good.example"}).status_code == 204


def test_a_key_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other user of the machine reads it; it is not shown either."""
    monkeypatch.setenv("UNMASK_API_KEY", "secret")
    settings = ServeSettings(host="0.0.0.0")
    assert settings.api_key == "secret"
    assert "secret" not in repr(settings)
    assert ServeSettings(api_key="other").api_key == "other"


def test_a_key_is_asked_for(engine: Engine) -> None:
    client = client_of(engine, api_key="secret", host="0.0.0.0")
    refused = client.get("/v1/models")
    assert refused.status_code == 401
    assert refused.headers["x-should-retry"] == "false"
    assert client.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
    assert client.get("/v1/models", headers={"x-api-key": "secret"}).status_code == 200
    assert client.get("/").status_code == 200
    assert client.get("/metrics").status_code == 401
    with pytest.raises(ConfigError, match="--api-key"):
        ServeSettings(host="0.0.0.0")


def test_bodies_are_bounded(engine: Engine) -> None:
    client = client_of(engine, max_body=1000)
    assert client.post("/v1/completions", json={"prompt": "a" * 2000}).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    assert client.post("/v1/completions", content=chunks()).status_code == 413
    assert client.post("/v1/completions", json={}, headers={"content-length": "-5"}).status_code in (400, 413)


def test_a_client_that_goes_frees_its_rows(engine: Engine) -> None:
    """A request whose client goes in the middle of a stream, and one that waits for its answer."""
    settings = ServeSettings()
    app: Any = Guard(create_app(engine, settings), settings)
    body = {"prompt": "a", "max_tokens": 2000, "n": 8, "seed": 1, "unmask": {"policy": "left-to-right"}}

    async def gone(stream: bool) -> None:
        sent = asyncio.Event()
        messages = [{"type": "http.request", "body": json.dumps(body | {"stream": stream}).encode()}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            if stream:
                await sent.wait()
            else:
                while not engine.active:
                    await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                sent.set()

        await asyncio.wait_for(app(scope_of("/v1/completions"), receive, send), 60)
        for _ in range(6000):
            if not engine.active and not engine.waiting:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("rows are left")

    for stream in (True, False):
        asyncio.run(gone(stream))


# ---- text ------------------------------------------------------------------------------------------------------------


def row_of(text: str, **options: Any) -> tuple[TextRow, list[int]]:
    from unmask.text.build import byte_tokenizer

    tokenizer = byte_tokenizer()
    return TextRow(tokenizer, (), **options), tokenizer.encode(text)


def grown(row: TextRow, tokens: list[int]) -> list[str]:
    """The text after each token."""
    from unmask.serve.job import Progress

    mask = row.tokenizer.mask_id
    return [
        row.advance(Progress([*tokens[:n], *[mask] * (len(tokens) - n)], n, n, lambda: None))  # pyright: ignore
        for n in range(1, len(tokens) + 1)
    ]


def test_a_character_is_held_back_until_its_bytes_are_there() -> None:
    row, tokens = row_of("aé€b")
    assert grown(row, tokens) == ["a", "", "é", "", "", "€", "b"]


def test_the_beginning_of_a_stop_text_is_held_back() -> None:
    row, tokens = row_of("one STxSTOP two", stops=["STOP"])
    assert grown(row, tokens) == ["o", "n", "e", " ", "", "", "STx", "", "", "", "", "", "", "", ""]
    assert row.stopped
    assert row.text == "one STx"


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    assert "--api-key" in capsys.readouterr().err
    assert main(["serve", "wordnet", "a=wordnet", "a=automaton"]) == 2
    assert "Two models are called 'a'" in capsys.readouterr().err
