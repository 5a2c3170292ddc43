"""The Python API: names, arguments, results, streams; and text with characters that a model has no token for."""

import inspect
import json
import pydoc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unmask
from unmask.api import Generation, Model
from unmask.cli.main import main
from unmask.data.packed import Packed
from unmask.disk.checkpoint import write_checkpoint
from unmask.errors import ArgumentError, CheckpointError, PluginError, RequestError, UnmaskWarning
from unmask.model.load import build, model_config
from unmask.model.settings import DiTSettings
from unmask.policies.prefix import Prefix
from unmask.process import MaskedDiffusion
from unmask.text.build import byte_tokenizer, char_tokenizer, dna_tokenizer
from unmask.text.tokenizer import Tokenizer
from unmask.trace.events import from_jsonl, position_texts, replay, to_jsonl


def model_of(tokenizer: Tokenizer) -> Model:
    network = build(DiTSettings(vocab_size=tokenizer.vocab_size, mask_id=tokenizer.mask_id, max_length=32, width=16))
    return Model(network, MaskedDiffusion(tokenizer.mask_id), tokenizer, None, torch.device("cpu"))


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(char_tokenizer(["the king is dead, abc 0123456789\n"]))


# ---- names -----------------------------------------------------------------------------------------------------------


def test_the_names_of_the_package_are_listed_and_exist() -> None:
    names = [name for name in dir(unmask) if not name.startswith("_")]
    assert names == sorted(unmask.__all__)
    assert all(getattr(unmask, name) is not None for name in names)
    assert {"load", "Model", "Generation", "Filling", "policies"} <= set(names)
    code = "import unmask, sys; names = dir(unmask); assert 'load' in names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (Path(unmask.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("method", [Model.generate, Model.fill, Model.stream, Model.stream_fill, Model.decoder])
def test_arguments_are_explicit_typed_and_documented(method: Callable[..., Any]) -> None:
    parameters = inspect.signature(method).parameters
    assert not any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values())
    assert all(p.annotation is not p.empty for name, p in parameters.items() if name != "self")
    texts = " ".join(inspect.getdoc(m) or "" for m in (method, Model.generate, Model.fill, Model.stream))
    assert all(f"{name}:" in texts or f"`{name}`" in texts for name in parameters if name != "self")


@pytest.mark.parametrize(
    "function", [unmask.load, Model.generate, Model.fill, Model.stream, Model.decoder, Model.bound]
)
def test_help_shows_plain_types(function: Callable[..., Any]) -> None:
    shown = pydoc.plain(pydoc.render_doc(function)).splitlines()[2]
    assert "Annotated" not in shown
    assert ": int" in shown
    assert "Annotated" in str(inspect.signature(inspect.unwrap(function), follow_wrapped=False))  # the control


