"""A synthetic sharded checkpoint in LLaDA's layout -> the memory that loading it takes, measured in another process.

    python tools/load_memory.py --gigabytes 3 --shards 3 --dtype stored

Prints the size of the files, of the largest one, and the peaks of anonymous memory (what the process allocated) and of
resident memory (with the pages of files). The claim: never above one copy of the weights and one shard. In int8: never
above the matrices in int8 and one of them in bfloat16; embedding and head stay in their files.
"""

__all__ = ["int8_limit", "main", "measure", "write_folder"]

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from unmask.limits import bytes_text
from unmask.text.tokenizer import BYTE_CHARACTERS

WIDTH, INNER, ROWS = 2048, 6144, 32768
_BLOCK = 4 * WIDTH**2 + 3 * WIDTH * INNER + 2 * WIDTH
_WATCH = """
import sys, threading, time, torch
import pydantic, pydantic_core, safetensors, zoneinfo  # loading imports them; their memory is none of the weights
pydantic.TypeAdapter(dict[str, int])
sys.path[:0] = {path!r}
import unmask
from unmask.model.load import load_denoiser
from unmask.run.machine import prepare
prepare()
quantise = None
if {int8}:
    from unmask.hf.int8 import int8_weights
    quantise = int8_weights()
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
start, peak, done = status("RssAnon"), [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], status("RssAnon"))
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
began = time.perf_counter()
network = load_denoiser({folder!r}, dtype={dtype}, quantise=quantise).denoiser
seconds = time.perf_counter() - began
done.set(); thread.join()
parameters = list(network.parameters())
parts = [part for value in parameters for part in ([value.qdata, value.scale] if hasattr(value, "qdata") else [value])]
count, copy = sum(value.numel() for value in parameters), sum(part.nbytes for part in parts)
print(count, copy, peak[0] - start, status("VmHWM"), seconds)
"""


def write_folder(folder: Path, size: float, shards: int) -> int:
    """Write about `size` bytes of random bfloat16 weights in LLaDA's layout -> the size of the largest file."""
    blocks = max(1, round((size / 2 - 2 * ROWS * WIDTH) / _BLOCK))
    prefix = "model.transformer."
    shapes: dict[str, tuple[int, ...]] = {f"{prefix}wte.weight": (ROWS, WIDTH), f"{prefix}ff_out.weight": (ROWS, WIDTH)}
    shapes[f"{prefix}ln_f.weight"] = (WIDTH,)
    for n in range(blocks):
        block = f"{prefix}blocks.{n}."
        shapes |= {f"{block}{name}.weight": (WIDTH,) for name in ("attn_norm", "ff_norm")}
        shapes |= {f"{block}{name}.weight": (WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "attn_out")}
        shapes |= {f"{block}{name}.weight": (INNER, WIDTH) for name in ("ff_proj", "up_proj")}
        shapes[f"{block}ff_out.weight"] = (WIDTH, INNER)
    names, index, largest = sorted(shapes), dict[str, str](), 0
    for number in range(shards):
        file = folder / f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = names[number * len(names) // shards : (number + 1) * len(names) // shards]
        save_file({name: torch.empty(shapes[name], dtype=torch.bfloat16).normal_() for name in part}, file)
        index |= dict.fromkeys(part, file.name)
        largest = max(largest, file.stat().st_size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(_config(blocks)))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
    return largest


def _config(blocks: int) -> dict[str, object]:
    return {
        "architectures": ["LLaDAModelLM"],
        "d_model": WIDTH,
        "n_layers": blocks,
        "n_heads": 16,
        "n_kv_heads": 16,
        "mlp_hidden_size": INNER,
        "embedding_size": ROWS,
        "max_sequence_length": 4096,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "mask_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 257,
        "include_bias": False,
        "include_qkv_bias": False,
        "attention_layer_norm": False,
        "weight_tying": False,
        "scale_logits": False,
        "input_emb_norm": False,
        "alibi": False,
    }


def _tokenizer() -> dict[str, object]:
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    vocabulary = {character: number for number, character in enumerate(BYTE_CHARACTERS)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    special = enumerate(("<|mdm_mask|>", "<|endoftext|>"), 256)
    return {
        "added_tokens": [{"id": number, "content": name, **flags} for number, name in special],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def measure(folder: Path, dtype: str) -> tuple[int, int, int, int, float]:
    """Folder -> parameters, bytes of the copy, peaks of anonymous and resident memory in bytes, seconds of loading."""
    value = {"stored": '"stored"', "int8": "torch.bfloat16"}.get(dtype, f"torch.{dtype}")
    path = [str(Path(__file__).parents[1] / "src")]
    code = _WATCH.format(path=path, folder=str(folder), dtype=value, int8=dtype == "int8")
    words = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    count, copy, anonymous, resident = map(int, words[:4])
    return count, copy, anonymous, resident, float(words[4])


def int8_limit(copy: int) -> int:
    """Bytes of a copy in int8 -> those that loading may allocate."""
    return copy - 2 * 2 * ROWS * WIDTH + 2 * INNER * WIDTH


def main() -> int:
    """Measure and print; exit code 1 where the peak is above the claim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--dtype", choices=("stored", "float32", "bfloat16", "int8"), default="stored")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        largest = write_folder(folder, arguments.gigabytes * 1e9, arguments.shards)
        files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        count, copy, anonymous, resident, seconds = measure(folder, arguments.dtype)
    limit = int8_limit(copy) if arguments.dtype == "int8" else copy + largest
    print(f"files                 {bytes_text(files)} in {arguments.shards}, the largest {bytes_text(largest)}")
    print(f"copy of the weights   {bytes_text(copy)} ({count:,} parameters)")
    print(f"peak, anonymous       {bytes_text(anonymous)}")
    print(f"peak, resident        {bytes_text(resident)} (with Python and torch, and the pages of files)")
    print(f"claim                 at most {bytes_text(limit)}: {'holds' if anonymous <= limit else 'does not hold'}")
    print(f"seconds               {seconds:.1f}")
    return 0 if anonymous <= limit else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
