"""`PackTrainer`: members of one recipe, trained together; knows nothing of Ray or of simulators.

Letters: M members, N transitions, O observation dim, A action dim, B batch.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from raybc.config import MEMBER_FIELDS, RunConfig
from raybc.data.windows import Windows
from raybc.policies.base import PolicyShape
from raybc.policies.build import build_policy
from raybc.train.data import TrainingData, prepare, resolved
from raybc.train.dtensor import gather_full, shard_like
from raybc.train.optimizer import Ema, PackOptimizer
from raybc.train.plans import lr_scale_of, sampler_of
from raybc.train.ranks import Ranks
from raybc.train.schedule import Watch, is_monitored, rates
from raybc.train.step import BLOCK, Draws, LossOf, NonFiniteLoss, backward, clip_by_member, generator
from raybc.types import UserError

if TYPE_CHECKING:  # files are for those who keep something: a bare GPU machine can train without safetensors
    from raybc.bundle import PolicyBundle
    from raybc.train.state import State

OnLog = Callable[[int, list[float], float], None]


def with_seeds(config: RunConfig, seeds: Sequence[int]) -> list[RunConfig]:
    """The members of a recipe: one for each seed."""
    return [dataclasses.replace(config, seed=seed) for seed in seeds]


class PackTrainer:
    """Trains M members side by side; they may differ in `MEMBER_FIELDS`.

    Member m is the run `members[m]`: its weights, data order, noise, rates and stopping are what they are when it is
    trained alone.
    """

    def __init__(
        self, members: Sequence[RunConfig], data: TrainingData, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        _check_alike(members)
        self.members = [resolved(config, data.store) for config in members]
        config = self.config = self.members[0]
        self.ranks = ranks or Ranks()
        self.ranks.check(self.members)
        self.data, self.device = data, device
        self.seeds = tuple(c.seed for c in self.members)
        self.prepared = prepare(config, data, device)
        seen, action_size = self.prepared, data.store.actions_NA.shape[1]
        shape = PolicyShape.of(seen.obs_sizes, seen.images, action_size, config.chunk_length, config.obs_steps)
        self.policy = build_policy(config, shape, len(self.members))
        # Weights are drawn on the CPU: the same start on every device.
        self.policy.init_members([generator(torch.device("cpu"), s, "init") for s in self.seeds])
        self.policy.to(device)
        self.step = 0
        self._loss_of = self._loss_function()
        self.parameters = list(self.policy.parameters())
        self.optimizer = PackOptimizer(self.parameters, self.members)
        decays = [c.ema_decay for c in self.members]
        self.ema = Ema(self.parameters, decays) if any(decays) else None
        clips = [c.grad_clip for c in self.members]
        self._clip_M = torch.tensor([c or float("inf") for c in clips], device=device) if any(clips) else None
        picks = sampler_of(config, self.prepared.plan)
        self.draws = Draws(self.policy, self.prepared.turns.count_at, config.batch_size, self.seeds, device, picks)
        self._lr_scale = lr_scale_of(config, self.prepared.plan)
        self.watches = [Watch() for _ in self.members]
        self._watched = any(map(is_monitored, self.members))
        self.validation_loss: list[float] | None = None
        self._sum_M = torch.zeros(len(self.members), device=device, dtype=torch.float64)
        self._bad = torch.zeros((), device=device)
        self._good = torch.zeros((), device=device)
        self._checked = 0

    @property
    def finished(self) -> bool:
        """The budget is spent, or every member has stopped early."""
        return is_finished(self.config, self.step, self.watches)

    @property
    def windows(self) -> Windows:
        """What the next step draws from."""
        return self.prepared.turns.at(self.step)

    @property
    def rates(self) -> list[float]:
        """Learning rate of each member at the next step."""
        return [rate * self._lr_scale for rate in rates(self.members, self.watches, self.step)]

    @property
    def round(self) -> int:
        """Which of `num_rounds` the step that was done last belongs to, from 1."""
        return round_of(self.config, self.step)

    def advance(self, until: int, on_log: OnLog | None = None) -> None:
        """Train to step `until`, or until every member has stopped; `on_log(step, loss of each member, steps per
        second)` every log_interval steps. Raises `NonFiniteLoss`; the weights are then those before that step."""
        started, done = time.perf_counter(), self.step
        self._checked, self._good = self.step, torch.zeros_like(self._good)
        while self.step < until and not self.finished:
            loss_M = self._update()
            logs = on_log is not None and (self.step % self.config.log_interval == 0 or self.step == until)
            # On a GPU to look at a number is to wait for all that was queued, so it is looked at now and then.
            if self.device.type == "cpu" or logs or self.step == until or self.step % BLOCK == 0:
                self._check()
            if self._watched and self.step % self._watch_interval() == 0:
                self._check()
                self._look()
            if logs and on_log is not None:
                now = time.perf_counter()
                on_log(self.step, loss_M.tolist(), (self.step - done) / (now - started))
                started, done = now, self.step

    def _gradient(self) -> tuple[Tensor, Tensor]:
        """Leave the gradient of the step to come, clipped; gives the loss of each member and the norm it had, (M,)."""
        config = self.config
        for parameter in self.parameters:
            parameter.grad = None
        numbers = self.ranks.share(self.draws.at(self.step))
        mean_of = config.batch_size / self.ranks.world  # gradients and losses are averaged over ranks then
        held = functools.partial(self.ranks.held, self._wrapped)
        loss_M = backward(self._loss_of, self.windows, numbers, mean_of, config.accumulate, held)
        return self.ranks.mean(loss_M), clip_by_member(self.parameters, self._clip_M)

    def _update(self) -> Tensor:
        self._freeze()
        loss_M, norm_M = self._gradient()
        self._bad = torch.maximum(self._bad, (~torch.isfinite(loss_M + norm_M)).any().float())
        self.optimizer.step(self.rates, self._bad)
        self._good += 1 - self._bad
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.step, [w.stopped for w in self.watches])
        if self._watched:
            self._sum_M += loss_M
        return loss_M

    def _freeze(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(0 <= self.config.freeze_steps <= self.step)

    def _loss_function(self) -> LossOf:
        self._wrapped: nn.Module = self.policy
        if self.ranks.world > 1:
            for parameter in _frozen(self.config, dict(self.policy.named_parameters())):
                parameter.requires_grad_(False)  # what learns is what is averaged
            self._wrapped = self.ranks.wrap(self.policy, self.device)
        self._frozen = _frozen(self.config, dict(self.policy.named_parameters()))
        policy: LossOf = self._wrapped
        mode = self.config.compile
        if mode == "auto":
            mode = "reduce-overhead" if self.device.type == "cuda" else "off"
        self.compiled = mode != "off"
        if self.compiled:
            policy = torch.compile(policy, mode=mode, dynamic=False)
        if self.config.precision == "fp32":
            return policy

        def in_half(*inputs: object) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16):
                return policy(*inputs)  # type: ignore[arg-type]

        return in_half

    # --- numbers that are not finite --------------------------------------------------------------------------------

    def _check(self) -> None:
        if bool(self._bad):
            self.step = self._checked + int(self._good)
            loss_M, norm_M = self._gradient()
            members = torch.nonzero(~torch.isfinite(loss_M + norm_M)).flatten().tolist()
            raise NonFiniteLoss(f"step {self.step + 1}: {self._blame(members)}; lower lr or set grad_clip", members)

    def _blame(self, members: Sequence[int]) -> str:
        """Which examples of the step to come have a loss that is not finite."""
        numbers = self.draws.at(self.step)
        with torch.no_grad():
            loss_MB = self.policy(self.windows.gather(numbers[0]), *numbers[1:])
        bad_MB = ~torch.isfinite(loss_MB)
        found = []
        for m in members:
            if not bad_MB[m].any():
                found.append(f"{self._name(m)}: the loss is finite, its gradient is not")
                continue
            picks = numbers[0][m, bad_MB[m]]
            rows = (self.windows.starts[picks] + self.prepared.turns.first_row(self.step)).tolist()
            ends = self.data.store.episode_ends
            places = []
            for row in rows[:3]:
                episode = int(np.searchsorted(ends, row, side="right"))
                places.append(f"episode {episode} step {row - int(self.data.store.episode_starts[episode])}")
            more = ", ..." if len(rows) > 3 else ""
            found.append(
                f"{self._name(m)}: the loss is {loss_MB[m].mean().item()}, "
                f"of {len(rows)} of {bad_MB.shape[1]} examples ({', '.join(places)}{more})"
            )
        return "; ".join(found)

    def _name(self, m: int) -> str:
        return f"seed {self.members[m].seed} with lr {self.members[m].lr:g}"

    # --- plateaus and early stopping --------------------------------------------------------------------------------

    def _watch_interval(self) -> int:
        return self.config.watch_interval or self.prepared.steps_per_epoch(self.config.batch_size)

    def _look(self) -> None:
        if self.prepared.validation is not None:
            losses = self.validation_loss = self.measure_validation()
        else:
            losses = (self._sum_M / self._watch_interval()).tolist()
            self._sum_M.zero_()
        for watch, config, loss in zip(self.watches, self.members, losses, strict=True):
            watch.look(config, loss)

    @torch.no_grad()
    def measure_validation(self) -> list[float]:
        """Loss of each member on the split `valid`, with noise and times that are the same at every look."""
        windows = self.prepared.validation
        assert windows is not None
        total, count = len(windows.starts), len(self.members)
        normal, uniform = self.policy.draw_size(total)
        g = [generator(self.device, seed, "validation") for seed in self.seeds]
        noise = torch.stack([torch.randn(normal, generator=x, device=self.device) for x in g]).view(count, total, -1)
        time_MB = torch.stack([torch.rand(uniform, generator=x, device=self.device) for x in g])
        losses = []
        for rows in torch.arange(total, device=self.device).split(self.config.batch_size):
            batch = windows.gather(rows.expand(count, -1))
            losses.append(self.policy(batch, noise[:, rows].flatten(1), time_MB[:, rows]))
        return torch.cat(losses, 1).mean(1).tolist()

    # --- what is kept -----------------------------------------------------------------------------------------------

    def bundle(self, m: int) -> PolicyBundle:
        """Member m as it is now; with ema_decay its averaged weights."""
        from raybc.bundle import PolicyBundle

        weights = dict(self.policy.state_dict())
        if self.ema is not None:
            names = (name for name, _ in self.policy.named_parameters())
            weights |= dict(zip(names, self.ema.values, strict=True))
        return PolicyBundle(
            config=self.members[m],
            step=self.step,
            obs_sizes=self.prepared.obs_sizes,
            action_size=self.data.store.actions_NA.shape[1],
            obs_normalizer=self.prepared.obs_normalizer,
            action_normalizer=self.prepared.action_normalizer,
            weights={k: gather_full(v)[m : m + 1].detach().cpu().clone() for k, v in weights.items()},
            data_fingerprint=self.data.fingerprint,
            environment=self.data.environment,
            data_env=self.data.store.env_args,
            images=self.prepared.images,
        )

    def _run_ids(self) -> list[str]:
        return [config.run_id(self.data.fingerprint) for config in self.members]

    def state(self, members: slice = slice(None)) -> State:
        """Everything that training goes on from; of some members, so that they can go on in another pack."""
        from raybc.train.state import State, is_shared

        tensors = {f"policy/{k}": v for k, v in self.policy.state_dict().items()}
        tensors |= {f"optimizer/{k}": v for k, v in self.optimizer.tensors().items()}
        tensors["loss_sum"] = self._sum_M
        if self.ema is not None:
            tensors |= {f"ema/{i}": v for i, v in enumerate(self.ema.values)}
        tensors = {k: v if is_shared(k) else gather_full(v)[members] for k, v in tensors.items()}
        losses = None if self.validation_loss is None else self.validation_loss[members]
        return State(self.step, self._run_ids()[members], tensors, self.watches[members], losses)

    def save_state(self, path: Path, members: slice = slice(None)) -> None:
        """`state` in one safetensors file, whole or absent."""
        from raybc.train import state

        state.save(path, self.state(members))

    def load_state(self, *paths: Path) -> None:
        """Go on from a saved state bit for bit, or from the states of parts of this pack, in the order of its members.
        A state of another configuration or data, or of another step than the first, is refused."""
        from raybc.train import state

        saved = state.joined([state.load(path) for path in paths], paths, self._run_ids())

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in saved.tensors.items() if k.startswith(prefix)}

        weights = under("policy/")
        with torch.no_grad():
            for name, value in self.policy.state_dict().items():
                value.copy_(shard_like(weights[name], value))
        self.optimizer.load(under("optimizer/"))
        if self.ema is not None:
            self.ema.values = [shard_like(under("ema/")[str(i)], p.detach()) for i, p in enumerate(self.parameters)]
        self._sum_M = saved.tensors["loss_sum"].to(self.device)
        self.watches = list(saved.watches)
        self.validation_loss = saved.validation_loss
        self.step = saved.step
        self._bad = torch.zeros_like(self._bad)


def is_finished(config: RunConfig, step: int, watches: Sequence[Watch]) -> bool:
    """The budget is spent, or every member has stopped early."""
    return step >= config.training_steps or all(w.stopped for w in watches)


def round_of(config: RunConfig, step: int) -> int:
    """Which of `num_rounds` the step that was done last belongs to, from 1."""
    return 1 + max(0, step - 1) * config.num_rounds // config.training_steps


def _check_alike(members: Sequence[RunConfig]) -> None:
    for config in members[1:]:
        for f in dataclasses.fields(RunConfig):
            if f.name not in MEMBER_FIELDS and getattr(config, f.name) != getattr(members[0], f.name):
                raise UserError(
                    f"{f.name}: members of a pack may differ in {', '.join(MEMBER_FIELDS)} only, "
                    f"got {getattr(members[0], f.name)!r} and {getattr(config, f.name)!r}"
                )


def _frozen(config: RunConfig, parameters: dict[str, torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Parameters whose names begin with one of `freeze`, those that learn later or never."""
    prefixes = [p.strip() for p in config.freeze.split(",") if p.strip()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in parameters):
            raise UserError(f"freeze: expected the beginning of one of {sorted(parameters)}, got {prefix!r}")
    found = [p for name, p in parameters.items() if name.startswith(tuple(prefixes))] if prefixes else []
    if len(found) == len(parameters):
        raise UserError(f"freeze: expected something to be left to learn, got all of it: {config.freeze!r}")
    return found


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
