"""Does a policy read its instruction, and does fine-tuning save steps? On tasks of one scene, where only words differ.

    for n in 0 1 2 3 4 5; do raybc demos libero_object_scene0-$n --episodes 50 --out demos/libero_object_scene0; done
    python -m benchmarks.instructions words demos/libero_object_scene0 runs/words
    python -m benchmarks.instructions finetune demos/libero_object_scene0 runs/finetune

`words`: one policy on all tasks, with each --language. It is measured on the same starts with the right instruction,
and with a wrong one, that of the next task in the list. The table has the success rate with its Wilson interval.

`finetune`: a policy of the last task, of --few demonstrations and four seeds, from random weights and from those of a
policy that was trained on the other tasks. The table has the success of all seeds at each checkpoint, and the steps
after which a seed first reaches --reach.

What is done is kept in OUT, so a second call continues where the first one ended.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from raybc.registry import get_task
from raybc.statistics import wilson_interval
from raybc.suites import tasks_of

LANGUAGES = ("minilm", "one_hot", "none")
POLICY = (
    "--policy=regression", "--hidden_width=512", "--hidden_depth=4", "--action_chunking", "--horizon_length=16",
    "--execute_steps=8", "--normalization=min_max", "--lr_schedule=cosine", "--ema_decay=0.999", "--threads=1",
    "--device=cpu", "--save_interval=-1", "--resume=auto",
)  # fmt: skip


def raybc(*words: object) -> None:
    subprocess.run(
        [sys.executable, "-m", *map(str, words)], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def outcomes(folder: Path) -> list[bool]:
    rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    return [row["outcome"] == "success" for row in rows if row["outcome"] != "error"]


def rate(wins: Sequence[bool]) -> str:
    low, high = wilson_interval(sum(wins), len(wins))
    return f"{100 * sum(wins) / len(wins):.1f} % ({100 * low:.0f}-{100 * high:.0f}; {sum(wins)}/{len(wins)})"


def measure(run: Path, task: str, instruction: str, args: argparse.Namespace, name: str) -> list[bool]:
    out = run / name / task
    if not (out / "metrics.json").is_file():
        words = [f"--instruction={instruction}"] if instruction else []
        raybc("raybc.rollout", run, "--tasks", task, f"--episodes_per_task={args.episodes}", *words, f"--out={out}",
              "--resume=auto", f"--workers={args.workers}")  # fmt: skip
    return outcomes(out)


def words(args: argparse.Namespace) -> None:
    tasks = args.tasks or tasks_of(args.suite)
    texts = [get_task(task).instruction for task in tasks]
    print("| `--language` | right instruction | wrong instruction |\n|---|---|---|")
    for language in args.languages:
        run = args.out / language
        raybc("raybc.train", f"--env_name={tasks[0]}", f"--dataset={args.data}", f"--language={language}", *POLICY,
              f"--training_steps={args.steps}", "--batch_size=256", "--lr=1e-3", "--eval_interval=0",
              f"--out={run}")  # fmt: skip
        reads = language != "none"
        right = [won for task in tasks for won in measure(run, task, "", args, "right")]
        wrong = [
            won
            for k, task in enumerate(tasks)
            for won in (measure(run, task, texts[(k + 1) % len(texts)], args, "wrong") if reads else [])
        ]
        print(f"| `{language}` | {rate(right)} | {rate(wrong) if reads else 'the same'} |", flush=True)


def finetune(args: argparse.Namespace) -> None:
    tasks = args.tasks or tasks_of(args.suite)
    *others, new = tasks
    files = {task: next(args.data.glob(f"{task}_demo*")) for task in tasks}
    before = args.out / "others"
    if not before.is_dir():
        before.mkdir(parents=True)
        for task in others:
            shutil.copy(files[task], before / files[task].name)
    few = (f"--dataset={files[new]}", f"--dataset_proportion={args.few / 50:g}", "--language=minilm")
    pretrained = args.out / "pretrained"
    raybc("raybc.train", f"--env_name={others[0]}", f"--dataset={before}", "--language=minilm", *POLICY, "--lr=1e-3",
          f"--training_steps={args.steps}", "--batch_size=256", "--eval_interval=0", f"--out={pretrained}")  # fmt: skip
    every = args.finetune_steps // args.checkpoints
    steps = " | ".join(f"{every * (k + 1)} steps" for k in range(args.checkpoints))
    print(f"| start | {steps} | steps to {args.reach:g} |")
    print(f"|{'---|' * (args.checkpoints + 2)}")
    for name, more in (("random weights", []), ("fine-tuned", [f"--init_from={pretrained}"])):
        out = args.out / name.replace(" ", "_")
        raybc("raybc.train", f"--env_name={new}", *few, *POLICY, *more, "--seeds", 0, 1, 2, 3, "--batch_size=64",
              f"--lr={args.lr:g}", f"--training_steps={args.finetune_steps}", f"--eval_interval={every}",
              f"--eval_episodes={args.episodes}", f"--workers={args.workers}", f"--out={out}")  # fmt: skip
        rates = []
        for member in sorted(out.glob("sd*")):
            with (member / "eval.csv").open(newline="") as handle:
                rates.append({int(row["step"]): float(row["eval/success"]) for row in csv.DictReader(handle)})
        n = args.episodes * len(rates)
        columns = []
        for k in range(args.checkpoints):
            mean = sum(of[every * (k + 1)] for of in rates) / len(rates)
            low, high = wilson_interval(round(mean * n), n)
            columns.append(f"{100 * mean:.0f} % ({100 * low:.0f}-{100 * high:.0f})")
        first = [next((str(s) for s in sorted(of) if of[s] >= args.reach), "never") for of in rates]
        print(f"| {name} | {' | '.join(columns)} | {', '.join(first)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("words", "finetune"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", default="libero_object_scene0")
    parser.add_argument("--tasks", nargs="+", default=[], help="some tasks of the scene")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=LANGUAGES)
    parser.add_argument("--steps", type=int, default=6000, help="of the policy of all (or all other) tasks")
    parser.add_argument("--episodes", type=int, default=10, help="for each task, or each seed and checkpoint")
    parser.add_argument("--few", type=int, default=10, help="demonstrations of the last task")
    parser.add_argument("--finetune_steps", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--reach", type=float, default=0.8)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    {"words": words, "finetune": finetune}[args.what](args)


if __name__ == "__main__":
    main()
