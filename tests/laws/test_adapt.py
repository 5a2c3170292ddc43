"""A causal model made bidirectional: what its network computes at first, what is trained, stored and refused."""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.laws.test_resume import Watcher, same
from tests.parity.published import write
from tests.parity.test_encoder import write as write_encoder
from torch import Tensor

from unmask.cli.main import main
from unmask.data.packed import Corpus, Facts, Packed, PartFacts, Split
from unmask.data.settings import DataSettings
from unmask.model.load import load_denoiser
from unmask.model.lora import LowRank, add_low_rank, merged
from unmask.objective.masked import later_positions
from unmask.text.build import byte_tokenizer
from unmask.train.adapt import adapted_corpus, causal_start
from unmask.train.loop import Trainer
from unmask.train.session import open_session, plan_session
from unmask.train.settings import AdaptSettings, ModelChoice, TextRun, TrainSettings

LENGTH, ROWS = 24, 259  # as many ids as the tokenizer has
FULL, LORA = AdaptSettings(tuning="full"), AdaptSettings(tuning="lora", rank=3, alpha=6.0)


def without_spare(folder: Path) -> Path:
    """Cut the embedding and the head of a published folder to the ids of its tokenizer."""
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        cut = {name: value[:ROWS].contiguous() if len(value) == 288 else value for name, value in tensors.items()}
        save_file(cut, file, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": ROWS}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama with random weights and no free id."""
    folder = tmp_path_factory.mktemp("causal") / "llama"
    write("llama", folder)
    return str(without_spare(folder))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(f"{n} and {n + 1} are {2 * n + 1}, as {n + 1} and {n} are." for n in range(200)))
    return str(path)


def start(folder: str, adapt: AdaptSettings) -> Any:
    return causal_start(folder, adapt, LENGTH, 1, "cpu")[0].denoiser.eval()


def rows(count: int = 3) -> Tensor:
    return torch.randint(256, (count, LENGTH), generator=torch.Generator().manual_seed(1))


# ---- what the network computes ---------------------------------------------------------------------------------------


def test_without_later_positions_it_is_the_causal_model(tmp_path: Path) -> None:
    """The logits of a shifted network whose mask is causal are those of the checkpoint; those of full attention not."""
    write("llama", tmp_path)
    before: Any = load_denoiser(str(tmp_path), dtype=torch.float32).denoiser
    after = start(str(tmp_path), FULL)
    tokens = rows()
    full = after(tokens)
    after.later = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    torch.testing.assert_close(after(tokens), before(tokens), rtol=1e-5, atol=1e-5)
    assert (full - before(tokens)).abs().max() > 0.1
    unshifted = start(str(tmp_path), replace(FULL, shift=False))
    unshifted.later = after.later
    torch.testing.assert_close(unshifted(tokens)[:, :-1], before(tokens)[:, 1:], rtol=1e-5, atol=1e-5)


def test_with_all_later_positions_it_is_bidirectional(causal: str) -> None:
    network, tokens = start(causal, FULL), rows()
    full = network(tokens)
    for share, equal in ((1.0, True), (0.9, False)):
        network.later = later_positions(torch.tensor(5), torch.tensor(share), LENGTH)
        assert torch.allclose(network(tokens), full, atol=1e-5) == equal


def test_later_positions_have_the_share(causal: str) -> None:
    """Of 200 x 200 positions; another seed draws others, the same seed the same."""
    share = torch.tensor(0.3, dtype=torch.float64)
    first, again, other = (later_positions(torch.tensor(seed), share, 200) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert abs(float(first.double().mean()) - 0.3) < 4 * (0.3 * 0.7) ** 0.5 / 200


# ---- MASK ------------------------------------------------------------------------------------------------------------


def test_a_row_is_added_and_nothing_else_changes(causal: str) -> None:
    """One more row, which is no other's; the other tensors are those of the files, bit for bit."""
    network = start(causal, FULL)
    stored = {name: value for file in Path(causal).glob("*.safetensors") for name, value in load_file(file).items()}
    assert network.mask_id == ROWS == len(network.embedding.weight) - 1
    for ours, theirs in (("embedding", "model.embed_tokens"), ("head", "lm_head")):
        weight = network.get_submodule(ours).weight
        assert torch.equal(weight[:ROWS], stored[f"{theirs}.weight"].float())
    row, others = network.embedding.weight.detach()[ROWS], network.embedding.weight.detach()[:ROWS]
    assert 0 < (row - others.mean(0)).abs().mean() < 0.2 * float(others.std())
    named = start(causal, replace(FULL, mask_row="<|endoftext|>"))
    assert torch.equal(named.embedding.weight[ROWS], named.embedding.weight[256])
    assert not torch.equal(row, named.embedding.weight[ROWS])


# ---- low-rank terms --------------------------------------------------------------------------------------------------


def test_terms_begin_without_effect_and_merge(causal: str) -> None:
    """B = 0 changes nothing, bit for bit; other terms do, and the merged network computes the same as the unmerged."""
    plain, network, tokens = start(causal, FULL), start(causal, LORA), rows()
    tokens[:, ::3] = network.mask_id
    with torch.enable_grad():
        assert torch.equal(network.train()(tokens), plain.train()(tokens))
    network.eval()
    plain.eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for p in network.parameters() if p.requires_grad):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        changed = network(tokens)
        assert (changed - plain(tokens)).abs().max() > 0.1
        plain.load_state_dict(merged(network))
        torch.testing.assert_close(plain(tokens), changed, rtol=1e-4, atol=1e-4)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    """Of a tied model the row of MASK is in embedding and head, which stay one tensor."""
    write("a2d-qwen3", tmp_path)
    network: Any = load_denoiser(str(tmp_path), dtype=torch.float32).denoiser
    add_low_rank(network, 2, 4.0, 1)
    tensors = merged(network)
    assert tensors["head.weight"] is tensors["embedding.weight"]
    assert tensors["blocks.0.query.weight"] is not tensors["blocks.1.query.weight"]


