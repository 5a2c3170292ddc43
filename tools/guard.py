"""Two checkouts -> whether they compute the same: tokens, passes, logits and training losses, every digit compared.

    python tools/guard.py BASE NOW [--only NAME ...] [--threads 1] [--keep FILE] [--expect "training with dropout"]

Each checkout is run by this Python with its own `src` first on the path, in float32, on the CPU. Both read the bundled
models and policies from BASE, so that only the code differs. With --keep the results of BASE are stored in FILE and not
computed again. Exit code 0: all probes are equal, except those that --expect names.
"""

__all__ = ["main"]

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PUZZLES = ("sudoku", "automaton", "automaton_eos")
POLICIES = {"sudoku": "sudoku:side=6", "automaton": "automaton:traces=mixed", "automaton_eos": "automaton:traces=mixed"}
RULES = ("random", "entropy-bound:gamma=0.3", "ancestral:steps=12", "remdm:steps=12")
CACHES: tuple[str | None, ...] = (None, "prefix", "dual", "delayed")
TEXT = "It was the best of times, it was the worst of times. We shall see what comes of it; nobody knows.\n"


def main() -> int:
    """Run the probes in both checkouts and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("now", type=Path)
    parser.add_argument("--only", nargs="*", default=list(PROBES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a file with the results of BASE, created if it is missing")
    parser.add_argument("--expect", nargs="*", default=[], help="probes that may differ")
    options = parser.parse_args()
    kept = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    failed = 0
    for name in options.only:
        key = f"{options.base.resolve()} {name} {options.threads}"
        if key not in kept:
            kept[key] = _run(options.base, options.base, name, options.threads)
            if options.keep:
                options.keep.write_text(json.dumps(kept))
        differences = list(_differences(kept[key], _run(options.now, options.base, name, options.threads), ""))
        values = sum(1 for _ in _leaves(kept[key]))
        verdict = f"{len(differences)} differ, the first {differences[0]}" if differences else "equal"
        note = " (expected)" if differences and name in options.expect else ""
        failed += bool(differences) and not note
        print(f"{name}: {values:,} values, {verdict}{note}", flush=True)
    return 1 if failed else 0


def _run(checkout: Path, base: Path, name: str, threads: int) -> Any:
    """The JSON that a probe prints in a checkout, run in an empty folder."""
    path = os.pathsep.join([str((checkout / "src").resolve()), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, str(Path(__file__).resolve()), "--probe", name, str(base.resolve()), str(threads)]
        environment = os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": folder, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed in {checkout}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _leaves(value: Any) -> Iterator[Any]:
    """The numbers and texts of nested lists and dicts."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)
    else:
        yield value


def _differences(base: Any, now: Any, where: str) -> Iterator[str]:
    """The paths at which two JSON values are not equal."""
    if isinstance(base, dict) and isinstance(now, dict) and base.keys() == now.keys():
        for key in base:
            yield from _differences(base[key], now[key], f"{where}/{key}")
    elif isinstance(base, list) and isinstance(now, list) and len(base) == len(now):
        for index, (left, right) in enumerate(zip(base, now, strict=True)):
            yield from _differences(left, right, f"{where}/{index}")
    elif repr(base) != repr(now):  # nan is equal to itself here
        yield f"{where}: {base!r:.80} and {now!r:.80}"


# ---- probes: each runs in one checkout and returns the values to compare -------------------------------------------


def _load(base: Path, name: str, threads: int) -> Any:
    import unmask

    return unmask.load(str(base / "src/unmask/assets/models" / name), device="cpu", dtype="float32", threads=threads)


def _text_model(base: Path) -> str:
    """The bundled model of text that BASE has: shakespeare before issue 13."""
    return next(name for name in ("wordnet", "shakespeare") if (base / "src/unmask/assets/models" / name).is_dir())


def _learned(base: Path, name: str) -> str:
    return f"learned:from={base}/src/unmask/assets/policies/{name}"