def test_a_path_object_is_the_place_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never the name of a bundled model, which a text is."""
    folder = unmask.bundled()["automaton"]
    assert unmask.load(folder).window == unmask.load("automaton").window
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="There is no checkpoint at 'automaton'"):
        unmask.load(Path("automaton"))
    (tmp_path / "automaton").symlink_to(folder)
    assert unmask.load(Path("automaton")).window == unmask.load(folder).window
    with pytest.raises(RequestError, match="'automaton' is a bundled model, and there is a path of that name here"):
        unmask.load("automaton")
    with pytest.raises(ArgumentError, match=r"name_or_path is 5; give a text or a path\."):
        unmask.load(5)  # pyright: ignore[reportArgumentType]


def test_a_result_has_the_same_arguments_as_its_stream() -> None:
    for whole, stream in ((Model.generate, Model.stream), (Model.fill, Model.stream_fill)):
        own, its = (inspect.signature(method).parameters for method in (whole, stream))
        assert set(own) - {"trace"} == set(its) - {"alternatives"}
        assert all(own[name].default == its[name].default for name in set(own) & set(its))


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a typo": ("generate", {"lenght": 3}, "generate has no argument 'lenght'; did you mean 'length'?"),
    "a typo of fill": ("fill", {"temprature": 1}, "fill has no argument 'temprature'; did you mean 'temperature'?"),
    "a stream": ("stream", {"blocksize": 1}, "stream has no argument 'blocksize'; did you mean 'block_size'?"),
    "a text": ("generate", {"length": "5"}, "length is '5'; give a whole number of at least 1."),
    "a truth value": ("generate", {"length": True}, "length is True; give a whole number of at least 1."),
    "a number": ("generate", {"prompts": 3}, "prompts is 3; give a text or a list of texts."),
    "a list": (
        "fill",
        {"temperature": [1, "a"]},
        "a value of temperature is 'a'; give 0 or a number from 0.0001 to 10000.",
    ),
    "a list for a number": ("generate", {"length": [4]}, "length is [4]; give a whole number of at least 1."),
    "an array": ("generate", {"length": np.array([4])}, "length is [4]; give a whole number of at least 1."),
    "a tensor": ("generate", {"length": torch.tensor(4)}, "length is tensor(4); give a whole number of at least 1."),
    "characters": ("only", {"characters": 5}, "characters is 5; give a text."),
    "a constraint": (
        "generate",
        {"constraint": 5},
        "constraint is 5; give a function (tokens, where), None, or a list of these.",
    ),
    **{
        f"{policy} as policy": (
            "generate",
            {"policy": policy},
            (
                f"policy is {policy}; give a name (unmask list policies), or a policy: an object that is called with "
                "(view, state) (see unmask.policies.base)."
            ),
        )
        for policy in (True, 5)
    },
    "None": ("generate", {"seed": None}, "seed is None; give a whole number of at least 0."),
    "a fraction": ("generate", {"seed": 1.5}, "seed is 1.5; give a whole number of at least 0."),
    "suppress": ("generate", {"suppress": [1.5]}, "suppress is [1.5]; give a list of whole numbers or texts."),
    "no flag": ("generate", {"trace": 1}, "trace is 1; give True or False."),
    "bound": ("bound", {"draw": 1}, "bound has no argument 'draw'; did you mean 'draws'?"),
    "score": ("score", {"choices": "ab"}, "choices is 'ab'; give a list of texts."),
    "decoder": ("decoder", {"bock_size": 3}, "decoder has no argument 'bock_size'; did you mean 'block_size'?"),
}


@pytest.mark.parametrize("method, options, sentence", WRONG.values(), ids=WRONG)
def test_a_wrong_argument_is_a_sentence(model: Model, method: str, options: dict[str, Any], sentence: str) -> None:
    first = {"fill": ["ab[2]"], "bound": ["ab"], "score": ["a[?]"]}.get(method, [])
    with pytest.raises(RequestError) as caught:
        list(getattr(model, method)(*first, **options))
    assert str(caught.value) == sentence
    assert isinstance(caught.value, TypeError) == ("number " not in sentence.replace("whole numbers", ""))


def test_a_missing_argument_and_a_typo_of_load_are_sentences(model: Model) -> None:
    with pytest.raises(ArgumentError, match="fill cannot be called like this: missing a required argument: 'template'"):
        model.fill()  # pyright: ignore[reportCallIssue]
    with pytest.raises(ArgumentError, match="load has no argument 'devise'; did you mean 'device'"):
        unmask.load(devise="cpu")  # pyright: ignore[reportCallIssue]


def test_numbers_of_numpy_are_numbers(model: Model) -> None:
    """The control: the same values as Python's own."""
    options: dict[str, Any] = {"length": np.int64(3), "temperature": np.array([0.0, 1.0]), "seed": np.array([4, 5])}
    result = model.generate(["a", "b"], **options)
    assert result.texts == model.generate(["a", "b"], length=3, temperature=[0, 1], seed=[4, 5]).texts
    options = {"length": 9, "suppress": [np.int64(token) for token in range(1, model.tokenizer.vocab_size - 1)]}
    plain: dict[str, Any] = {"length": 9, "suppress": list(range(1, model.tokenizer.vocab_size - 1))}
    assert (
        model.generate("a", **options).texts
        == model.generate("a", **plain).texts
        != model.generate("a", length=9).texts
    )
    options = {"seed": np.int64(7), "trace": True}
    assert model.generate("a", **options).texts == model.generate("a", seed=7).texts


# ---- results ---------------------------------------------------------------------------------------------------------


def test_a_result_has_a_short_repr_and_plain_values(model: Model) -> None:
    result = model.generate(["the king", "a", "b"], length=9, trace=True, stop_at_eos=False)
    assert repr(result).startswith("Generation(3 texts, 9 tokens each, ")
    assert len(repr(result)) < 120
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    assert set(result.to_dict()) == {"texts", "token_ids", "log_probs", "passes", "seconds", "entropy"}
    assert result.to_dict()["token_ids"] == result.tokens
    assert result.text == result.texts[0] != result.texts[1]
    filling = model.fill("the [1-2] is [3]")
    assert repr(filling).startswith("Filling(1 text, ")
    values = json.loads(json.dumps(filling.to_dict()))
    assert values == filling.to_dict()
    assert [attempt["lengths"] for attempt in values["attempts"][0]] == [list(a.lengths) for a in filling.attempts[0]]
    bound = model.bound("the king")
    assert json.loads(json.dumps(bound.to_dict()))["perplexity"] == bound.perplexity


