"""Folders of published models that are damaged, changed or of another kind: each is refused in one sentence."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.extras import library
from tests.parity.published import write
from tools import load_memory

import unmask
from unmask.cli.main import main
from unmask.errors import CheckpointError, ConfigError, DataError, RequestError, UnmaskError
from unmask.model import load as loader
from unmask.model.load import load_denoiser
from unmask.model.zoo.read import FAMILIES, read_model

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00002.safetensors"


def edited(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes a key."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edited(folder, **changes)


def reindexed(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def resaved(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of the second file, and the index with them."""
    tensors = load_file(folder / SHARD)
    names = set(tensors)
    change(tensors)
    save_file(tensors, folder / SHARD)

    def follow(names_of: dict[str, str]) -> None:
        for name in names - tensors.keys():
            del names_of[name]
        names_of.update(dict.fromkeys(tensors, SHARD))

    reindexed(folder, follow)


def name_in(folder: Path) -> str:
    return min(name for name in load_file(folder / SHARD) if "blocks.1" in name)


CASES: list[tuple[str, Callable[[Path], Any], str]] = [
    (
        "llada",
        lambda folder: (folder / SHARD).unlink(),
        r"index\.json names model-00002-of-00002\.safetensors, which is not in the folder: copy or download all of",
    ),
    (
        "llada",
        lambda folder: (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-9]),
        r"model-00002-of-00002\.safetensors is damaged: its header says \d+ bytes and the file has \d+",
    ),
    (
        "llada",
        lambda folder: reindexed(folder, lambda names: names.update(x=SHARD)),
        r"does not hold what model\.safetensors\.index\.json says, for example 'x'",
    ),
    (
        "llada",
        lambda folder: reindexed(folder, lambda names: names.update(x="/etc/x.safetensors")),
        r"names the file '/etc/x\.safetensors'; only safetensors files in the folder itself are read",
    ),
    (
        "llada",
        lambda folder: reindexed(folder, lambda names: names.update(x="../x.safetensors")),
        r"names the file '\.\./x\.safetensors'; only safetensors files in the folder itself are read",
    ),
    (
        "llada",
        lambda folder: resaved(folder, lambda tensors: tensors.update(odd=torch.ones(1))),
        r"has 1 tensors that its family does not have, the first is 'odd': this is another network",
    ),
    (
        "llada",
        lambda folder: resaved(folder, lambda tensors: tensors.__delitem__(name_in(folder))),
        r"of its tensors 1 missing \(model\.transformer\.blocks\.1\.\w+\.weight\); the files come from",
    ),
    (
        "llada",
        lambda folder: resaved(folder, lambda tensors: tensors.update({name_in(folder): torch.ones(7)})),
        r"of its tensors 1 of another shape \(model\.transformer\.blocks\.1\.\w+\.weight \[7\] instead of \[32",
    ),
    ("llada", edit(n_layers=1), r"of its tensors 9 of no use \(model\.transformer\.blocks\.1\."),
    ("llada", edit(rms_norm_eps=None), r"has no key 'rms_norm_eps', without which"),
    ("llada", edit(alibi=True), r"has alibi True, and the family 'llada' is implemented for F"),
    ("llada", edit(rope=None), r"has rope None, and the family 'llada' is implemented for True"),
    ("llada", edit(mask_token_id=None), r"does not say which token is MASK: config\.json has no"),
    ("llada", edit(mask_token_id=280), r"has no token with the id 280, which is MASK of the mod"),
    ("llada", edit(n_heads=5), r"kv_heads 4 does not divide"),
    ("dream", edit(mask_token_id=151669), r"has mask_token_id 151669, which is that of another"),
    ("dream", edit(rope_scaling={"factor": 2}), r"has rope_scaling \{'factor': 2\}, and the fam"),
    ("dream", edit(architectures=["T5"]), r"Dream, T5 \(config\.json\), of no"),
    ("sdar", lambda folder: (folder / "tokenizer.json").unlink(), r"MASK: the tokenizer has no token '<\|m"),
]  # fmt: skip


@pytest.mark.parametrize("family, damage, sentence", CASES, ids=range(len(CASES)))
def test_what_does_not_fit_is_refused(
    family: str, damage: Callable[[Path], Any], sentence: str, tmp_path: Path
) -> None:
    write(family, tmp_path)
    load_denoiser(str(tmp_path))  # the control
    damage(tmp_path)
    with pytest.raises(UnmaskError, match=sentence) as caught:
        load_denoiser(str(tmp_path))
    assert isinstance(caught.value, CheckpointError | DataError)
    assert "\n" not in str(caught.value)