# ---- training --------------------------------------------------------------------------------------------------------


def trainer(causal: str, text: str, folder: Path, adapt: AdaptSettings = LORA, **changes: Any) -> Trainer:
    train = TrainSettings(
        steps=6, batch=8, eval_every=3, save_every=2, eval_draws=8, patience=0, lr=3e-3, dtype="float32", threads=1
    )
    run = TextRun(DataSettings(text, length=LENGTH), ModelChoice(), replace(train, **changes), adapt)
    where: dict[str, Any] = {"resume": folder} if folder.exists() else {"out": folder, "init": causal}
    return open_session(plan_session(run, note=lambda _: None, **where)).trainer


@pytest.mark.parametrize(
    "adapt", [replace(LORA, anneal=4), pytest.param(replace(FULL, anneal=4), marks=pytest.mark.slow)], ids=str
)
def test_interrupted_is_uninterrupted(adapt: AdaptSettings, causal: str, text: str, tmp_path: Path) -> None:
    """A signal between saves, while attention is annealed, too."""
    whole, watcher = trainer(causal, text, tmp_path / "whole", adapt), Watcher()
    whole.fit(watcher)
    first = trainer(causal, text, tmp_path / "run", adapt)
    first.fit(Watcher(lambda step: signal.raise_signal(signal.SIGINT) if step == 3 else None))
    second, after = trainer(causal, text, tmp_path / "run", adapt), Watcher()
    assert same(first, second)
    second.fit(after)
    assert same(second, whole)
    assert not same(second, first)
    assert {step: watcher.losses[step] for step in after.losses} == after.losses


def test_frozen_weights_do_not_change_and_the_terms_do(causal: str, text: str, tmp_path: Path) -> None:
    run = trainer(causal, text, tmp_path / "run")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.fit(Watcher())
    changed = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    added = {name for name in before if name.rpartition(".")[2] in ("down", "up", "row")}
    assert changed == added
    assert len(added) == 2 * 7 * 2 + 1
    full = trainer(causal, text, tmp_path / "full", FULL)
    before = {name: value.clone() for name, value in full.model.state_dict().items()}
    full.fit(Watcher())
    assert all(not torch.equal(value, before[name]) for name, value in full.model.state_dict().items())


def test_a_checkpoint_is_an_ordinary_one(causal: str, text: str, tmp_path: Path) -> None:
    """Stored are the merged averages: loaded, they compute what the model in training does with its averages."""
    run = trainer(causal, text, tmp_path / "run", replace(LORA, shift=False))
    run.fit(Watcher())
    loaded: Any = load_denoiser(str(tmp_path / "run")).denoiser
    assert not any(isinstance(layer, LowRank) for layer in loaded.modules())
    assert (loaded.causal_block, loaded.shifted, loaded.max_length) == (0, False, LENGTH)
    model: Any = run.model
    tokens = rows()
    with run.judged(), torch.no_grad():
        torch.testing.assert_close(model(tokens), loaded(tokens), rtol=1e-4, atol=1e-4)
    assert (model(tokens) - loaded(tokens)).abs().max() > 1e-4