def test_a_result_and_the_command_line_write_the_same_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "automaton", "aABC", "--length", "6", "--json", "--dtype", "float32"]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = unmask.load("automaton", dtype="float32").generate("aABC", length=6)
    timed = {"seconds"}
    assert {name: printed[name] for name in result.to_dict().keys() - timed} == {
        name: value for name, value in result.to_dict().items() if name not in timed
    }
    assert printed["tokens"] == len(result.log_probs[0])  # a number; the ids are token_ids


def test_what_a_model_has_is_printed_short(model: Model) -> None:
    """Nothing prints tensors, a vocabulary or a file."""
    first = next(model.stream("the king", length=3, policy="random:steps=3"))
    assert repr(first) == f"Snapshot(1 row: {first.text!r})"
    trace = model.generate("a", length=2, trace=True, stop_at_eos=False).trace
    assert repr(trace) == "Trace(rows=1, events=2)"
    for part in (model.tokenizer, unmask.load("sudoku").checkpoint):
        assert len(repr(part)) < 200


def test_a_policy_is_an_object(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"policy is the class Prefix; give an object of it, Prefix\(\)"):
        model.generate("a", length=2, policy=Prefix)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="policy is 5; give a name"):
        model.generate("a", length=2, policy=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PluginError, match="it returned str; return a pair"):
        model.generate("a", length=2, policy=lambda view, state: "x")  # pyright: ignore[reportArgumentType]


def test_a_snapshot_is_printed_by_its_text(model: Model) -> None:
    """Also beyond the window, and for every row; the last one is the text."""
    stream, shown = model.stream(["the king", "abc"], length=50, stop_at_eos=False, policy="random:steps=4"), []
    while True:
        try:
            snapshot = next(stream)
        except StopIteration as end:
            rows = end.value
            break
        shown.append(dict(zip(snapshot.rows, snapshot.texts, strict=True)))
    assert all(text.startswith(("the king", "abc")[row]) for texts in shown for row, text in texts.items())
    hidden = [text.count("░") for texts in shown for row, text in texts.items() if row == 0]
    assert hidden[0] > 0 == hidden[-1]
    last = {row: text for texts in shown for row, text in texts.items()}
    assert last == {n: model.tokenizer.decode(row.tokens) for n, row in enumerate(rows)}
    snapshots = list(model.stream_fill("the [3] is", policy="random:steps=2"))
    assert [s.text.count("░") for s in snapshots][-1] == 0
    assert snapshots[-1].text == model.fill("the [3] is", policy="random:steps=2").texts[0]
    with pytest.raises(RequestError, match="token ids alone"):
        _ = snapshots[0]._replace(source=None).text


# ---- characters outside the alphabet ---------------------------------------------------------------------------------

SENTENCE = (
    "2 characters of the text are outside the model's alphabet, and the model cannot tell which: '漢' (1), '字' (1)."
)


def test_a_prompt_stays_as_it_was_typed_and_is_warned_of(model: Model) -> None:
    with pytest.warns(UnmaskWarning) as caught:
        result = model.generate(["the 漢字 king", "abc"], length=40, trace=True, stop_at_eos=False)
    assert [str(warning.message) for warning in caught] == [SENTENCE]
    assert caught[0].filename == __file__
    assert result.texts[0].startswith("the 漢字 king")
    assert "<unk>" not in result.texts[0][:11]
    assert result.texts[0][11:] == model.tokenizer.decode(result.tokens[0][11:])
    assert model.tokenizer.decode(result.tokens[0]).startswith("the <unk><unk> king")  # the control: what was printed
    assert result.trace is not None
    trace = from_jsonl(to_jsonl(result.trace))
    row = trace.header.rows[0]
    assert "".join(position_texts(trace.header, replay(trace), row.typed)).startswith("the 漢字 king")
    with pytest.warns(UnmaskWarning):
        snapshots = list(model.stream("the 漢字 king", length=30))
    assert all(snapshot.text.startswith("the 漢字 king") for snapshot in snapshots)


def test_a_template_stays_as_it_was_typed(model: Model) -> None:
    with pytest.warns(UnmaskWarning, match=r"3 characters .*: 'X' \(1\), 'Y' \(1\), 'Z' \(1\)"):
        result = model.fill("XYZ[2]the[1-2]", count=2)
    for text, holes in zip(result.texts, result.holes, strict=True):
        assert text == f"XYZ{holes[0]}the{holes[1]}"
    with pytest.warns(UnmaskWarning, match="1 character of the text is"):
        model.score("é[?]", ["a", "b"])


def test_bits_per_byte_of_such_text_are_withheld(model: Model) -> None:
    with pytest.warns(UnmaskWarning, match="'漢'"):
        assert model.bound("the 漢 king").bits_per_byte is None
    assert model.bound("the king").bits_per_byte is not None  # the control
    ids = model.tokenizer.encode_batch(["the king", "the 漢 k"])
    assert model.bound_packed(Packed.of(ids, 8, model.tokenizer.pad_id, 19)).bits_per_byte is None
    assert model.bound_packed(Packed.of(ids[:1], 8, model.tokenizer.pad_id, 8)).bits_per_byte is not None