def test_weights_as_pickles_are_refused(tmp_path: Path) -> None:
    write("a2d-qwen3", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(CheckpointError, match="is a pickle, which is never loaded"):
        load_denoiser(str(tmp_path))


def test_a_prompt_is_text_and_never_a_special_token(tmp_path: Path) -> None:
    """Literal names of MASK and of other special tokens are encoded as their characters, and kept."""
    write("llada", tmp_path)
    model = unmask.load(tmp_path, device="cpu", dtype="float32")
    prompt = "a<|mdm_mask|>b<|eot_id|>"
    result = model.generate(prompt, length=4)
    assert result.tokens[0][: len(prompt)] == list(prompt.encode())
    assert result.texts[0].startswith(prompt)


def test_a_prompt_in_the_template_of_conversations(tmp_path: Path) -> None:
    """The special tokens are those of our table; the template in the tokenizer's files, which fails, is not run."""
    write("dream", tmp_path / "dream")
    model = unmask.load(tmp_path / "dream", device="cpu", dtype="float32")
    end, start, stop = 256, 257, 258
    system = list(b"You are a helpful assistant.")
    prompt = [start, *b"system\n", *system, stop, *b"\n", start, *b"user\n<|im_end|>a{b}", stop, *b"\n"]
    tokens = model.generate(" <|im_end|>a{b}\n", length=2, chat=True, stop_at_eos=False).tokens[0]
    assert tokens[: len(prompt) + 11] == [*prompt, start, *b"assistant\n"]
    assert len(tokens) == len(prompt) + 13
    assert model.generate("", length=2, stop_at_eos=False).tokens[0][0] == 260  # <|beginoftext|>
    assert end not in prompt
    write("open-dcoder", tmp_path / "coder")
    with pytest.raises(RequestError, match="This model has no template of conversations"):
        unmask.load(tmp_path / "coder", device="cpu").generate("a", chat=True)
    write("llada", tmp_path / "base")
    record = json.loads((tmp_path / "base" / "tokenizer.json").read_text())
    record["added_tokens"] = record["added_tokens"][:3]
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(RequestError, match=r"has no token <\|start_header_id\|>, which its template"):
        unmask.load(tmp_path / "base", device="cpu").generate("a", chat=True)


def test_weights_in_float16_are_refused_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("llada", tmp_path, dtype=torch.float16)
    assert unmask.load(tmp_path, device="cpu").dtype != torch.float16  # the control: small models are held in float32
    monkeypatch.setattr(loader, "STORED_FROM", 1)
    with pytest.raises(ConfigError, match="The weights are float16, which processors do not compute in"):
        unmask.load(tmp_path, device="cpu")
    assert unmask.load(tmp_path, device="cpu", dtype="float32").dtype == torch.float32


def test_a_window_longer_than_trained_is_written_in_windows(tmp_path: Path) -> None:
    """No pass has more positions than the model was trained with."""
    write("llada", tmp_path)
    model = unmask.load(tmp_path, device="cpu", dtype="float32")
    assert model.window == 128
    assert len(model.generate("ab", length=150, policy="random:steps=2", stop_at_eos=False).tokens[0]) == 152


def test_tables_name_repositories_and_need_no_torch() -> None:
    assert all(family.keys and family.names for family in FAMILIES.values())
    assert "torch" not in {name.split(".")[0] for name in read_model.__globals__}
    import subprocess

    code = "import sys; import unmask.model.zoo.read; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["stored", "float32", pytest.param("int8", marks=pytest.mark.extras)])
def test_loading_takes_one_copy_and_one_file(dtype: str, tmp_path: Path) -> None:
    """Anonymous memory; with stored weights less, since they stay in their files. In int8 a copy and one layer."""
    if dtype == "int8":
        library("torchao", "int8")
    largest = load_memory.write_folder(tmp_path, 0.6e9 if dtype == "int8" else 0.3e9, 3)
    _, copy, anonymous, resident, _ = load_memory.measure(tmp_path, dtype)
    assert copy < resident
    if dtype == "int8":
        limit = load_memory.int8_limit(copy)
        assert 0.8 * limit < anonymous < limit
        return
    assert (0.1 if dtype == "stored" else 0.9) * copy < anonymous + largest < copy + 2 * largest


def test_a_published_model_is_fine_tuned_and_keeps_its_family(tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 200)
    words = f"--data.source {text} --data.length 32 --train.steps 2 --sample-every 0 --train.batch 4".split()
    for family in ("llada", "dream"):
        write(family, tmp_path / family)
        run = str(tmp_path / f"run-{family}")
        assert main(["train", "--init", str(tmp_path / family), *words, "--train.eval-every", "2", "--out", run]) == 0
        assert main(["info", run]) == 0
        assert f"  {family}: " in capsys.readouterr().out
        before, after = (unmask.load(path, device="cpu") for path in (tmp_path / family, run))
        assert after.network.settings == before.network.settings
        assert after.tokenizer.special_ids == before.tokenizer.special_ids
        assert after.defaults == before.defaults
        assert (after.defaults.start is not None) == (family == "dream")
        assert len(after.generate("a", length=4, chat=True).texts) == 1
