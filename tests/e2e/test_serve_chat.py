"""Chat by `unmask serve`, with a tiny model of random weights that has a real template of conversations (Dream's)."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.extras import library
from tests.parity.published import write
from tests.serve_client import client_of, events, post

from unmask import api
from unmask.serve.engine import Engine

PATH = "/v1/chat/completions"
OWN: dict[str, Any] = {"policy": "confidence:steps=12", "block_size": 8}
MESSAGES = [{"role": "user", "content": "Name a river."}]
BODY: dict[str, Any] = {"messages": MESSAGES, "max_completion_tokens": 16, "seed": 3, "temperature": 0.7, "unmask": OWN}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("published") / "dream"
    write("dream", folder)
    engine = Engine({"tiny": api.load(folder, device="cpu"), "automaton": api.load("automaton", device="cpu")})
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def client(engine: Engine) -> TestClient:
    return client_of(engine)


def test_a_message_is_what_generate_writes(client: TestClient, engine: Engine) -> None:
    """The same conversation, seeds and options; another message has another answer."""
    answer = post(client, PATH, **BODY, n=2)
    options: dict[str, Any] = {"length": 16, "seed": 3, "temperature": 0.7, "chat": True}
    result = engine.models["tiny"].generate(["Name a river."] * 2, **options, **OWN)
    written = [text.partition("assistant\n")[2] for text in result.texts]  # a text has the conversation before it
    assert [choice["message"]["content"] for choice in answer["choices"]] == written
    assert {choice["message"]["role"] for choice in answer["choices"]} == {"assistant"}
    assert answer["object"] == "chat.completion"
    assert answer["unmask"]["passes"] == result.passes
    other = post(client, PATH, **BODY | {"messages": [{"role": "user", "content": "Name a hill."}]}, n=2)
    assert other["choices"] != answer["choices"]


def test_roles_and_parts_of_messages(client: TestClient) -> None:
    """A developer is a system, the parts of a message are joined, and the name of a special token stays text."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two"}
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    plain = post(client, PATH, **BODY | {"messages": [system, user]})
    same = post(client, PATH, **BODY | {"messages": [system | {"role": "developer"}, user | {"content": parts}]})
    assert same["choices"] == plain["choices"]
    assert same["usage"] == plain["usage"]
    without = post(client, PATH, **BODY | {"messages": [user]})  # the template has a system message of its own
    assert without["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]
    named = post(client, PATH, **BODY | {"messages": [system, user | {"content": "one two<|im_end|>"}]})
    assert named["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"] + len("<|im_end|>")


def test_a_stream_has_the_message_of_the_answer(client: TestClient) -> None:
    whole = post(client, PATH, **BODY, n=2)
    chunks = events(client, PATH, **BODY, n=2, stream_options={"include_usage": True})
    *parts, last = chunks
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert last["unmask"]["passes"] == whole["unmask"]["passes"]
    assert all("usage" not in chunk for chunk in parts)
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        (last["id"], "chat.completion.chunk", "tiny")
    }
    for choice in whole["choices"]:
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert own[-1]["delta"] == {}
        assert [each["finish_reason"] for each in own] == [None] * (len(own) - 1) + [choice["finish_reason"]]
        assert "".join(each["delta"].get("content", "") for each in own) == choice["message"]["content"]
    assert events(client, PATH, **BODY)[-1]["choices"][0]["finish_reason"]  # no usage unless it is asked for


@pytest.mark.parametrize("policy", ["confidence:steps=12", "remdm"])
def test_drafts_of_a_message(client: TestClient, policy: str) -> None:
    """With "diffusing" each content replaces the last one; a policy that hides tokens has drafts of its open block."""
    body = BODY | {"unmask": OWN | {"policy": policy}, "n": 2}
    whole = post(client, PATH, **body)
    chunks = [chunk["choices"][0] | chunk for chunk in events(client, PATH, **body, diffusing=True)]
    for choice in whole["choices"]:
        own = [chunk for chunk in chunks if chunk["index"] == choice["index"]]
        contents = [chunk["delta"]["content"] for chunk in own if chunk["delta"].get("content")]
        assert contents[-1] == choice["message"]["content"]
        assert len(contents) > 3
        assert own[-1]["finish_reason"] == choice["finish_reason"]
        assert all(chunk["diffusing"] for chunk in own if chunk["delta"].get("content"))
    assert not any("diffusing" in chunk for chunk in events(client, PATH, **body))


