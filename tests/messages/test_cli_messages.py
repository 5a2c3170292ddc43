"""Wrong requests on the command line: one sentence, exit code 2, and no partial files."""

import json
import shlex
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from unmask.cli.main import main
from unmask.disk.folders import bundled_policies

TINY = [
    *("--data.length", "32", "--model.width", "32", "--model.blocks", "1", "--model.heads", "2"),
    *("--train.batch", "8", "--train.steps", "2", "--threads", "1", "--dtype", "float32"),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "text.txt").write_text("to be or not to be, that is the question.\n\n" * 200)
    words = ["train", "--data.source", str(folder / "text.txt"), "--data.tokenizer", "byte", *TINY]
    assert main([*words, "--out", str(folder / "run"), "--json"]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where the extra is not installed
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path.parent / "cache"))


def sentence_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Words of a wrong request -> the sentence on stderr; there may be notes before it."""
    capsys.readouterr()
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    *_, last = err.splitlines()
    assert last.startswith("unmask: ")
    assert "Traceback" not in err
    return last.removeprefix("unmask: ")


CATEGORIES = "models, cache, families, policies, tasks, recipes, policy-recipes, corpora, estimators, schedules, all"
CHOICES = "--{} does not go with --choices, which writes nothing: it computes the probability of each choice."
BENCH_DECODE = "--against and --constraint and --feedback and --rounds"
ARGUMENTS = [
    ("trian", "there is no verb 'trian'; did you mean 'train'?"),
    ("train --train.eval-evry 4", "train has no option '--train.eval-evry'; did you mean '--train.eval-every'?"),
    ("train --lr 1", "train has no option '--lr'; did you mean '--train.lr'?"),
    ("train --zzzzzz 1", "train has no option '--zzzzzz'; see unmask train --help."),
    ("train --train.lr fast", "--train.lr cannot be 'fast'; give a number between 0 and 1 (for example 1e-3)."),
    ("train --train.lr", "--train.lr lacks its value; give a number between 0 and 1 (for example 1e-3)."),
    ("train --train.steps 1.5", "--train.steps cannot be '1.5'; give a whole number of at least 1."),
    ("train --train.shape bent", "--train.shape cannot be 'bent'; give one of cosine, constant."),
    ("train --train.betas 0.9", "--train.betas lacks a value; give 2 values, each a number of at least 0 and below 1."),
    ("train --train.compile=yes", "--train.compile is a switch and takes no value; leave 'yes' out."),
    ("train --train.lr 3", "--train.lr cannot be '3'; give a number between 0 and 1 (for example 1e-3)."),
    ("train tetx", "There is no recipe named 'tetx'; did you mean 'text'?"),
    ("train text more", "'more' is a word too many for train; put a text of several words between quotation marks."),
    (
        "bench decode --threads 2",
        f"--threads does not go with bench decode, which uses {BENCH_DECODE} alone.",
    ),
    ("bench policy --device cuda", "--device does not go with bench policy, which uses --against and --rounds alone."),
    ("bench memory --device cpu", "--device does not go with bench memory, which uses --threads alone."),
    (
        "bench scaling --device cpu",
        "--device does not go with bench scaling, which uses --plot and --quick and --threads alone.",
    ),
    (
        "bench decode --compile",
        f"--compile does not go with bench decode, which uses {BENCH_DECODE} alone.",
    ),
    (
        "bench train --against . --compile",
        (
            "--compile does not go with bench train --against, "
            "which uses --against and --only and --rounds and --threads alone."
        ),
    ),
    ("bench decode --against .", ". is no checkout of unmask: it has no src/unmask/__init__.py."),
    ("bench memory --rounds 9", "--rounds does not go with bench memory, which uses --threads alone."),
    ("watch trace.jsonl --html page.html --row 1", "--row does not go with --html: the page has every row."),
    ("reproduce --list --workers 2", "--workers does not go with --list, which runs nothing."),
    (
        "reproduce --list --seeds 3",
        "--seeds does not go with --list without the name of a question, which prints the questions.",
    ),
    ("learn --seeds 1 2 --learn.seed 3", "--learn.seed does not go with --seeds, which gives a seed to each policy."),
    ("fill a[?] --choices b c --temperature 0", CHOICES.format("temperature")),
    ("fill a[?] --choices b c --policy random", CHOICES.format("policy")),
    ("fill a[?] --choices b c --trace a.html", CHOICES.format("trace")),
    ("fill a[?] --choices b c --watch", CHOICES.format("watch")),
    ("fill a[?] --choices b c --count 2", CHOICES.format("count")),
    ("--version --jsn", "--version goes with --json alone; leave '--jsn' out."),
    ("train --resume here", "here does not exist; give the folder of a run, such as runs/text-1."),
    ("train --resume . --out there", ". holds no checkpoint that training can go on from; start the run again."),
    (
        "train --data.source shakespear",
        (
            "there is no file, folder or corpus 'shakespear' (the corpora are austen, ecoli-k12, english, shakespeare, "
            "sotu, wordnet): did you mean 'shakespeare'?"
        ),
    ),
    ("eval", "eval needs a CHECKPOINT; see unmask eval --help."),
    ("generate --count 0", "--count cannot be '0'; give a whole number of at least 1."),
    (
        "list modles",
        f"CATEGORY cannot be 'modles'; give one of {CATEGORIES}.",
    ),
]


@pytest.mark.parametrize("words, sentence", ARGUMENTS, ids=[words for words, _ in ARGUMENTS])
def test_arguments(words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert sentence_of(capsys, *words.split()) == sentence
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_recipe_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[train]\nstpes = 4\n")
    assert sentence_of(capsys, "train", "r.toml") == "r.toml: there is no setting 'train.stpes': did you mean 'steps'?"
    (tmp_path / "r.toml").write_text("[train]\nsteps = 'many'\n")
    assert sentence_of(capsys, "train", "r.toml") == (
        "r.toml: the setting 'train.steps' cannot be \"many\": give a whole number."
    )


def test_a_text_given_as_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("words")
    assert sentence_of(capsys, "train", "book.txt") == (
        "'book.txt' is not a recipe; to train on that text, say: unmask train --data.source book.txt"
    )


def test_texts_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 9)
    empty = sentence_of(capsys, "train", "--data.source", "empty.txt", *TINY)
    binary = sentence_of(capsys, "train", "--data.source", "binary.txt", *TINY)
    assert "empty.txt is empty" in empty
    assert "binary.txt" in binary
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary.txt", "empty.txt"]


def test_a_tokenizer_without_mask(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    (tmp_path / "text.txt").write_text("a b a b " * 400)
    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save("words.json")
    assert sentence_of(capsys, "train", "--data.source", "text.txt", "--data.tokenizer", "words.json", *TINY) == (
        "words.json has no MASK token under a usual name such as [MASK] or <mask>: name a token with "
        "--data.mask-token (a name that it does not have is added as a new id)."
    )


def test_a_place_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be. " * 400)
    (tmp_path / "file").write_text("in the way")
    sentence = sentence_of(
        capsys, "train", "--data.source", "text.txt", "--data.tokenizer", "byte", "--out", "file/run", *TINY
    )
    assert sentence == "file/run cannot be written (not a directory): choose another path."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "text.txt"]


def test_a_run_is_not_overwritten_or_changed(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    assert sentence_of(capsys, "train", "--out", str(checkpoint)) == (
        f"{checkpoint} holds a run already; go on with it by --resume {checkpoint}, or choose another --out."
    )
    assert sentence_of(capsys, "train", "--resume", str(checkpoint), "--train.batch", "4") == (
        "train.batch was 8 and cannot become 4 when a run goes on; start a new run with --init, or leave it out "
        "(what may change: accumulate, device, fsdp, keep, log_every, minutes, patience, recompute, replicas, "
        "sample_every, save_every, steps, threads, track, wait)."
    )
    assert sentence_of(capsys, "train", "wordnet", "--resume", str(checkpoint)) == (
        "--resume takes the recipe from the run; leave 'wordnet' out."
    )
    assert sentence_of(capsys, "train", "--init", str(checkpoint), "--model.width", "64") == (
        "--model.width does not go with --init: network and tokenizer are the checkpoint's."
    )


def test_a_run_whose_text_has_changed(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    text = checkpoint.parent / "text.txt"
    old = text.read_text()
    try:
        text.write_text(old + "more")
        assert sentence_of(capsys, "train", "--resume", str(checkpoint), "--train.steps", "4") == (
            f"{text} is not, or no longer, the text that {checkpoint}/checkpoints/step-00000002 was trained on: give "
            f"it as it was, or start a new run on the new text with --init {checkpoint}."
        )
    finally:
        text.write_text(old)


def test_requests_that_a_model_cannot_answer(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    run = str(checkpoint)
    assert sentence_of(capsys, "eval", run, "--data.length", "64") == (
        "data.length is 64, but the model's window is 32 tokens; set --data.length 32 or less."
    )
    assert sentence_of(capsys, "train", "--init", run, "--data.length", "64") == (
        "data.length is 64, but the model's window is 32 tokens; set --data.length 32 or less."
    )
    assert sentence_of(capsys, "train", "automaton_long_eos", "--init", "automaton", "--dry") == (
        "no row of the training part of task:automaton:length=48,traces=short fits into 49 tokens: give a larger "
        "--data.length (with --init, a checkpoint with a larger window)."
    )
    assert sentence_of(capsys, "eval", run, "--data.tokenizer", "byte") == (
        "--data.tokenizer does not go with eval: the tokenizer is the checkpoint's."
    )
    assert sentence_of(capsys, "generate", run, "--policy", "ancestral:steps=0") == (
        "steps is 0; give a whole number of at least 1 (or inf)."
    )
    assert sentence_of(capsys, "generate", run, "--policy", "randon") == (
        "There is no policy named 'randon'; did you mean 'random'?"
    )
    assert (
        sentence_of(capsys, "generate", run, "--length", "0")
        == "--length cannot be '0'; give a whole number of at least 1."
    )
    assert sentence_of(capsys, "generate", run, "--prompts", "nowhere.txt") == (
        "nowhere.txt cannot be read (no such file or directory); give a text file with a prompt on each line."
    )
    assert sentence_of(capsys, "fill", run, "no hole") == (
        "the text has no hole to fill: write [5] for a hole of 5 tokens, [1-8] for 1 to 8, [=old words] to write words "
        "anew, and \\[ for a bracket that is text."
    )
    assert sentence_of(capsys, "fill", run, "a [?]") == (
        "[?] is the place of choices; name them (--choices), or write [5] for a hole of 5 tokens."
    )
    assert sentence_of(capsys, "fill", run, "a text", "--choices", "b") == (
        "the text has no hole to fill: write [5] for a hole of 5 tokens, [1-8] for 1 to 8, [=old words] to write words "
        "anew, and \\[ for a bracket that is text."
    )
    assert sentence_of(capsys, "fill", run, "a [2]", "--only", "\N{SNOWMAN}") == (
        "No token of the model is made of '\N{SNOWMAN}' alone; allow more characters."
    )
    assert sentence_of(capsys, "fill", run, "[40]") == (
        "The template is 40 tokens long and the model's window is 32; shorten it or its holes."
    )


def test_checkpoints_that_are_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path) -> None:
    for verb in ("info", "eval", "pace"):
        assert sentence_of(capsys, verb, "nowhere").startswith(
            "There is no checkpoint at 'nowhere'; give a checkpoint or run folder "
        )
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (foreign / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    for verb in ("info", "generate"):
        assert sentence_of(capsys, verb, "foreign").startswith(
            "foreign holds a model of the transformers library, t5 (config.json), of no family that is known here: "
        )
    (foreign / "config.json").write_text("{}")
    assert sentence_of(capsys, "info", "foreign") == (
        f"foreign/config.json has no format number, so unmask did not write it: give {LOADABLE}."
    )
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(64))
    assert "pickle" in sentence_of(capsys, "generate", "pickled")
    cut = tmp_path / "cut"
    cut.mkdir()
    best = next((checkpoint / "checkpoints").glob("best-*"))
    for file in best.iterdir():
        whole = file.read_bytes()
        (cut / file.name).write_bytes(whole[: len(whole) // 2] if file.name == "model.safetensors" else whole)
    assert "cut/model.safetensors is damaged" in sentence_of(capsys, "eval", "cut")


LOADABLE = "a checkpoint or run folder that unmask wrote, or a bundled model (unmask list models)"
NOT_YET = f"unmask cannot load such models yet; give {LOADABLE}."
FOREIGN = [
    (
        ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "org/name"}),
        "an adapter of the peft library, LORA, org/name (adapter_config.json)",
    ),
    (("model_index.json", {"_class_name": "Pipe"}), "a pipeline of the diffusers library, Pipe (model_index.json)"),
    (("weights.gguf", {}), "a GGUF file"),
]


@pytest.mark.parametrize("file, what", FOREIGN, ids=[what for _, what in FOREIGN])
def test_a_folder_of_another_library(
    file: tuple[str, dict[str, Any]], what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Weights in shards or pickles do not change the sentence."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / file[0]).write_text(json.dumps(file[1]))
    (tmp_path / "theirs" / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(64))
    assert sentence_of(capsys, "info", "theirs") == f"theirs holds {what}. {NOT_YET}"
    assert sentence_of(capsys, "train", "--init", "theirs").startswith(f"theirs holds {what}. ")


@pytest.mark.parametrize("name", ["GSAI-ML/LLaDA-8B-Instruct", "kuleshov-group/mdlm-owt", "https://huggingface.co/a/b"])
@pytest.mark.parametrize("verb", ["info", "eval", "generate", "frontier --task sudoku"])
def test_a_name_of_the_hub(verb: str, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plain = name.removeprefix("https://huggingface.co/")
    assert sentence_of(capsys, *verb.split(), name).startswith(
        f"There is no folder '{plain}'. If it is a model on the Hugging Face hub: pip install 'unmask[hf]' to download "
        "it, or give a folder laid out as it is published."
    )
    folder, _, _ = name.partition("/")
    (tmp_path / folder).mkdir()  # the control: with a folder of that name it is a path
    assert "Hugging Face" not in sentence_of(capsys, *verb.split(), name)


def test_a_lone_argument_is_a_checkpoint_or_a_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoint: Path
) -> None:
    def generated(*words: str) -> str:
        capsys.readouterr()
        assert main(["generate", "--length", "4", "--threads", "1", *words]) == 0
        return capsys.readouterr().out

    assert generated("--", "-x") == generated("wordnet", "--", "-x") != generated("wordnet", "x")
    for text in ("ROMEO.", "", "Once upon/", "no such word", "[5]/[3]"):
        if text == "Once upon/":
            (tmp_path / "Once").mkdir()
        assert generated(text) == generated("wordnet", text) != generated("wordnet", "x")
    assert generated(str(checkpoint)) == generated(str(checkpoint), "")
    assert generated("wordnet") == generated("wordnet", "")
    with pytest.raises(AssertionError):
        generated("wordnet", "a", "b")
    text = generated("ROMEO.")
    (tmp_path / "wordnet").mkdir()  # a path of that name does not matter where the name was not typed
    assert generated("ROMEO.") == text
    assert generated()


def test_a_text_to_fill_alone(capsys: pytest.CaptureFixture[str]) -> None:
    outputs: list[str] = []
    for words in (["To be or [5]"], ["wordnet", "To be or [5]"]):
        assert main(["fill", *words, "--threads", "1"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("To be or ")
    assert sentence_of(capsys, "fill", "wordnet") == "fill needs a TEMPLATE; see unmask fill --help."


@pytest.mark.parametrize("verb", ["generate", "fill"])
@pytest.mark.parametrize("word", ["runs/x", "./x", "~/x", "../up", "org/name"])
def test_a_word_that_looks_like_a_path_is_no_text(verb: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = sentence_of(capsys, verb, word)
    assert sentence.startswith("There is no ")
    assert f"'{word}'" in sentence
    assert sentence.endswith(f"If it is a text, write: unmask {verb} wordnet {shlex.quote(word)}")


@pytest.mark.parametrize("verb", ["generate", "fill"])
@pytest.mark.parametrize("word", ["wordne", "Wordnet", "sudoko"])
def test_a_word_that_is_nearly_a_name_is_asked_about(verb: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence_of(capsys, verb, word).startswith(f"There is no bundled model '{word}'; did you mean '")


def test_statistics_are_printed_with_v(capsys: pytest.CaptureFixture[str]) -> None:
    """The result is the same text on stdout; without -v nothing is on stderr."""
    for verb, text, statistics in (
        ("generate", "ROMEO.", "tokens in "),
        ("fill", "To [2]", "nats in all"),
        ("fill --choices be go", "To [?]", "random orders"),
    ):
        outputs: list[str] = []
        for flag in ([], ["-v"], ["--verbose"]):
            first, *rest = verb.split()
            length = ["--length", "4"] if first == "generate" else []
            assert main([first, "wordnet", text, *rest, *length, *flag, "--threads", "1"]) == 0
            out, err = capsys.readouterr()
            outputs.append(out)
            assert (statistics in err) == bool(flag)
            assert err == "" or flag
        assert outputs[0] == outputs[1] == outputs[2]


def test_the_version_and_those_of_the_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    from unmask import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unmask {__version__}\n"
    assert main(["--version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["unmask"] == __version__
    assert {"python", "torch", "numpy", "safetensors", "tokenizers"} < versions.keys()


def test_a_bundled_name_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'wordnet'?" in sentence_of(capsys, "info", "wordne")


def test_a_picture_that_cannot_be_written_is_no_failure_of_a_training(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is whole and saved. The control: the same command where the picture can be written."""
    run = Path(shutil.copytree(checkpoint, tmp_path / "run"))
    for free in (True, False):
        (run / "curves.png").unlink()
        if not free:
            (run / "curves.png").mkdir()
        capsys.readouterr()
        assert main(["train", "--resume", str(run), "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["curves"] == (str(run / "curves.png") if free else None)
        assert ("curves.png cannot be written" in err) == (not free)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": 5}, "is damaged: it has no JSON object in the field 'policy'"),
        ({"policy": {"features": 5}}, ": the setting 'features' cannot be 5: give a list."),
        ({"policy": {"width": "x"}}, ": the setting 'width' cannot be \"x\": give a whole number."),
        ({"calibration": [1]}, "is damaged: it has no JSON object in the field 'calibration'"),
    ],
)
def test_a_damaged_policy_is_not_shown_in_part(
    changes: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    policy = Path(shutil.copytree(bundled_policies()["automaton_eos"], tmp_path / "policy"))
    assert main(["info", str(policy)]) == 0  # the control
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | changes))
    assert f"config.json{'' if sentence[0] == ':' else ' '}{sentence}" in sentence_of(capsys, "info", str(policy))
