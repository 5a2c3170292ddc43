"""Antibody chains: refill the third complementarity-determining region (CDR3) in its whole variable domain.

The CDR3 is the loop of a chain that varies most between antibodies; here it is that of IMGT, without the cysteine and
the tryptophan around it. A problem shows the whole chain with its CDR3 masked, and so also the true length of the CDR3.
The score is the recovery: the share of the CDR3's residues that are the true ones. Beside it stand what needs no model,
`most_frequent`, and `germline_likeness`, because models of antibodies tend to write the residues that the germline
encodes (AbLang-2, Olsen et al. 2024), which are right before the genes mutate.
"""

__all__ = ["AntibodyCdr3", "Chain", "germline_likeness", "most_frequent"]

import hashlib
import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from unmask.config import cache_folder, to_path
from unmask.data.documents import fasta_letters, opened
from unmask.disk.files import file_sha256
from unmask.disk.json import NotJson, json_lines, read_text
from unmask.errors import DataError, RequestError
from unmask.noise import derive
from unmask.ranges import Natural, check_numbers
from unmask.tasks.base import Example, Verdict, check_split, escaped

RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWY")
_STREAM = 0xCD3
_SAME = 0.7  # CDR3s of equal length that agree in this share of their residues are of one lineage
_SHARES = (12, 3, 5)  # of 20 lineages, how many are for training, for validation and for test
_TEXT, _FASTA = "human-heavy-chains", (".fasta", ".fa", ".faa")


class Chain(NamedTuple):
    """A variable domain and its CDR3."""

    sequence: str
    cdr3: str
    start: int
    """Where the CDR3 begins in the sequence, from 0."""
    clone: str
    """The clone as the file names it, "" where it does not."""


@dataclass(frozen=True, slots=True)
class AntibodyCdr3:
    """Refill the CDR3 of an antibody in its whole chain; the score is the share of residues that are the true ones.

    `path` is a file of chains, by default the text `unmask fetch human-heavy-chains` brings: JSON lines with a
    "sequence", or FASTA. A row may have "cdr3", "cdr3_start" and "clone"; the CDR3 of other rows is searched with the
    package immunum. Chains of one clone, with equal CDR3s, or with CDR3s of equal length that agree in 70 % of their
    residues are a lineage. Each lineage is in one split (60 % train, 15 % valid, 25 % test, by a hash) and makes one
    problem, of its first chain in the file. With `longest` at most so many residues about the middle of the CDR3 are
    masked; 0 masks it all.
    """

    path: str = ""
    longest: Natural = 0

    def __post_init__(self) -> None:
        check_numbers(self, error=RequestError)
        if self._file().is_file():
            return
        if self.path:
            raise RequestError(
                f"There is no file at '{self.path}'; give a .jsonl file with a sequence in each row, or a FASTA file."
            )
        raise RequestError(
            f"The task 'antibody-cdr3' needs the chains of {_TEXT}: run unmask fetch {_TEXT}, or give a file of your "
            "own as antibody-cdr3:path=FILE."
        )

    @property
    def name(self) -> str:
        options = [f"path={self.path}"] if self.path else []
        options += [f"longest={self.longest}"] if self.longest else []
        return f"antibody-cdr3:{','.join(options)}" if options else "antibody-cdr3"

    @property
    def fingerprint(self) -> str:
        """The sha256 of the file, in hexadecimal."""
        return file_sha256(self._file())

    def examples(self, split: str, count: int, seed: int = 0) -> Sequence[Example]:
        """A chain of each lineage of a split, in an order that depends on the seed; `facts` holds its "clone".

        Raises DataError for a file that cannot be read, and where the split has no lineages.
        """
        chains = [lineage[0] for lineage in self._split(split)]
        Random(derive(seed, _STREAM, check_split(split))).shuffle(chains)
        return [_example(chain, self.longest or len(chain.cdr3)) for chain in chains[:count]]

    def verify(self, example: Example, completion: str) -> Verdict:
        """The share of residues that are the true ones; 0 for another number of residues."""
        truth = example.answer
        if len(completion) != len(truth) or not set(completion) <= RESIDUES:
            return Verdict(0.0, f"'{completion}' is not {len(truth)} residues")
        right = sum(a == b for a, b in zip(completion, truth, strict=True))
        return Verdict(right / len(truth), "" if right == len(truth) else f"{right} of {len(truth)} residues are right")

    def pairs(self, split: str, count: int, seed: int = 0) -> Iterator[tuple[str, str]]:
        """An empty prompt and a whole chain, so that a denoiser trains with any residues masked; all of a lineage."""
        sequences = sorted({chain.sequence for lineage in self._split(split) for chain in lineage})
        Random(derive(seed, _STREAM, check_split(split))).shuffle(sequences)
        return (("", sequence) for sequence in sequences[:count])

    def _file(self) -> Path:
        return to_path(self.path) if self.path else cache_folder() / "texts" / _TEXT / "chains.jsonl"

    def _split(self, split: str) -> list[list[Chain]]:
        """The lineages of a split, in the order of the file."""
        number, file = check_split(split), self._file()
        first, last = sum(_SHARES[:number]), sum(_SHARES[: number + 1])
        everything = _lineages(str(file), self.fingerprint)
        lineages = [part for part in everything if first <= _place(part) < last]
        if not lineages:
            raise DataError(
                f"{file} has {len(everything)} lineages of chains, and none of them is in the split '{split}'; give a "
                "file with more chains."
            )
        return lineages


def _example(chain: Chain, longest: int) -> Example:
    size = min(longest, len(chain.cdr3))
    start = chain.start + (len(chain.cdr3) - size) // 2
    before, hole, after = chain.sequence[:start], chain.sequence[start : start + size], chain.sequence[start + size :]
    return Example(f"{escaped(before)}[{size}]{escaped(after)}", hole, {"clone": chain.clone, "unique": True})


