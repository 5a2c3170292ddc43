"""An `unmask` command -> the files of src/unmask in which one of its functions ran, counted by sys.setprofile.

    python tools/count_files.py                      # the two commands that have a limit
    python tools/count_files.py generate automaton "" --length 8

These are the files that a reader of that command has to open. Code that runs at import time does not count.
"""

__all__ = ["count", "main"]

import contextlib
import inspect
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

LIMITS = {
    # limits.py: memory is estimated before work starts; output.py: the one printer; ranges.py: the numbers of settings
    # decode/options.py: rows.py outgrew a file when snapshots could be read as text
    # policies/base.py: what a policy returns is checked before it is used
    # results.py: rows become texts and figures by the same function in Python and on the command line
    # model/inference.py, model/products.py: passes without gradients have other operations than those of training
    # model/zoo/read.py: a folder can be laid out as its authors published it; disk/tensors.py: files of several shards
    # model/network.py: what the DiT and the transformer share; text/roles.py: tokenizer.py outgrew a file
    # hf/names.py: a name can be that of a model in the cache or on the hub; hf/masked.py: what transformers has to run
    # objective/masked.py: a network says what it predicts, and its decoding and its objective follow from it
    # policies/entries.py: registry.py outgrew a file when the rules of 2025 and 2026 had names
    ("generate", "wordnet", "river:", "--length", "40"): 42,
    # data/packer.py: prepare.py outgrew a file when rows could hold whole documents
    # disk/tensors.py, model/network.py, text/roles.py as above
    # without samples, which are the files of `generate`
    # train/progress.py: budgets of time, when a run is looked at, and what metrics.jsonl has of its steps
    # denoiser.py: the positions that are needed are named in training as in decoding
    # model/soft.py: whether the bound of a network is that of two passes
    # data/shards.py, data/build.py, data/folder.py: prepared data are many files of any size
    # run/saving.py, train/checkpoint.py: checkpoints are slices that any number of processes reads, written beside the
    # steps; run/agree.py: what processes have in common
    ("train", "--data.source", "shakespeare", "--train.steps", "2", "--sample-every", "0"): 56,
}


def count(words: list[str]) -> list[str]:
    """The words of a command -> paths relative to src/unmask, sorted; its output is discarded."""
    from unmask.cli import main as cli

    root = Path(cli.__file__).parents[1]
    names: set[str] = set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        called = event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED  # no body of a module or class
        if called and name not in names and not _importing(frame, str(root)):
            names.add(name)

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
        threading.setprofile(profile)
        sys.setprofile(profile)
        try:
            code = cli.main(words)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # pyright: ignore[reportArgumentType]
    if code:
        raise SystemExit(f"unmask {' '.join(words)} ended with code {code}: {errors.getvalue()}")
    inside = (Path(name) for name in names if name.startswith(f"{root}{os.sep}"))
    return sorted(str(path.relative_to(root)) for path in inside)


def _importing(frame: FrameType | None, root: str) -> bool:
    """Whether a module of the library is being imported when the function of this frame is called."""
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(root):
            return True
        frame = frame.f_back
    return False


def main() -> int:
    """Print the files of a command, or the two counts that have a limit: exit code 1 where one is above it."""
    if sys.argv[1:]:
        files = count(sys.argv[1:])
        print("\n".join([*files, f"{len(files)} files"]))
        return 0
    above = 0
    for words, limit in LIMITS.items():
        with tempfile.TemporaryDirectory() as folder:  # one process per command, so that nothing is cached
            command = [sys.executable, str(Path(__file__).resolve()), *words]
            environment = os.environ | {"UNMASK_CACHE": f"{folder}/cache"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        number = int(done.stdout.splitlines()[-1].split()[0])
        print(f"unmask {' '.join(words)}: {number} files, at most {limit}")
        above += number > limit
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