def test_which_characters_are_outside_an_alphabet() -> None:
    char, dna = char_tokenizer(["abc "]), dna_tokenizer()
    assert dict(char.unknown("abc é\té")) == {"é": 2, "\t": 1}
    assert dict(char.unknown("<unk>")) == {"<": 1, "u": 1, "n": 1, "k": 1, ">": 1}
    assert not byte_tokenizer().unknown("漢字 é")
    assert not dna.unknown(">漢\nACGTN acgtn\n")
    assert dict(dna.unknown("ACX漢")) == {"X": 1, "漢": 1}
    assert dna.stand_in is None  # N is a letter of its own
    assert char.stand_in == char.unknown_id
    assert char.text(char.encode("ab"), {}, "░") == "ab"


def test_the_command_line_says_it_once_and_keeps_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", "sudoku", "abc[3]", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["fills"][0]["text"].startswith("abc")
    assert json.loads(out)["outside_alphabet"] == {"a": 1, "b": 1, "c": 1}
    assert err.count("3 characters of the text are outside the model's alphabet") == 1
    assert err.startswith("unmask: warning: ")
    assert main(["generate", "sudoku", "12漢3", "--length", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("12漢3")
    assert "<unk>" not in out
    assert "'漢' (1)" in err


def test_eval_says_why_there_are_no_bits_per_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("123456 123 漢 45\n" * 60, encoding="utf-8")
    command = ["eval", "sudoku", "--data.source", str(tmp_path / "text.txt"), "--split", "all", "--draws", "1"]
    assert main(command) == 0
    assert "none: the text has characters outside the model's alphabet" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] is None


# ---- the decoding of a request that names none -----------------------------------------------------------------------


def saved(folder: Path, model: Model, decoding: object) -> Path:
    config = model_config(model.network.settings, "linear") | ({} if decoding is None else {"decoding": decoding})
    tensors = {name: value.clone() for name, value in model.network.state_dict().items()}
    write_checkpoint(folder, tensors, config, tokenizer_json=model.tokenizer.to_json(), card="")
    return folder


def test_a_checkpoint_has_the_decoding_of_requests_that_name_none(model: Model, tmp_path: Path) -> None:
    values = {"policy": "confidence:steps=4", "temperature": 0.5, "top_p": 0.9}
    chosen = unmask.load(saved(tmp_path / "chosen", model, values), dtype="float32")
    plain = unmask.load(saved(tmp_path / "plain", model, None), dtype="float32")
    random = {"policy": "random", "temperature": 1.0, "top_p": 1.0}

    def generated(model: Model, **named: Any) -> Generation:
        return model.generate("the ", length=12, **named)

    def filled(model: Model, **named: Any) -> Generation:
        return model.fill("the [12]", **named)

    for request in (generated, filled):
        assert request(chosen).tokens == request(plain, **values).tokens == request(chosen, **values).tokens
        assert request(plain).tokens == request(plain, **random).tokens == request(chosen, **random).tokens
        assert request(plain).passes != request(chosen).passes == [4]  # the control
    rows = chosen.generate(["the ", "abc"], length=12, temperature=[0.5, 1.0], seed=[1, 2])
    assert rows.tokens[0] == chosen.generate("the ", length=12, seed=[1]).tokens[0]


def test_the_block_size_of_a_checkpoint_goes_with_its_policy(model: Model, tmp_path: Path) -> None:
    """The trace has both by name; a policy that is named has all positions in one block."""
    values: dict[str, Any] = {"policy": "confidence:steps=2", "block_size": 4}
    chosen = unmask.load(saved(tmp_path / "chosen", model, values), dtype="float32")
    plain = unmask.load(saved(tmp_path / "plain", model, None), dtype="float32")
    written = chosen.generate("the ", length=12, trace=True, stop_at_eos=False)
    assert written.tokens == plain.generate("the ", length=12, stop_at_eos=False, **values).tokens
    assert written.trace is not None
    assert (written.trace.header.policy, written.trace.header.block_size) == ("confidence:steps=2", 4)
    assert written.passes == [6]
    assert chosen.generate("the ", length=12, policy=values["policy"], stop_at_eos=False).passes == [2]
    assert chosen.generate("the ", length=12, block_size=6, stop_at_eos=False).passes == [4]


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"policy": 3}, {"top_p": "much"}])
def test_a_decoding_that_cannot_be_is_refused(model: Model, tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        unmask.load(saved(tmp_path / "model", model, wrong))
