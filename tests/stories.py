"""The commands of a page, typed in order in one folder.

A reader types a page from top to bottom, so each page is a story: one folder, real parts, nothing mocked. What differs
from the page, all of it visible here:

- budgets are small (`small`): a few steps, episodes, trials and examples, one simulator process;
- a server is started on any free port, asked once, and stopped with Ctrl-C;
- what a command needs from elsewhere (a suite's environment, weights, a cluster) is in `NEEDS` with the reason;
- a command with `...` or a word in capitals (RUN, BUNDLE) shows a pattern and is not typed as it stands.

The flags of every command, typed or not, are those that the command has (test_documents.py).
"""

from __future__ import annotations

import re
import shlex

#: Part of a command -> why no test types it.
NEEDS = {
    r"^make (quickstart|test)\b": "sets up a virtual environment; continuous integration runs it",
    r"^(python3? -m venv|git clone|source) ": "sets up a virtual environment",
    r"^(pip|export|ray|mkdir|optuna-dashboard|tail) ": "the shell, or a program of others",
    r"libero|demos/scene0": "the environment of LIBERO (raybc env build libero)",
    r"^raybc env (build|remove|check)": "builds environments of simulators, with downloads",
    r"openpi:|vla-eval:": "a policy server of others",
    r"lerobot:outputs|outputs/train|--lerobot|runs/imported": "a checkpoint of LeRobot's (test_lerobot_*.py)",
    r"managed_bc|resnet18-f37072fd|\.dino|--pretrained": "weights of others, which are downloaded",
    r"lerobot/pusht|dp_unet|flow_unet_pusht": "the published demonstrations of PushT, which are downloaded",
    r"visual-cube|hopper\b|halfcheetah": "published demonstrations, which are downloaded",
    r"lift-mh|can-mh|can-ph|can_abs|lift-human|lift_abs|robot-set": "recordings of the reader's own",
    r"\b(demo|lift|metres|arm)\.hdf5": "recordings of the reader's own",
    r"\bbenchmarks\.": "hours (benchmarks)",
    r"runs/(new|old|q)\b|runs/rollouts|eval_info|results\.csv": "runs of the reader's own (test_compare.py)",
    r"metaworld": "the package metaworld and a GL library (test_envs_metaworld.py)",
    r"raybc cluster slurm": "a SLURM cluster (test_slurm.py)",
    r"raybc\.doctor cluster\.yaml --sweep|--address": "a cluster",
    r"--push_to_hub me/lift$": "an account of the Hugging Face Hub",
    r"-m raybc\.sweep sweeps/pointmass\.yaml --dashboard": "serves until it is stopped (test_dashboard.py)",
}

_PATTERN = re.compile(r"\.\.\.|(?<![\w/.=-])(?:RUN|BUNDLE|DIR|FILE|PLAN|NAME|CASES|BASE|A|B)(?![\w.])|runs/NAME")


def why_not(command: str) -> str:
    """Why no test types a command; "" if one does."""
    typed = shlex.join(shlex.split(command, comments=True))
    if _PATTERN.search(typed):
        return "a pattern"
    return next((reason for part, reason in NEEDS.items() if re.search(part, typed)), "")


def small(words: list[str]) -> list[str]:
    """The command with small budgets; the order of budgets of a page stays, so a run can be extended."""
    joined = [re.sub(r"^(--[\w-]+)=", r"\1 ", w).split(" ", 1) if w.startswith("--") else [w] for w in words]
    words = [part for parts in joined for part in parts]
    name = words[0]
    capped: dict[str, object] = {}
    if name == "train" and "--help" not in words:
        steps = int(_value(words, "--training_steps", "20000" if "--config" in words else "0"))
        two_cameras = "flow_unet_lift_image" in words  # a ResNet-18 for each: a step takes many seconds on a CPU
        capped = {
            "--training_steps": 2 if two_cameras else 20 + steps // 1000,
            "--batch_size": 8,
            "--eval_episodes": 2,
            "--workers": 1,
            "--threads": 1,
        }
        recorded = "scripted" in _value(words, "--env_name", "") or "--config" in words or two_cameras
        if recorded and "--dataset" not in words:
            capped |= {"--demos": 4}
        if "--eval_interval" in words:
            capped |= {"--eval_interval": 20}
        if "flow_unet" in words or two_cameras:
            capped |= {"--unet_channels": "16,32"}
        if "flow_transformer" in words:
            capped |= {"--transformer_size": "tiny"}
    elif name == "demos":
        capped = {"--episodes": 4, "--workers": 1}
    elif name == "rollout":
        capped = {"--workers": 1}
        if "--until_halfwidth" in words:
            capped |= {"--until_halfwidth": 0.3}
        elif "--tasks" in words:
            capped |= {"--episodes_per_task": 3}
        else:
            capped |= {"--episodes": 3}
        if "--videos" in words:
            capped |= {"--videos": 1}
    elif name == "compare" and "--plan" not in words:
        capped = {"--episodes_per_task" if "--tasks" in words else "--episodes": 6, "--workers": 1}
    elif name == "plan" and words[1] == "build":
        capped = {"--num-episodes-keep": 2, "--batch-size": 8}
    elif name == "data" and words[1] == "quality":
        trained = "--classifier" in words  # a classifier that is there is not trained
        capped = {"--ensemble_steps": 5} if trained else {"--ensemble_steps": 5, "--epochs_per_round": 2}
    elif name in ("serve", "dashboard"):
        capped = {"--port": 0}
    elif name == "sweep":
        return _small_sweep(words)
    for flag, value in capped.items():
        words = [*_without(words, flag), flag, str(value)]
    return words


#: The budget of every sweep.
SWEEP = (
    "train.training_steps=20", "train.batch_size=8", "search.trials=2", "search.max_concurrent=1", "eval.episodes=2",
    "eval.evaluations=1", "final.top=1", "final.episodes=3", "final.videos=1", "demos.episodes=4",
    "resources.workers=1", "resources.worker_cpus=0.5", "resources.trial_cpus=0.5",
)  # fmt: skip


def _small_sweep(words: list[str]) -> list[str]:
    if "--check" in words:
        return words
    given = [w for w in words if re.match(r"[\w.]+=", w)]
    kept = [w for w in words if w != "--set" and w not in given]
    trainer = any("their" in w or "my_sweep" in w for w in words)
    budget = [b for b in SWEEP if not (trainer and "batch_size" in b)]
    return [*kept, *(word for value in budget for word in ("--set", value))]


def _value(words: list[str], flag: str, default: str) -> str:
    return words[words.index(flag) + 1] if flag in words else default


def _without(words: list[str], flag: str) -> list[str]:
    """Without a flag and its value."""
    if flag not in words:
        return words
    at = words.index(flag)
    return words[:at] + words[at + 2 :]