def _generated(model: Any, prompts: list[str], length: int, policy: str, temperature: float, cache: str | None) -> Any:
    block = {"block_size": 8} if cache in ("prefix", "dual") else {}
    result = model.generate(
        prompts, length=length, policy=policy, temperature=temperature, cache=cache, seed=3, stop_at_eos=False, **block
    )
    return {"tokens": result.tokens, "log_probs": result.log_probs, "passes": result.passes}


def logits(base: Path, threads: int) -> Any:
    """Digests of all float32 logits of the bundled models on fixed canvases, padded and not."""
    import torch

    results: dict[str, Any] = {}
    for name in (_text_model(base), *PUZZLES):
        model = _load(base, name, threads)
        generator = torch.Generator().manual_seed(5)
        tokens = torch.randint(model.denoiser.vocab_size, (3, model.window), generator=generator)
        hide = torch.rand(tokens.shape, generator=generator) < 0.5
        valid = torch.arange(model.window)[None] < torch.tensor([[model.window], [model.window - 3], [7]])
        for key, mask in (("whole", None), ("padded", valid)):
            with torch.no_grad():
                hidden = model.denoiser.hidden(tokens.masked_fill(hide, model.denoiser.mask_id), valid=mask)
                values = model.denoiser.logits(hidden).contiguous()
            digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
            results[f"{name} {key}"] = [digest, *values[0, 0, :8].tolist()]
    return results


def texts(base: Path, threads: int) -> Any:
    """Generation with heuristics: four models, temperatures 0 and 1, without and with each cache."""
    results: dict[str, Any] = {}
    for name in (_text_model(base), *PUZZLES):
        model = _load(base, name, threads)
        prompts = [""] if name in PUZZLES else ["ROMEO.", "The king"]
        for rule in RULES:
            for temperature in (0.0, 1.0):
                for cache in CACHES:
                    key = f"{name} {rule} {temperature} {cache}"
                    results[key] = _generated(model, prompts, 32, rule, temperature, cache)
    model = _load(base, _text_model(base), threads)
    filled = model.fill("My[= king] is [1-6].", policy="confidence:steps=4", seed=2)
    results["fill"] = [filled.tokens, filled.log_probs, filled.passes]
    results["long"] = _generated(model, ["ROMEO."], 300, "confidence:steps=20", 1.0, None)
    results["score"] = [[c.nats, c.probability] for c in model.score("The king is [?]", ["dead", "here"])]
    results["bound"] = repr(model.bound([TEXT * 9], draws=4, seed=2))
    return results


def policies(base: Path, threads: int) -> Any:
    """Decoding by the bundled learned policies, on problems of their tasks."""
    from unmask.tasks import make

    results: dict[str, Any] = {}
    for name, task in POLICIES.items():
        model = _load(base, name, threads)
        templates = [example.template for example in make(task).examples("test", 4, 11)]
        for temperature in (0.0, 1.0):
            for cache in CACHES:
                block = {"block_size": 8} if cache in ("prefix", "dual") else {}
                for dial in (0.0, 0.5, 0.9):
                    rows = [
                        model.fill(
                            text, policy=_learned(base, name), temperature=temperature, cache=cache, dial=dial, **block
                        )
                        for text in templates
                    ]
                    key = f"{name} {temperature} {cache} {dial}"
                    results[key] = [[row.tokens, row.log_probs, row.passes] for row in rows]
    return results