def test_log_probabilities_of_a_message(client: TestClient, engine: Engine) -> None:
    body = BODY | {"temperature": 0, "logprobs": True, "top_logprobs": 2}
    choice = post(client, PATH, **body)["choices"][0]
    facts = choice["logprobs"]["content"]
    result = engine.models["tiny"].generate(
        "Name a river.", length=16, seed=3, temperature=0, chat=True, policy=OWN["policy"], block_size=8
    )
    values = [fact["logprob"] for fact in facts]
    assert values == pytest.approx(result.log_probs[0][: len(values)])
    for fact in facts:
        assert len(fact["top_logprobs"]) == 2
        assert fact["logprob"] == pytest.approx(max(each["logprob"] for each in fact["top_logprobs"]), abs=1e-5)
        values, name = bytes(fact["bytes"]), fact["token"]
        assert name == (
            "".join(["bytes:", *(f"\\x{value:02x}" for value in values)]) if values[0] > 127 else values.decode()
        )
    streamed = [part["choices"][0]["logprobs"] for part in events(client, PATH, **body)]
    assert [fact for part in streamed if part for fact in part["content"]] == facts
    assert post(client, PATH, **BODY)["choices"][0]["logprobs"] is None


def test_an_answer_ends_where_a_message_ends(client: TestClient, engine: Engine) -> None:
    """The token that ends a message ends the answer, and is no part of it."""
    model = engine.models["tiny"]
    end = model.tokenizer.backend.token_to_id("<|im_end|>")
    for seed in range(40):
        body = BODY | {"seed": seed, "temperature": 2, "max_completion_tokens": 48}
        answer = post(client, PATH, **body)
        choice = answer["choices"][0]
        if choice["finish_reason"] == "stop":
            break
    else:
        raise AssertionError("no answer ended")
    assert end is not None
    assert answer["usage"]["completion_tokens"] < 48
    assert "<|im_end|>" not in choice["message"]["content"]


def test_what_a_chat_refuses(client: TestClient) -> None:
    def refused(words: str, **body: Any) -> None:
        response = client.post(PATH, json=BODY | body)
        assert response.status_code == 400
        assert words in response.json()["error"]["message"]

    refused("no template", model="automaton")
    refused("json_object has no schema", response_format={"type": "json_object"})
    refused("no json_schema.schema", response_format={"type": "json_schema"})
    refused("role", messages=[{"role": "tool", "content": "x"}])
    refused("tools", tools=[{"type": "function", "function": {"name": "f"}}])
    refused("top_logprobs", top_logprobs=21)
    refused("messages.0.content: Input should be", messages=[{"role": "user", "content": 5}])
    refused("'image_url'", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


# ---- schemas ---------------------------------------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "title": "Facts",
    "type": "object",
    "properties": {"n": {"type": "boolean", "description": "whether"}, "word": {"enum": ["a", "bc"]}},
    "required": ["n", "word"],
    "additionalProperties": False,
}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema -> the field response_format."""
    return {"type": "json_schema", "json_schema": {"name": "facts", "strict": True, "schema": schema}}


@pytest.mark.extras
@pytest.mark.parametrize("policy", ["confidence:steps=12", "random", "left-to-right", "remdm"])
def test_a_message_fits_its_schema(client: TestClient, policy: str) -> None:
    library("outlines_core", "constrain")
    body = BODY | {"temperature": 1, "max_completion_tokens": 48, "unmask": {"policy": policy}}
    free = post(client, PATH, **body, n=2)  # the control: random weights write no JSON
    for choice in free["choices"]:
        with pytest.raises(ValueError, match=r"Expecting|Extra|Invalid"):
            json.loads(choice["message"]["content"])
    answer = post(client, PATH, **body, n=2, response_format=form(SCHEMA))
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    for text in texts:
        value = json.loads(text)
        assert (type(value["n"]), value["word"] in ("a", "bc"), len(value)) == (bool, True, 2)
    chunks = events(client, PATH, **body, response_format=form(SCHEMA))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == texts[0]


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "minimum": ({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}, "'minimum'"),
    "multipleOf": ({"type": "object", "properties": {"n": {"type": "integer", "multipleOf": 2}}}, "'multipleOf'"),
    "unknown": ({"type": "object", "properties": {"n": {"type": "boolean", "colour": "red"}}}, "'colour'"),
    "recursive": ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, "'$ref'"),
    "no schema": ({"type": "sum"}, "wrong at $.type"),
    "too long": ({"const": "a" * 100}, "JSON schema"),
}


@pytest.mark.extras
@pytest.mark.parametrize(("schema", "words"), UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_cannot_be_kept_is_refused_by_name(
    client: TestClient, schema: dict[str, Any], words: str, stream: bool
) -> None:
    library("outlines_core", "constrain")
    response = client.post(PATH, json=BODY | {"response_format": form(schema), "stream": stream})
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]
    assert response.headers["x-should-retry"] == "false"
