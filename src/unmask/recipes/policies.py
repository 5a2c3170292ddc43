"""Recipes of policies: functions that return the settings of a training run; imported without torch."""

__all__ = [
    "RECIPES",
    "antibody",
    "automaton",
    "automaton_eos",
    "dream_7b_gsm8k",
    "dream_7b_gsm8k_whole",
    "dream_7b_humaneval",
    "dream_7b_math",
    "dream_7b_mbpp",
    "general",
    "learn2pd",
    "llada_8b_gsm8k",
    "llada_8b_gsm8k_whole",
    "llada_8b_humaneval",
    "llada_8b_math",
    "llada_8b_mbpp",
    "names",
    "paper",
    "published",
    "read",
    "sudoku",
]

from collections.abc import Callable

from unmask.config import from_dict
from unmask.disk.json import read_toml
from unmask.errors import ConfigError, did_you_mean
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.settings import LearnRun, LearnSettings


def antibody() -> LearnRun:
    """The CDR3 of human antibodies with Sapiens, a published model; docs/results.md has the outcome.

        unmask fetch sapiens && unmask fetch human-heavy-chains && unmask learn antibody

    A pass takes three times that of the automaton, and there are 135 validation problems: fewer rounds, of fewer
    problems. It takes about five minutes on one thread.
    """
    learn = LearnSettings(
        rounds=60, prompts=8, warm=20, scored=48, valid_prompts=48, valid_every=20, save_every=10, calibrated=135
    )
    return LearnRun("sapiens", "antibody-cdr3", learn=learn)


def automaton() -> LearnRun:
    """The calibrated automaton: tuned threshold rules are hard to beat.

    unmask learn automaton
    """
    return LearnRun("automaton", "automaton:traces=mixed")


def automaton_eos() -> LearnRun:
    """The EOS-heavy automaton on the whole canvas: heuristics fail, and a learned policy can be better.

    unmask learn automaton_eos
    """
    return LearnRun("automaton_eos", "automaton:traces=mixed")


def general() -> LearnRun:
    """One policy for several tasks, the automata and Sudoku: a mixture; --others TASK=CHECKPOINT ... names other pairs.

        unmask learn general

    32 attempts a round. The features do not depend on the size of the vocabulary, and the number of positions to fill
    is an input. Among the rules of the warm start is the one that writes everything in one pass: on some tasks it is
    the best, and validations are in units of the best rules.
    """
    learn = LearnSettings(
        rounds=600,
        prompts=4,
        group=8,
        warm=240,
        fastest=True,
        scored=32,
        pool=1024,
        valid_prompts=24,
        valid_every=100,
        calibrated=48,
        save_every=25,
    )
    others = ("automaton:traces=mixed=automaton", "sudoku=sudoku")
    policy = PolicySettings(entropy="bounded", length=True)
    return LearnRun("automaton_eos", "automaton:traces=mixed", policy, learn, others)


def learn2pd() -> LearnRun:
    """A filter by supervision (arXiv:2509.25188): which predictions are those of the final text? No rewards.

        unmask learn learn2pd

    Two layers over the confidences of all positions, about a thousand parameters, raw confidences, learning rate 3e-3
    as published; the published program takes many steps on a fixed set of labels, here each round has new problems, and
    50 steps on their labels. In use it is the policy filter:from=FOLDER.
    """
    return LearnRun(
        "automaton_eos",
        "automaton:traces=mixed",
        PolicySettings(network="mlp", features=("confidence",), scale="raw", priced=False),
        LearnSettings(rounds=0, warm=60, teacher="final", alphas=(0.0,)),
    )


def paper() -> LearnRun:
    """The published recipe (arXiv:2512.09106), one network per alpha, on the EOS-heavy automaton.

        unmask learn paper --learn.alphas 1

    331 thousand parameters, raw confidence as the only feature, no warm start, unscaled advantages, equal weights of
    all rollouts, temperature 1 on the whole canvas. The released code trains without a fallback: a pass may reveal
    nothing, and masks may remain. Here every pass reveals at least one token, in training and in use. Learning rate and
    rounds are chosen for this size.
    """
    return LearnRun(
        "automaton_eos",
        "automaton:traces=mixed",
        PolicySettings(width=128, features=("confidence",), scale="raw", priced=False),
        LearnSettings(
            alphas=(1.0,), scale="none", weight="rollouts", warm=0, entropy=0.0, lr=3e-4, weight_decay=0.1, max_norm=0.2
        ),
    )


_LLADA, _DREAM = "GSAI-ML/LLaDA-8B-Instruct", "Dream-org/Dream-v0-Instruct-7B"


def published(checkpoint: str, task: str, block_size: int | None = 32) -> LearnRun:
    """A published model and a task of 256 tokens -> the setting of arXiv:2512.09106; no block size is the whole canvas.

    The figures are those of the released configurations: 16 problems x 8 rollouts in a round, two updates, learning
    rate 3e-5 after 100 updates of warm-up with a cosine, AdamW (0.9, 0.99) with decay 0.1, norms below 0.2, ratios
    within 0.5, no entropy bonus, unscaled advantages, temperature of the policy 0.5 in blocks of 32 and 1 on the whole
    canvas. The network is that of `paper`. Each alpha has a policy of its own: --separate --learn.alphas 10 3 1 0.3 0.
    Ours are the number of rounds (an epoch of 7,473 problems), the 64 validation problems, and that each pass reveals
    at least one token in training too. Tokens are chosen greedily.
    """
    learn = LearnSettings(
        rounds=467,
        prompts=16,
        group=8,
        alphas=(1.0,),
        block_size=block_size,
        scale="none",
        weight="rollouts",
        clip=0.5,
        inner=2,
        temperature=1.0 if block_size is None else 0.5,
        entropy=0.0,
        lr=3e-5,
        warmup=50,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        max_norm=0.2,
        warm=0,
        pool=7473,
        valid_prompts=64,
        calibrated=64,
        seed=123,
        batch=32,
        dtype="bfloat16",
    )
    policy = PolicySettings(width=128, features=("confidence",), scale="raw", priced=False)
    return LearnRun(checkpoint, task, policy, learn)