def _command(*words: str) -> Any:
    """The JSON that a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "unmask.cli.main", *words, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"unmask {' '.join(words)}:\n{done.stderr}")
    return json.loads(done.stdout)


def commands(base: Path, threads: int) -> Any:
    """The command line: generate, fill, eval, and frontier with a heuristic and a learned policy."""
    models = base / "src/unmask/assets/models"
    machine = ("--device", "cpu", "--dtype", "float32", "--threads", str(threads))
    compared = ("texts", "token_ids", "log_probs", "passes", "holes", "nats_per_token", "stderr", "bits_per_byte")
    text = str(models / _text_model(base))
    Path("text.txt").write_text(TEXT * 40, encoding="utf-8")
    results = {
        "generate": _command("generate", text, "ROMEO.", "--length", "40", *machine),
        "fill": _command("fill", text, "To be or [5] to be", *machine),
        "eval": _command("eval", text, "--data.source", "text.txt", "--limit", "8", "--split", "all", *machine),
    }
    facts = {name: {key: value[key] for key in compared if key in value} for name, value in results.items()}
    for name, task in POLICIES.items():
        rules = ("--policies", _learned(base, name), "threshold:threshold=0.9")
        words = ("--task", task, *rules, "--count", "16", "--blocks", "full", "--workers", "1", "--out", f"f-{name}")
        _command("frontier", str(models / name), *words)
        lines = (Path(f"f-{name}") / "outcomes.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        outcomes = {json.dumps(line["setting"]): [line["scores"], line["passes"]] for line in map(json.loads, lines)}
        facts[f"frontier {name}"] = {str(index): outcomes[key] for index, key in enumerate(sorted(outcomes))}
    return facts


def _trained(threads: int, dropout: str, *words: str) -> Any:
    """The 20 losses of a small run on fixed files, its validations, and a digest of its weights."""
    Path("train.txt").write_text("".join(f"{n}: {TEXT[n % 40 :]}" for n in range(400)), encoding="utf-8")
    Path("valid.txt").write_text("".join(f"{n}: {TEXT[n % 37 :]}" for n in range(40)), encoding="utf-8")
    settings = {
        "data.source": "train.txt",
        "data.valid": "valid.txt",
        "data.length": "64",
        "train.steps": "20",
        "train.log-every": "1",
        "train.eval-every": "10",
        "train.batch": "8",
        "train.device": "cpu",
        "train.dtype": "float32",
        "train.threads": str(threads),
        "model.size": "nano",
        "model.dropout": dropout,
        "out": "run",
    }
    _command("train", *(word for key, value in settings.items() for word in (f"--{key}", value)), *words)
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = {"loss", "norm", "lr", "valid", "valid_stderr"}
    weights = next(Path("run/checkpoints").glob("step-00000020")) / "model.safetensors"
    from safetensors.numpy import load_file

    tensors = load_file(weights)
    digest = hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
    return {"steps": [{key: line[key] for key in sorted(kept & line.keys())} for line in lines], "weights": digest}


def training(base: Path, threads: int) -> Any:
    """Training without dropout: plain, accumulated, and time-conditioned."""
    results = {"plain": _trained(threads, "0")}
    for name, words in {
        "accumulated": ("--train.accumulate", "2"),
        "time": ("--model.time-conditioned", "--train.estimator", "stratified"),
    }.items():
        os.makedirs(name)
        os.chdir(name)
        results[name] = _trained(threads, "0", *words)
        os.chdir("..")
    return results


def training_with_dropout(base: Path, threads: int) -> Any:
    """Training with dropout."""
    return _trained(threads, "0.1")


def learning(base: Path, threads: int) -> Any:
    """Two rounds of training a policy after a short warm start: rewards, passes, and a digest of the weights."""
    settings = {
        "checkpoint": str(base / "src/unmask/assets/models/automaton"),
        "learn.rounds": "2",
        "learn.warm": "3",
        "learn.scored": "16",
        "learn.pool": "64",
        "learn.prompts": "4",
        "learn.group": "4",
        "learn.valid-prompts": "8",
        "learn.valid-every": "1",
        "learn.calibrated": "8",
        "learn.threads": str(threads),
        "learn.device": "cpu",
        "out": "policy",
    }
    _command("learn", "automaton", *(word for key, value in settings.items() for word in (f"--{key}", value)))
    lines = [json.loads(line) for line in Path("policy/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [
        {k: v for k, v in line.items() if "seconds" not in k and "bytes" not in k and k != "time"} for line in lines
    ]
    from safetensors.numpy import load_file

    tensors = load_file("policy/policy/model.safetensors")
    config = json.loads(Path("policy/policy/config.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()
    return {"rounds": kept, "weights": digest, "calibration": config.get("calibration")}


PROBES: dict[str, Callable[[Path, int], Any]] = {
    "logits": logits,
    "texts": texts,
    "policies": policies,
    "commands": commands,
    "training": training,
    "training with dropout": training_with_dropout,
    "learning": learning,
}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        print(json.dumps(PROBES[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        sys.exit(main())
