"""`unmask data prepare` and `unmask data check`: folders of prepared text for training. Parsing imports no torch."""

__all__ = ["DataCheckArguments", "DataPrepareArguments", "folder_facts", "run_check", "run_prepare", "show_folder"]

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from unmask.cli.common import Meter, OutputOptions, keeping, print_json, size, table
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options
from unmask.config import to_path
from unmask.data.settings import DataSettings
from unmask.errors import DataError
from unmask.output import note, show
from unmask.ranges import whole


@dataclass(frozen=True, slots=True)
class DataPrepareArguments:
    """Encode a text into a folder of memory-mapped shards, on which unmask train --data.source FOLDER trains.

    The folder holds rows of token ids for training and for validation, the tokenizer, and an index with the checksum of
    each file. The same command goes on where it was interrupted. --data.workers is the number of processes that encode;
    the files do not depend on it.
    """

    source: Positional[str]
    """A file of text, rows (.jsonl, .json, .csv, .tsv, .parquet) or FASTA, a folder, a glob, a bundled corpus, or
    hf:NAME for a data set of the `datasets` library."""
    out: str
    """The folder to write."""
    shard_mb: Annotated[int, whole(1, 1 << 20)] = 256
    """Size of a shard in MiB; the rows do not depend on it."""
    data: DataSettings = field(default_factory=DataSettings)
    """The text."""
    output: Flat[OutputOptions] = OutputOptions()


def run_prepare(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; writes a folder of prepared data and prints what it holds."""
    arguments = parse(DataPrepareArguments, argv, "data prepare")
    typed = typed_options(DataPrepareArguments, argv, "data prepare")
    refuse([name for name in typed if name == "data.source"], "data prepare: its text is the word before the options.")
    settings, folder = replace(arguments.data, source=arguments.source), to_path(arguments.out)

    from unmask.data.folder import prepare_folder

    began, last = time.perf_counter(), [0]
    meters = list[Meter]()

    def report(done: int, total: int) -> None:
        if not meters:
            meters.append(Meter("encoding", "MB", round(total / 1e6), round(done / 1e6), visible=True))
        meters[0].moved(round(done / 1e6), "")
        last[0] = done

    command = shlex.join(["unmask", "data", "prepare", *argv])
    with keeping(lambda: f"{last[0] / 1e6:,.0f} MB of text are kept; go on with: {command}"):
        prepare_folder(settings, folder, arguments.shard_mb << 20, note, report)
    facts = folder_facts(folder) | {"seconds": time.perf_counter() - began}
    if arguments.output.json:
        print_json(facts)
        return 0
    show(*table(_rows(facts)))
    note("", "Next:", f"  {shlex.join(['unmask', 'train', '--data.source', str(folder)])}")
    return 0


def folder_facts(folder: Path) -> dict[str, Any]:
    """A folder of prepared data -> what its index says, as plain data. Raises DataError for a damaged one."""
    from unmask.data.build import read_index

    index = read_index(folder)
    shards = (*index.train, *index.valid)
    return {
        "folder": str(folder),
        **asdict(index.facts),
        "settings": index.settings,
        "fingerprint": index.fingerprint,
        "shards": len(shards),
        "bytes_of_rows": sum(shard.rows for shard in shards) * index.record.itemsize,
        "notes": list(index.notes),
    }


def _rows(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a folder -> the rows of a table."""
    train, valid, items = facts["train"], facts["valid"], "pairs" if facts["paired"] else "documents"
    parts = {
        name: f"{part['tokens']:,} tokens in {part['rows']:,} rows, {part['documents']:,} {items}, "
        + size(part["bytes"])
        for name, part in (("training", train), ("validation", valid))
    }
    return {
        "folder": f"{facts['folder']}: {facts['shards']} shards, {size(facts['bytes_of_rows'])}",
        "text": facts["source"],
        **parts,
        "tokenizer": f"{facts['tokenizer']}, {facts['vocab_size']:,} ids; rows of {facts['length']} tokens",
        **({"notes": " ".join(facts["notes"])} if facts["notes"] else {}),
    }


def show_folder(folder: Path, *, as_json: bool) -> None:
    """Print what a folder of prepared data holds."""
    facts = folder_facts(folder)
    print_json(facts) if as_json else show(*table(_rows(facts)))


@dataclass(frozen=True, slots=True)
class DataCheckArguments:
    """Read all files of a folder of prepared data, and compare them with their checksums.

    A training compares sizes, both ends of each file, and the checksums of up to 512 MiB.
    """

    folder: Positional[str]
    """A folder that unmask data prepare has written."""
    output: Flat[OutputOptions] = OutputOptions()


def run_check(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code: 0 if all files are as they were written, else 2."""
    arguments = parse(DataCheckArguments, argv, "data check")
    folder = to_path(arguments.folder)

    from unmask.data.folder import check_folder

    count, wrong = 0, list[str]()
    for _, problem in check_folder(folder):
        count += 1
        if problem:
            wrong.append(problem)
    if arguments.output.json:
        print_json({"folder": str(folder), "shards": count, "wrong": wrong})
    if wrong:
        raise DataError(f"In {folder} {'; '.join(wrong)}: copy the folder again, or prepare the text again.")
    if not arguments.output.json:
        show(f"{folder}: {count} shards, all as they were written")
    return 0
