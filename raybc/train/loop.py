"""`PackTrainer`: the seeds of one recipe, trained together; knows nothing of Ray or of simulators.

Letters: M members, N transitions, O observation dim, A action dim.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raybc.bundle import PolicyBundle, build_policy
from raybc.config import RunConfig
from raybc.data.episodes import EpisodeStore
from raybc.data.normalize import Normalizer
from raybc.data.windows import Windows
from raybc.files import replacing
from raybc.policies.base import PolicyShape
from raybc.train.step import Draws, NonFiniteLoss, generator, train_step
from raybc.types import UserError

OnLog = Callable[[int, list[float], float], None]


@dataclass(frozen=True)
class TrainingData:
    """A store together with what the environment says about it."""

    store: EpisodeStore
    fingerprint: str
    obs_keys: tuple[str, ...]
    environment: dict[str, str]


class PackTrainer:
    """Trains M = len(seeds) members of one recipe side by side.

    `config.seed` is ignored; member m is the run `replace(config, seed=seeds[m])`. The same member has the same random
    numbers in every pack.
    """

    def __init__(self, config: RunConfig, seeds: Sequence[int], data: TrainingData, device: torch.device) -> None:
        store = data.store
        horizon = config.chunk_length
        longest = int((store.episode_ends - store.episode_starts).max())
        if horizon > longest:
            raise UserError(
                f"horizon_length: expected at most the longest episode of {store.source} ({longest} steps), "
                f"got {horizon}"
            )
        self.config, self.seeds, self.data, self.device = config, tuple(seeds), data, device
        obs_NO = store.observation(data.obs_keys)
        episodes = store.split("train")
        if not len(episodes):
            raise UserError(f"{store.source}: mask/train: expected at least one episode to train on, got none")
        rows = [slice(store.episode_starts[e], store.episode_ends[e]) for e in episodes]
        train_rows = torch.cat([torch.arange(r.start, r.stop) for r in rows]).numpy()
        self.obs_normalizer = Normalizer.fit(obs_NO[train_rows], config.normalization)
        self.action_normalizer = Normalizer.fit(store.actions_NA[train_rows], config.normalization)
        self.windows = Windows.build(
            self.obs_normalizer.apply(obs_NO),
            self.action_normalizer.apply(store.actions_NA),
            store.episode_ends,
            episodes,
            horizon,
            device,
            config.obs_steps,
        )
        self.obs_sizes = {k: store.obs[k].shape[1] for k in data.obs_keys}
        shape = PolicyShape(config.obs_steps * obs_NO.shape[1], store.actions_NA.shape[1], horizon)
        self.policy = build_policy(config, shape, len(self.seeds))
        # Weights are drawn on the CPU: the same start on every device.
        self.policy.init_members([generator(torch.device("cpu"), s, "init") for s in self.seeds])
        self.policy.to(device)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.draws = Draws(self.policy, len(self.windows.starts), config.batch_size, self.seeds, device)
        self.step = 0

    def member_config(self, m: int) -> RunConfig:
        return dataclasses.replace(self.config, seed=self.seeds[m])

    def advance(self, until: int, on_log: OnLog | None = None) -> None:
        """Train to step `until`; `on_log(step, loss of each member, steps per second)` every log_interval steps."""
        started, done = time.perf_counter(), self.step
        while self.step < until:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.config, self.step)
            try:
                loss_M = train_step(
                    self.policy, self.optimizer, self.windows, self.draws.at(self.step), self.config.grad_clip
                )
            except NonFiniteLoss as error:
                raise NonFiniteLoss(
                    f"step {self.step + 1}, seeds {list(self.seeds)}, lr {self.config.lr:g}: {error}; "
                    "lower lr or set grad_clip"
                ) from None
            self.step += 1
            if on_log is not None and (self.step % self.config.log_interval == 0 or self.step == until):
                now = time.perf_counter()
                on_log(self.step, loss_M.tolist(), (self.step - done) / (now - started))
                started, done = now, self.step

    def bundle(self, m: int) -> PolicyBundle:
        """Member m as it is now."""
        return PolicyBundle(
            config=self.member_config(m),
            step=self.step,
            obs_sizes=self.obs_sizes,
            action_size=self.data.store.actions_NA.shape[1],
            obs_normalizer=self.obs_normalizer,
            action_normalizer=self.action_normalizer,
            weights={k: v[m : m + 1].detach().cpu().clone() for k, v in self.policy.state_dict().items()},
            data_fingerprint=self.data.fingerprint,
            environment=self.data.environment,
            data_env=self.data.store.env_args,
        )

    def _identity(self) -> str:
        ids = [self.member_config(m).run_id(self.data.fingerprint) for m in range(len(self.seeds))]
        return json.dumps(ids)

    def save_state(self, path: Path) -> None:
        """Everything that training goes on from, in one safetensors file, whole or absent."""
        tensors = {f"policy/{k}": v for k, v in self.policy.state_dict().items()}
        for i, parameter in enumerate(self.policy.parameters()):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{i}/{key}"] = value
        metadata = {"step": str(self.step), "runs": self._identity()}
        with replacing(path) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)

    def load_state(self, path: Path) -> None:
        """Go on from a saved state bit for bit; a state of another configuration or data is refused."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not readable as a training state: {error}") from None
        if metadata.get("runs") != self._identity():
            raise UserError(
                f"{path}: belongs to the runs {metadata.get('runs')}, not to {self._identity()}: "
                "another configuration, data or seeds; use --overwrite to start anew"
            )
        step = metadata.get("step", "")
        expected = {f"policy/{k}": v.shape for k, v in self.policy.state_dict().items()}
        if step != "0":
            for i, p in enumerate(self.policy.parameters()):
                expected[f"optimizer/{i}/step"] = torch.Size()
                expected |= {f"optimizer/{i}/{k}": p.shape for k in ("exp_avg", "exp_avg_sq")}
        got = {k: v.shape for k, v in tensors.items()}
        if not step.isdigit() or got != expected:
            differing = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
            raise UserError(
                f"{path}: not readable as a training state: expected step and {len(expected)} arrays, "
                f"got step {step!r} and differing arrays {differing[:3]}"
            )
        self.policy.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("policy/")}, strict=True)
        for i, parameter in enumerate(self.policy.parameters()):
            prefix = f"optimizer/{i}/"
            state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            if state:
                self.optimizer.state[parameter] = {
                    k: v if k == "step" and self.device.type == "cpu" else v.to(self.device) for k, v in state.items()
                }
        self.step = int(step)


def learning_rate(config: RunConfig, step: int) -> float:
    """Learning rate of gradient step `step` (from 0) of N = training_steps; a function of the step alone, so that
    training goes on exactly.

    cosine: lr (step + 1) / W in the first W = clamp(max(50, round(0.03 N)), 1, N / 2) steps, then
    min_lr + (lr - min_lr) (1 + cos(pi (step - W) / (N - W))) / 2  (Loshchilov and Hutter 2017, SGDR, without restarts).
    """
    if config.lr_schedule == "constant":
        return config.lr
    total = config.training_steps
    warmup = max(1, min(max(50, round(0.03 * total)), total // 2))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * share)) / 2


def pick_device(name: str) -> torch.device:
    """`auto` is cuda where there is one; a device that is not there is refused."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: expected cpu, cuda, cuda:N or auto, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {name!r} asked for, but this PyTorch sees no CUDA device; use --device=cpu")
    return device