def _place(lineage: Sequence[Chain]) -> int:
    """A lineage -> a number from 0 to 19, from the sha256 of its first CDR3 in alphabetical order."""
    return int(hashlib.sha256(min(chain.cdr3 for chain in lineage).encode()).hexdigest(), 16) % sum(_SHARES)


# ---- the file --------------------------------------------------------------------------------------------------------


@cache
def _lineages(file: str, fingerprint: str) -> list[list[Chain]]:
    """A file and its hash -> its lineages, in the order of the file: the chains of each."""
    chains = [chain for chain in _chains(Path(file)) if set(chain.sequence) <= RESIDUES]
    if not chains:
        raise DataError(
            f"{file} has no chain with a CDR3; give variable domains of antibodies in the 20 letters of amino acids."
        )
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            name = above
        return name

    for chain in chains:
        root(f"cdr3 {chain.cdr3}")
        if chain.clone:
            parent[root(f"clone {chain.clone}")] = root(f"cdr3 {chain.cdr3}")
    for first, second in combinations(sorted({chain.cdr3 for chain in chains}), 2):
        if len(first) == len(second) and _agreement(first, second) >= _SAME:
            parent[root(f"cdr3 {first}")] = root(f"cdr3 {second}")
    lineages: dict[str, list[Chain]] = {}
    for chain in chains:
        lineages.setdefault(root(f"cdr3 {chain.cdr3}"), []).append(chain)
    return list(lineages.values())


def _agreement(first: str, second: str) -> float:
    """Two texts of equal length -> the share of places at which they agree."""
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def _chains(file: Path) -> Iterator[Chain]:
    """A file -> its chains; those without a CDR3 are left out."""
    for row in _rows(file):
        sequence, cdr3, start = row["sequence"], row.get("cdr3"), row.get("cdr3_start")
        if not isinstance(cdr3, str) or not cdr3:
            cdr3, start = _searched(sequence), None
        if not isinstance(start, int):
            start = sequence.rfind(cdr3)
        if cdr3 and start >= 0 and sequence[start : start + len(cdr3)] == cdr3:
            yield Chain(sequence, cdr3, start, str(row.get("clone") or ""))


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """A file -> a mapping with a "sequence" for each chain. Raises DataError for a row without."""
    if file.name.lower().endswith(_FASTA):
        sequences: dict[int, str] = {}
        for number, letters in fasta_letters([read_text(file)]):
            sequences[number] = sequences.get(number, "") + letters.upper()
        yield from ({"sequence": sequence} for sequence in sequences.values())
        return
    with opened(file) as stream:
        for number, row in json_lines(stream, dict[str, Any]):
            if isinstance(row, NotJson) or not isinstance(row.get("sequence"), str):
                reason = f"{row}" if isinstance(row, NotJson) else "has no text 'sequence'"
                raise DataError(
                    f'{file}, line {number} {reason}; write rows such as {{"sequence": "EVQLVESGG..."}}, or FASTA.'
                )
            yield row


def _searched(sequence: str) -> str:
    """A chain -> its CDR3 by IMGT's numbering, "" where none is recognised. Raises RequestError without immunum."""
    try:
        library: Any = importlib.import_module("immunum")
    except ImportError as error:
        raise RequestError(
            "The CDR3 of a chain is searched with the package immunum: pip install 'unmask[antibody]', or give rows "
            'with "cdr3".'
        ) from error
    return _annotator(library).segment(sequence).cdr3 or ""


@cache
def _annotator(library: Any) -> Any:
    return library.Annotator(chains=["H", "K", "L"], scheme="imgt")


# ---- without a model -------------------------------------------------------------------------------------------------


def most_frequent(cdr3s: Iterable[str], length: int) -> str:
    """CDR3s and a length -> the most frequent residue at each position among the CDR3s of that length.

    Where there is none of that length, those of all lengths are aligned at the nearer end. Of equally frequent residues
    the first in alphabetical order is taken. Raises ValueError without CDR3s.
    """
    every = [cdr3 for cdr3 in cdr3s if cdr3]
    same = [cdr3 for cdr3 in every if len(cdr3) == length]
    text = ""
    for at in range(length):
        place = at if same or at < length / 2 else at - length
        counts = Counter(cdr3[place] for cdr3 in same or every if -len(cdr3) <= place < len(cdr3))
        counts = counts or Counter("".join(every))
        text += max(sorted(counts), key=counts.__getitem__)
    return text


_V_ENDS = ("AA", "AHR", "AK", "AKD", "AR", "ARI", "ARM", "AT", "AWI", "TR", "TT", "VK", "VR")
_J_BEGINNINGS = ("AEYFQH", "DAFDI", "DAFDV", "NWFDP", "NWFDS", "YFDY", "YWYFDL", "YYYYYGMDV", "YYYYYYMDV")
"""What the human genes IGHV and IGHJ encode of a CDR3, as in IMGT's reference directory."""


def germline_likeness(cdr3: str) -> float:
    """CDR3 of a human heavy chain -> the largest share of its residues that a V gene and a J gene encode.

    The residues of the V gene stand at the left end, those of the J gene at the right one; nothing in between counts,
    so that a CDR3 which no mutation has changed has a share below 1 too.
    """
    best, size = 0, len(cdr3)
    for left in _V_ENDS:
        for right in _J_BEGINNINGS:
            head = sum(a == b for a, b in zip(cdr3, left, strict=False))
            tail = cdr3[max(size - len(right), len(left)) :]
            best = max(best, head + sum(a == b for a, b in zip(reversed(tail), reversed(right), strict=False)))
    return best / size if size else 0.0