_GSM8K = "gsm8k:path=gsm8k,prompt=chat"
_MATH = "math-500:path=math-500,prompt=chat"
_HUMANEVAL = "humaneval:prompt=chat"
_MBPP = "mbpp:path=mbpp.jsonl,prompt=chat"


def llada_8b_gsm8k() -> LearnRun:
    """LLaDA-8B-Instruct on GSM8K in blocks of 32 (arXiv:2512.09106); the problems are in the folder gsm8k.

    unmask learn llada_8b_gsm8k --dry
    """
    return published(_LLADA, _GSM8K)


def llada_8b_gsm8k_whole() -> LearnRun:
    """LLaDA-8B-Instruct on GSM8K, all 256 positions at once (arXiv:2512.09106).

    unmask learn llada_8b_gsm8k_whole --dry
    """
    return published(_LLADA, _GSM8K, None)


def llada_8b_math() -> LearnRun:
    """LLaDA-8B-Instruct on MATH-500, which is for evaluation; with train in the folder math-500 also for training.

    unmask frontier llada_8b_math --dry
    """
    return published(_LLADA, _MATH)


def llada_8b_humaneval() -> LearnRun:
    """LLaDA-8B-Instruct on HumanEval without examples, for evaluation.

    unmask frontier llada_8b_humaneval --dry
    """
    return published(_LLADA, _HUMANEVAL)


def llada_8b_mbpp() -> LearnRun:
    """LLaDA-8B-Instruct on MBPP with three examples, for evaluation; the problems are in the file mbpp.jsonl.

    unmask frontier llada_8b_mbpp --dry
    """
    return published(_LLADA, _MBPP)


def dream_7b_gsm8k() -> LearnRun:
    """Dream-7B-Instruct on GSM8K in blocks of 32 (arXiv:2512.09106, appendix B.4).

    unmask learn dream_7b_gsm8k --dry
    """
    return published(_DREAM, _GSM8K)


def dream_7b_gsm8k_whole() -> LearnRun:
    """Dream-7B-Instruct on GSM8K, all 256 positions at once (arXiv:2512.09106, appendix B.4).

    unmask learn dream_7b_gsm8k_whole --dry
    """
    return published(_DREAM, _GSM8K, None)


def dream_7b_math() -> LearnRun:
    """Dream-7B-Instruct on MATH-500, as llada_8b_math.

    unmask frontier dream_7b_math --dry
    """
    return published(_DREAM, _MATH)


def dream_7b_humaneval() -> LearnRun:
    """Dream-7B-Instruct on HumanEval, as llada_8b_humaneval.

    unmask frontier dream_7b_humaneval --dry
    """
    return published(_DREAM, _HUMANEVAL)


def dream_7b_mbpp() -> LearnRun:
    """Dream-7B-Instruct on MBPP, as llada_8b_mbpp.

    unmask frontier dream_7b_mbpp --dry
    """
    return published(_DREAM, _MBPP)


def sudoku() -> LearnRun:
    """Sudoku 6x6: the order of reveals matters, and every most-confident-first rule does well.

    unmask learn sudoku
    """
    return LearnRun("sudoku", "sudoku")


RECIPES: dict[str, Callable[[], LearnRun]] = {
    "antibody": antibody,
    "automaton": automaton,
    "automaton_eos": automaton_eos,
    "dream_7b_gsm8k": dream_7b_gsm8k,
    "dream_7b_gsm8k_whole": dream_7b_gsm8k_whole,
    "dream_7b_humaneval": dream_7b_humaneval,
    "dream_7b_math": dream_7b_math,
    "dream_7b_mbpp": dream_7b_mbpp,
    "general": general,
    "learn2pd": learn2pd,
    "llada_8b_gsm8k": llada_8b_gsm8k,
    "llada_8b_gsm8k_whole": llada_8b_gsm8k_whole,
    "llada_8b_humaneval": llada_8b_humaneval,
    "llada_8b_math": llada_8b_math,
    "llada_8b_mbpp": llada_8b_mbpp,
    "paper": paper,
    "sudoku": sudoku,
}


def names() -> dict[str, str]:
    """The name of every recipe -> the first line of its docstring."""
    return {name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()}


def read(name_or_path: str) -> LearnRun:
    """The name of a recipe, or a .toml file with checkpoint, task and the tables policy and learn -> the settings.

    Raises:
        ConfigError: for an unknown name, or an unknown key or impossible value in the file.
    """
    if name_or_path.endswith(".toml"):
        return from_dict(LearnRun, read_toml(name_or_path), name_or_path)
    if name_or_path not in RECIPES:
        raise ConfigError(f"There is no policy recipe named '{name_or_path}'; {did_you_mean(name_or_path, RECIPES)}")
    return RECIPES[name_or_path]()
