"""`unmask serve` over a socket, asked by OpenAI's own Python client."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.extras import library
from tests.parity.published import write
from tests.serve_client import over_http

from unmask import api
from unmask.serve.engine import Engine

pytestmark = pytest.mark.extras
openai = library("openai", "openai")

KEY = "secret"
OWN: dict[str, Any] = {"policy": "confidence:steps=6", "block_size": 8}
BODY: dict[str, Any] = {"max_tokens": 12, "seed": 5, "temperature": 0.7, "extra_body": {"unmask": OWN}}
CHAT: dict[str, Any] = BODY | {"model": "tiny", "messages": [{"role": "user", "content": "Name a river."}]}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("published") / "dream"
    write("dream", folder)
    engine = Engine({"wordnet": api.load("wordnet", device="cpu"), "tiny": api.load(folder, device="cpu")})
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with over_http(engine, api_key=KEY) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY) as client:
        yield client


def test_models(client: Any) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["wordnet", "tiny"]
    assert client.models.retrieve("tiny").unmask["chat"] is True


def test_completions_and_their_streams(client: Any, engine: Engine) -> None:
    """The text is that of the library, whole and in chunks; what the seed and our own field ask for arrives."""
    answer = client.completions.create(model="wordnet", prompt="dog\n", n=2, **BODY)
    result = engine.models["wordnet"].generate(["dog\n"] * 2, length=12, seed=5, temperature=0.7, **OWN)
    assert ["dog\n" + choice.text for choice in answer.choices] == result.texts
    assert answer.unmask["passes"] == result.passes
    options = {"include_usage": True}
    stream = client.completions.create(model="wordnet", prompt="dog\n", stream=True, stream_options=options, **BODY)
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason
    assert last.choices == []
    assert last.usage.completion_tokens > 0
    echo = client.completions.create(model="wordnet", prompt="dog\n", echo=True, logprobs=2, **BODY)
    assert echo.choices[0].text == result.texts[0]
    assert echo.choices[0].logprobs.token_logprobs[0] is None


def test_infilling(client: Any, engine: Engine) -> None:
    """The client has no argument `suffix` for every model; ours reads the field wherever it comes from."""
    answer = client.completions.create(
        model="wordnet", prompt="a young ", max_tokens=3, seed=1, extra_body={"suffix": " that barks"}
    )
    between = answer.choices[0].text
    assert f"a young {between} that barks" == engine.models["wordnet"].fill("a young [3] that barks", seed=1).text
    named = client.completions.create(model="wordnet", prompt="a young ", suffix=" that barks", max_tokens=3, seed=1)
    assert named.choices[0].text == between


def test_chat_and_its_stream(client: Any) -> None:
    answer = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=2)
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    stream = client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert last.usage == answer.usage


def test_a_parsed_answer(client: Any) -> None:
    """`parse` sends the schema of a class and reads the answer into it."""
    library("outlines_core", "constrain")
    from pydantic import BaseModel

    class Facts(BaseModel):
        """What is asked for."""

        good: bool
        often: bool

    body = {name: value for name, value in CHAT.items() if name not in ("max_tokens", "extra_body")}
    answer = client.chat.completions.parse(**body, max_completion_tokens=40, response_format=Facts)
    assert isinstance(answer.choices[0].message.parsed, Facts)


def counted(address: str, **options: Any) -> tuple[Any, list[str]]:
    """The address of a server -> a client, and the paths of the requests that it sends."""
    sent: list[str] = []
    transport = httpx2.Client(event_hooks={"request": [lambda request: sent.append(request.url.path)]})
    return openai.OpenAI(**{"base_url": f"{address}/v1", "api_key": KEY, "http_client": transport} | options), sent


def test_errors_are_those_of_the_client(address: str) -> None:
    """Each has its class and a sentence, and none is sent again."""

    def refused(error: Any, words: str, body: dict[str, Any], **options: Any) -> None:
        client, sent = counted(address, **options)
        with client, pytest.raises(error, match=words) as caught:
            client.completions.create(**{"model": "wordnet", "prompt": "dog\n"} | body)
        assert caught.value.body["message"]
        assert len(sent) == 1

    refused(openai.BadRequestError, "top_p", {"top_p": 7})
    refused(openai.BadRequestError, "no policy named 'nope'", {"extra_body": {"unmask": {"policy": "nope"}}})
    refused(openai.AuthenticationError, "no key, or a wrong one", {}, api_key="wrong")
    refused(openai.NotFoundError, "There is no model 'gpt'", {"model": "gpt"})


def test_a_full_queue_is_tried_again_and_a_late_request_is_not(engine: Engine) -> None:
    waiting = Engine(engine.models, queue=1)  # nobody takes its turns
    with over_http(waiting, api_key=KEY) as address:
        client, sent = counted(address, max_retries=1)
        with client, pytest.raises(openai.RateLimitError, match="rows are waiting") as caught:
            client.completions.create(model="wordnet", prompt="dog\n", n=3)
    assert caught.value.code == "queue_full"
    assert len(sent) == 2
    with over_http(engine, api_key=KEY, seconds=1e-6) as address:
        client, sent = counted(address, max_retries=5)
        with client:
            with pytest.raises(openai.InternalServerError, match="time of the request was over"):
                client.completions.create(model="wordnet", prompt="dog\n")
            assert len(sent) == 1
            with pytest.raises(openai.APIError, match="time of the request was over"):  # in mid-stream
                list(client.completions.create(model="wordnet", prompt="dog\n", stream=True))


def test_a_client_that_waits_no_longer_frees_its_rows(engine: Engine) -> None:
    """A time limit of the client: its own error, and the engine has nothing left to do."""
    waiting = Engine(engine.models)
    with over_http(waiting, api_key=KEY) as address:
        client, sent = counted(address, timeout=0.5, max_retries=0)
        with client, pytest.raises(openai.APITimeoutError):
            client.completions.create(model="wordnet", prompt="dog\n")
        assert len(sent) == 1
        assert waiting.waiting == 1  # the control
        for _ in range(1000):
            waiting.turn()
            if waiting.counts.aborted:
                break
    assert waiting.counts.aborted == 1
    assert waiting.active == 0