def test_shares_of_the_first_steps(causal: str, text: str, tmp_path: Path) -> None:
    """Step s of n shows each later position with probability (s + 1) / n; from step n - 1 on nothing is drawn."""
    run = trainer(causal, text, tmp_path / "run", replace(LORA, anneal=4))
    maskable = torch.ones(8, LENGTH, dtype=torch.bool)
    draw: Callable[[int], Any] = lambda step: run.objective.draw(1, step, torch.arange(8), 8, maskable)  # noqa: E731
    assert [float(draw(step)[4][0]) for step in range(3)] == [0.25, 0.5, 0.75]
    assert [len(draw(step)) for step in (2, 3, 4)] == [5, 3, 3]
    assert len({int(draw(step)[3][0]) for step in range(3)}) == 3
    assert len(draw(0)[3].unique()) == 1


# ---- rows of pairs ---------------------------------------------------------------------------------------------------


def pairs() -> Corpus:
    """Two rows of prompt and answer, of 5 and of LENGTH tokens, the prompts 2 tokens long."""
    ids = np.arange(2 * LENGTH, dtype=np.uint16).reshape(2, LENGTH)
    last = np.array([5, LENGTH], np.int32)
    rows = Packed(ids, np.full(2, 2, np.int32), last, 100, int(last.sum()) - 4)
    part = PartFacts(2, 100, rows.tokens, 2)
    facts = Facts("memory", True, "file", ROWS, LENGTH, "append", part, part, 2)
    return Corpus(byte_tokenizer(), rows, rows, "0", (), facts, Split(2, "", None))


def test_prompts_are_visible_and_padding_is_none() -> None:
    """By default rows are as they were; hidden prompts have no known bytes; EOS fills the rows, and is predicted."""
    corpus = pairs()
    assert adapted_corpus(corpus, LORA) is corpus
    hidden = adapted_corpus(corpus, replace(LORA, hide_prompt=True)).train
    assert hidden.batch(range(2)).maskable.sum(-1).tolist() == [5, LENGTH]
    assert (hidden.bytes, hidden.tokens) == (0, 5 + LENGTH)
    filled = adapted_corpus(corpus, replace(LORA, pad_eos=True))
    batch = filled.train.batch(range(2))
    assert batch.maskable.sum(-1).tolist() == [LENGTH - 2, LENGTH - 2]
    assert bool(batch.valid.all())
    assert set(batch.ids[0, 5:].tolist()) == {corpus.tokenizer.eos_id}
    assert batch.ids[:, :5].tolist() == corpus.train.ids[:, :5].tolist()
    assert (filled.train.bytes, filled.facts.train.tokens) == (100, 2 * LENGTH - 4)


# ---- on the command line ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_commands(causal: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, generated from, exported, and loaded again as a folder of Llama: the same logits."""
    run, theirs = str(tmp_path / "run"), str(tmp_path / "theirs")
    words = ["--init", causal, "--data.source", text, "--data.length", str(LENGTH), "--train.steps", "2"]
    assert main(["train", "adapt", *words, "--threads", "1", "--adapt.rank", "2", "--out", run]) == 0
    assert "of which 2,080 are trained as low-rank terms" in capsys.readouterr().err
    assert main(["info", run]) == 0
    assert f"made from the causal model {causal} (low-rank terms of rank 2, merged)" in capsys.readouterr().out
    assert main(["generate", run, "1 and", "--length", "8"]) == 0
    assert main(["export", run, "--out", theirs, "--to", "hf"]) == 0
    networks: list[Any] = [load_denoiser(folder).denoiser for folder in (run, theirs)]
    ours, again = (network(rows()) for network in networks)
    assert torch.equal(ours, again)
    assert json.loads((Path(theirs) / "config.json").read_text())["vocab_size"] == ROWS + 1


def test_what_is_refused(causal: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence each."""
    write("llada", tmp_path / "llada")
    write_encoder("bert", tmp_path / "bert")
    adapt = ["train", "adapt", "--data.source", text, "--train.steps", "2", "--out", str(tmp_path / "run"), "--init"]
    cases = {
        (*adapt[:-1],): "train adapt needs --init: a causal checkpoint",
        (*adapt, str(tmp_path / "llada")): "is no causal model but a masked one already (llada): give a checkpoint of",
        (*adapt, str(tmp_path / "bert")): "is no causal model but a masked one already (bert)",
        (*adapt, "wordnet"): "is no causal model but a masked one already (dit)",
        (*adapt, causal, "--adapt.rank", "0"): "--adapt.rank cannot be '0'; give a whole number of at least 1",
        (*adapt, causal, "--data.length", "129"): "was trained on texts of at most 128 tokens; set --data.length 128",
        (*adapt, causal, "--adapt.mask-row", "[M]"): "adapt.mask_row is '[M]', which is no token of the checkpoint",
        ("train", "--init", causal): "has no MASK: it is a causal model",
        ("train", "--init", "wordnet", "--adapt.rank", "4"): "--adapt.rank does not go with a plain training",
        ("generate", causal, "a"): "make a masked model of it with unmask train adapt",
    }
    for words, sentence in cases.items():
        assert main(list(words)) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()
