# ruff: noqa: E501, SIM115 (a record of what was run)
"""How the golden artefacts of release 0.1.0 were made (with its code, which this runs on and on no other).

They are what users have saved, so they are never made again: tests/test_golden.py says what later releases owe them.

    git worktree add /tmp/release 60df560 && cd /tmp/release && python /path/to/tests/golden/make.py FOLDER
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml

SMALL = [
    "--env_name=pointmass-scripted-low_dim", "--dataset=demos.hdf5", "--action_chunking=True", "--hidden_width=16",
    "--hidden_depth=2", "--flow_steps=4", "--device=cpu", "--threads=1", "--workers=1", "--batch_size=32",
]  # fmt: skip
STOPPED = [
    *SMALL, "--training_steps=120", "--horizon_length=8", "--obs_steps=2", "--lr=3e-3", "--lr_schedule=plateau",
    "--plateau_patience=0", "--watch_interval=10", "--ema_decay=0.9", "--weight_decay=0.01", "--grad_clip=1.0",
    "--use_fourier_features=True", "--eval_interval=40", "--eval_episodes=5", "--save_interval=30", "--log_interval=10",
    "--accumulate=2", "--holdout_seed=0",
]  # fmt: skip
SWEEP = {
    "name": "golden",
    "train": {
        "env_name": "pointmass-scripted-low_dim", "dataset": "demos.hdf5", "training_steps": 120, "batch_size": 32,
        "log_interval": 20, "lr": 3e-3, "action_chunking": True, "horizon_length": 8, "hidden_width": 16,
        "hidden_depth": 2, "device": "cpu",
    },
    "space": {
        "lr": {"low": 1e-3, "high": 1e-1, "log": True},
        "horizon_length": {"values": [4, 8]},
        "flow_steps": {"values": [1, 4]},
    },
    "seeds": [0, 3],
    "search": {"trials": 5, "max_concurrent": 1},
    "eval": {"episodes": 6, "evaluations": 3},
    "final": {"top": 1, "episodes": 8, "videos": 0},
    "resources": {"workers": 1, "worker_cpus": 0.2, "trial_cpus": 0.2},
}  # fmt: skip


def weights_sha(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 over the values alone, in the order of the (release 0.1.0) names."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        h.update(np.ascontiguousarray(tensors[name].numpy()).tobytes())
    return h.hexdigest()


def bundle_sha(folder: Path) -> str:
    from safetensors.torch import load_file

    return weights_sha(load_file(folder / "policy.safetensors"))


def raybc(module: str, *flags: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", f"raybc.{module}", *flags], text=True, start_new_session=True)


def run(module: str, *flags: str) -> None:
    assert raybc(module, *flags).wait() == 0, (module, flags)


def kill_when(process: subprocess.Popen[str], is_due: object) -> None:
    while not is_due():
        assert process.poll() is None, "over before it was killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)


def table(path: Path, *columns: str) -> list[dict[str, str]]:
    import csv

    return [{c: row[c] for c in columns} for row in csv.DictReader(path.open())]


def main(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    torch.set_num_threads(1)
    expected: dict[str, object] = {}
    run("demos", "pointmass", "--episodes=12", "--out=demos.hdf5", "--workers=1")

    # 1. a training run, killed in its middle, and what it is at its end
    out = Path("train")
    run("train", *STOPPED, "--out=whole")
    process = raybc("train", *STOPPED, f"--out={out}")
    kill_when(process, lambda: (out / "checkpoint_60").exists() and (out / "state.safetensors").exists())
    assert not (out / "checkpoint_90").exists()
    expected["train"] = {
        "flags": STOPPED,
        "weights": bundle_sha(Path("whole/final_model")),
        "train.csv": table(
            Path("whole/train.csv"), "step", "train/actor_loss", "train/bc_flow_loss", "train/lr", "valid/loss"
        ),
        "eval.csv": table(
            Path("whole/eval.csv"), "step", "eval/success", "eval/return", "eval/length", "episodes", "errors"
        ),
    }
    for junk in (out / "tensorboard", out / "ray_train"):
        shutil.rmtree(junk, ignore_errors=True)

    # 2. a pack's state
    from raybc.config import RunConfig
    from raybc.data.load import read_for
    from raybc.envs.pointmass import POINTMASS
    from raybc.train.data import TrainingData
    from raybc.train.loop import PackTrainer

    env = POINTMASS.make(None)
    store = read_for(Path("demos.hdf5"), "pointmass")
    data = TrainingData(store, store.fingerprint(), POINTMASS.obs_keys, env.identity())

    def trainer(members: list[RunConfig]) -> PackTrainer:
        return PackTrainer(members, data, torch.device("cpu"))

    base = RunConfig(
        env_name="pointmass-scripted-low_dim", dataset="demos.hdf5", training_steps=80, batch_size=16, log_interval=5,
        action_chunking=True, horizon_length=4, hidden_width=12, hidden_depth=2, device="cpu", freeze="field.layers.0",
        freeze_steps=50, watch_interval=8,
    )  # fmt: skip
    members = [
        base,
        dataclasses.replace(base, seed=1, lr=1e-2, lr_schedule="cosine", warmup_steps=5, weight_decay=0.1),
        dataclasses.replace(
            base, seed=7, lr=3e-3, lr_schedule="plateau", plateau_patience=0, stop_patience=4, ema_decay=0.5
        ),
    ]
    losses: list[list[float]] = []
    pack = trainer(members)
    pack.advance(37, lambda step, loss, _: losses.append([step, *loss]))
    pack.save_state(Path("pack/state.safetensors"))
    pack.advance(80, lambda step, loss, _: losses.append([step, *loss]))
    expected["pack"] = {
        "members": [dataclasses.asdict(m) for m in members],
        "losses": losses,
        "weights": [weights_sha(dict(pack.bundle(m).weights)) for m in range(3)],
        "rates": pack.rates,
    }

    # 3. a bundle, and episodes with it
    trained = dataclasses.replace(
        base, training_steps=600, batch_size=128, horizon_length=8, hidden_width=32, lr=1e-2, freeze="", freeze_steps=-1,
        lr_schedule="cosine",
    )  # fmt: skip
    good = trainer([trained])
    good.advance(600)
    good.bundle(0).save(Path("bundle"))
    from raybc.rollout.agent import Agent
    from raybc.rollout.episode import run_episode
    from raybc.types import EpisodeSpec, SampleSetting

    agent = Agent(good.bundle(0))
    settings = [
        SampleSetting(4), SampleSetting(1, 4), SampleSetting(4, 2, 0.5), SampleSetting(2, 0, 0.0, 0.01),
    ]  # fmt: skip
    rows = []
    for setting in settings:
        for index in range(8):
            row = run_episode(
                env, agent, EpisodeSpec("pointmass", "final", index), setting, POINTMASS.max_steps
            ).to_row()
            rows.append({k: row[k] for k in ("index", "outcome", "return", "max_reward", "steps")})
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(4, 1, sum(good.bundle(0).obs_sizes.values()))).astype(np.float32)
    noise = rng.normal(size=(4, 8, 2)).astype(np.float32)
    expected["bundle"] = {
        "run_id": good.bundle(0).run_id,
        "settings": [dataclasses.asdict(s) for s in settings],
        "episodes": rows,
        "chunks": agent.chunks(obs, noise, 4).tolist(),
    }

    # 4. a policy of images (its weights are too many to be kept: they are trained again)
    seen = dataclasses.replace(
        base, env_name="pointmass-scripted-image", encoder="impala_small", training_steps=3, freeze="", freeze_steps=-1,
        log_interval=1, seed=5, dataset="",
    )  # fmt: skip
    from raybc.envs.pointmass import POINTMASS_PIXELS
    from tests.helpers import demonstrations

    pixels = demonstrations(POINTMASS_PIXELS, 3)
    image_data = TrainingData(
        pixels, pixels.fingerprint(), POINTMASS_PIXELS.obs_keys, POINTMASS_PIXELS.make(None).identity()
    )
    looking = PackTrainer([seen], image_data, torch.device("cpu"))
    image_losses: list[list[float]] = []
    looking.advance(3, lambda step, loss, _: image_losses.append([step, *loss]))
    looking.bundle(0).save(Path("image"))
    expected["image"] = {
        "config": dataclasses.asdict(seen), "losses": image_losses, "weights": bundle_sha(Path("image")),
        "fingerprint": image_data.fingerprint,
    }  # fmt: skip
    (Path("image") / "policy.safetensors").unlink()

    # 5. a sampling plan, and a training with it
    run(
        "plan",
        "build",
        "--dataset=demos.hdf5",
        "--num-episodes-keep=6",
        "--horizon_length=8",
        "--batch_size=32",
        "--out-dir=plan",
    )
    planned = dataclasses.replace(
        trained, training_steps=40, sampling_plan_path="plan", plan_aware_lr_scale=True, plan_target_effective_repeat=1.0,
        batch_size=32, log_interval=10,
    )  # fmt: skip
    plan_losses: list[list[float]] = []
    one = trainer([planned])
    one.advance(40, lambda step, loss, _: plan_losses.append([step, *loss]))
    expected["plan"] = {
        "plan_sha256": json.loads(Path("plan/plan_meta.json").read_text())["plan_sha256"],
        "config": dataclasses.asdict(planned),
        "losses": plan_losses,
        "weights": weights_sha(dict(one.bundle(0).weights)),
    }

    # 6. a converted set
    run("data", "convert", "demos.hdf5", "--out=converted")
    expected["converted"] = {"fingerprint": store.fingerprint()}

    # 7. a sweep, killed in its middle, and what it is at its end
    Path("golden.yaml").write_text(yaml.safe_dump(SWEEP))
    run("sweep", "golden.yaml", "--out=whole_sweep", "--cpus=2")
    out = Path("sweep")
    process = raybc("sweep", "golden.yaml", f"--out={out}", "--cpus=2")

    def events() -> list[dict[str, object]]:
        path = out / "ledger.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines[:-1]]

    # killed in trial 3, after its first evaluation
    kill_when(process, lambda: any(e["event"] == "evaluation" and e["trial"] == 3 for e in events()))
    whole = [json.loads(line) for line in Path("whole_sweep/ledger.jsonl").read_text().splitlines()]
    expected["sweep"] = {
        "yaml": SWEEP,
        "starts": [e for e in whole if e["event"] == "start"],
        "evaluations": [
            {k: e[k] for k in ("trial", "evaluation", "step", "status", "score")}
            for e in whole
            if e["event"] == "evaluation"
        ],
        "episodes": [
            {k: r[k] for k in ("trial", "seed", "evaluation", "flow_steps", "episode_list")}
            for e in whole
            if e["event"] in ("evaluation", "final")
            for r in e["rows"]
        ],
        "winner": {
            k: v
            for k, v in json.loads(Path("whole_sweep/winner.json").read_text()).items()
            if k in ("trial", "seed", "setting")
        },
        "weights": bundle_sha(Path("whole_sweep/winner")),
    }
    for junk in ("tensorboard", "tune"):
        shutil.rmtree(out / junk, ignore_errors=True)

    # 8. a measurement, killed in its middle
    process = raybc("rollout", "bundle", "--episodes=400", "--workers=1", "--out=rollout")
    partial = Path("rollout/episodes.partial.jsonl")
    kill_when(process, lambda: partial.exists() and len(partial.read_text().splitlines()) >= 30)
    expected["made_on"] = {
        "release": "0.1.0", "torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(),
        "cpu": next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        "capability": torch.backends.cpu.get_cpu_capability(), "python": platform.python_version(),
    }  # fmt: skip
    for junk in ("whole", "whole_sweep", "golden.yaml"):
        path = Path(junk)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # Kept small: what a sweep has deleted sooner or later anyway, and most of the episodes.
    for pattern in (
        "trials/000[01]/seed_*/checkpoint_80",
        "trials/000[01]/state_00000080*",
        "trials/0000/state*",
        "trials/0002/state*",
    ):
        for path in Path("sweep").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    partial.write_text("".join(partial.read_text().splitlines(keepends=True)[:30]))
    Path("expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    main(Path(sys.argv[1]).absolute())
