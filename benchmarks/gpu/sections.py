"""The sections of the benchmark. Each makes tasks, which are run one after another while its time lasts.

Letters: M members, B batch, H chunk, A action dim.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.bench import Bench, Recipe, recipes
from benchmarks.gpu.figures import LeftOut, Measured, Task
from benchmarks.gpu.peak import set_precision, wait
from raybc.policies.base import Policy
from raybc.train.loop import PackTrainer
from raybc.train.ranks import Parallel, Ranks
from raybc.train.step import DrawSource
from raybc.types import Observation, SampleSetting

#: How much the device and a CPU, or a training and its resumption, may differ, relative to the largest value above 1.
AGREE, RESUME = 1e-4, 1e-5
COMPILED = ("reduce-overhead", "off", "default")  # the default of training on a GPU first


@dataclass(frozen=True)
class Section:
    """A part of the benchmark."""

    title: str
    share: float
    """Of the time."""
    tasks: Callable[[Bench], Iterator[Task]]
    limit: float = 1 / 3
    """Of the section's time, for one figure."""


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest absolute value that is wanted if that is above 1."""
    gap = (found.detach().cpu().double() - wanted.detach().cpu().double()).abs().max()
    return float(gap / wanted.detach().abs().max().clamp_min(1))


# --- the device against a CPU ---------------------------------------------------------------------------------------


def agreement(bench: Bench) -> Iterator[Task]:
    """Losses, gradients and samples of the same weights, examples and draws."""
    for recipe in recipes(bench.policies, every_objective=True):
        for precision in ("fp32", "tf32") if bench.device.type == "cuda" else ("fp32",):
            for what in ("loss", "gradient", "sample"):
                column = what if precision == "fp32" else f"{what} with TF32"
                yield Task(recipe.label, column, functools.partial(_agrees, bench, recipe, precision, what))


def _agrees(bench: Bench, recipe: Recipe, precision: str, what: str) -> Measured:
    wanted, found = _computed(bench, recipe, "cpu", "fp32"), _computed(bench, recipe, str(bench.device), precision)
    gap = max(difference(f, w) for f, w in zip(found[what], wanted[what], strict=True))
    return Measured(gap, "difference", ok=gap <= AGREE or precision != "fp32")


@functools.lru_cache(maxsize=3)
def _computed(bench: Bench, recipe: Recipe, device: str, precision: str) -> dict[str, list[Tensor]]:
    """What a pack of two computes from weights, examples and draws that were made on a CPU."""
    set_precision(precision)
    there, cpu = torch.device(device), torch.device("cpu")
    config = bench.config(recipe, batch_size=min(bench.size.batch, 32))
    trainer = bench.trainer(config, 2, device=cpu)  # initial weights are drawn on the CPU anyway
    policy, spec = trainer.policy, trainer.policy.spec
    drawn = DrawSource(policy.draws(), lambda *_: len(trainer.windows.starts), config.batch_size, (0, 1), cpu).at(0)
    batch = trainer.windows.gather(drawn.indices_MB)
    obs = batch.obs.map(lambda array: array.to(there))
    batch = dataclasses.replace(
        batch, obs=obs, actions_MBHA=batch.actions_MBHA.to(there), is_pad_MBH=batch.is_pad_MBH.to(there)
    )
    policy.to(there)
    loss_MB = policy.loss(batch, {name: value.to(there) for name, value in drawn.draws.items()}).value_MB
    gradients = torch.autograd.grad(loss_MB.mean(1).sum(), list(policy.parameters()), allow_unused=True)
    noise = torch.randn(
        2, config.batch_size, spec.horizon, spec.action_size, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        chunks = policy.sample(obs, noise.to(there), SampleSetting(flow_steps=4))
    return {
        "loss": [loss_MB.detach().cpu()],
        "gradient": [g.cpu() for g in gradients if g is not None],
        "sample": [chunks.cpu()],
    }


# --- training -------------------------------------------------------------------------------------------------------


def packs(bench: Bench) -> Iterator[Task]:
    """Every policy in packs, the smallest first, then the other objectives and TF32."""
    for members in bench.size.packs:
        for precision in ("fp32", "bf16"):
            for recipe in recipes(bench.policies):
                yield _speed(bench, recipe, members, precision, f"M={members}")
    for recipe in recipes(bench.policies) if bench.device.type == "cuda" else ():
        yield _speed(bench, recipe, bench.size.middle, "tf32", f"M={bench.size.middle}")
    for recipe in recipes(bench.policies, every_objective=True):
        if recipe.changes:
            yield _speed(bench, recipe, bench.size.middle, "fp32", f"M={bench.size.middle}")


def _speed(bench: Bench, recipe: Recipe, members: int, precision: str, column: str, **changes: Any) -> Task:
    """Member-steps per second and share of the peak."""

    def measure() -> Measured:
        set_precision(precision)
        config = bench.config(recipe, precision="bf16" if precision == "bf16" else "fp32", **changes)
        trainer = bench.trainer(config, members)
        if config.compile == "off":
            first, note = 0.0, ""
        else:
            first = bench.seconds_of(lambda: trainer.advance(1))
            note = f"; first step {first:.0f} s"
        speed, flops = bench.member_steps(trainer), flops_of_member(bench, recipe)
        most, source = bench.peak(precision)
        more = {
            "flops_per_member_step": flops,
            "share_of_peak": speed * flops / most,
            "peak": most,
            "peak_from": source,
        }
        return Measured(
            speed,
            "member-steps/s",
            f"{speed * flops / most:.1%} of the peak{note}",
            more=more | {"seconds_to_first_step": first},
        )

    return Task(f"{recipe.label}, {precision}", column, measure)


@functools.lru_cache(maxsize=64)
def _flops(bench: Bench, kind: str, changes: tuple[tuple[str, Any], ...]) -> float:
    trainer = bench.trainer(bench.config(Recipe("", kind, dict(changes))), 1)
    with FlopCounterMode(display=False) as counter:
        trainer.advance(1)
    return float(counter.get_total_flops())


def flops_of_member(bench: Bench, recipe: Recipe) -> float:
    """FLOPs of matrix products and convolutions in a step of one member, counted by PyTorch."""
    return _flops(bench, recipe.kind, tuple(recipe.changes.items()))


def compiled(bench: Bench, modes: tuple[str, ...] = COMPILED) -> Iterator[Task]:
    """Modes of torch.compile."""
    for mode in modes:
        for precision in ("bf16", "fp32"):
            for recipe in recipes(bench.policies):
                task = _speed(bench, recipe, bench.size.middle, precision, mode, compile=mode)
                if mode != "off" and bench.device.type == "cpu" and bench.size.name == "tiny":
                    task = dataclasses.replace(task, measure=_too_slow)
                yield task


def autotuned(bench: Bench) -> Iterator[Task]:
    """The mode of torch.compile that may take minutes to start."""
    return compiled(bench, ("max-autotune",))


def _too_slow() -> Measured:
    raise LeftOut("compiling on a CPU takes half a minute; use --size full")


def images(bench: Bench) -> Iterator[Task]:
    """Training an IMPALA encoder on images."""
    recipe = recipes(bench.policies[:1])[0]
    for precision in ("fp32", "bf16"):
        for members in (1, 4):

            def measure(precision: str = precision, members: int = members) -> Measured:
                set_precision("fp32")
                batch = bench.size.image_batch
                trainer = bench.trainer(
                    bench.config(recipe, encoder="impala", batch_size=batch, precision=precision), members
                )
                seen = trainer.windows.images["image"]
                where = "device memory" if seen.device.type == "cuda" else "main memory"
                size = " x ".join(map(str, seen.shape[1:]))
                return Measured(bench.member_steps(trainer) * batch, "images/s", f"{size}, from {where}")

            yield Task(f"impala and {recipe.label}, {precision}", f"M={members}", measure)


# --- acting ---------------------------------------------------------------------------------------------------------


def chunks(bench: Bench) -> Iterator[Task]:
    """Milliseconds from observations in main memory to a chunk in main memory."""
    for recipe in recipes(bench.policies):
        steps = (1, 10) if "flow_steps" in bench.config(recipe).policy.sample_axes else (1,)
        for flow_steps in steps:
            policy = functools.cache(functools.partial(_acting, bench, recipe))
            for rows in bench.size.chunks:
                measure = functools.partial(_chunk, bench, policy, rows, flow_steps)
                yield Task(f"{recipe.label}, {flow_steps} evaluation{'s'[: flow_steps > 1]}", f"batch {rows}", measure)


def _acting(bench: Bench, recipe: Recipe) -> Policy:
    policy = bench.trainer(bench.config(recipe), 1).policy
    policy.prepare_for_acting()
    return policy


def _chunk(bench: Bench, made: Callable[[], Policy], rows: int, flow_steps: int) -> Measured:
    set_precision("fp32")
    policy = made()
    spec, setting = policy.spec, SampleSetting(flow_steps=flow_steps)
    obs = Observation(torch.randn(1, rows, spec.obs_steps, spec.low_dim_size))
    noise = torch.randn(1, rows, spec.horizon, spec.action_size)

    @torch.inference_mode()
    def run(times: int) -> None:
        for _ in range(times):
            policy.sample(obs.map(lambda array: array.to(bench.device)), noise.to(bench.device), setting).cpu()

    run(2)
    return Measured(1e3 / bench.rate(run), "ms")


# --- whole trainings ------------------------------------------------------------------------------------------------


def resumes(bench: Bench) -> Iterator[Task]:
    """A training that is saved, loaded and continued against one without a stop."""
    for recipe in recipes(bench.policies):
        for precision in ("fp32", "bf16"):
            yield Task(recipe.label, precision, functools.partial(_resume, bench, recipe, precision))


def _resume(bench: Bench, recipe: Recipe, precision: str) -> Measured:
    set_precision("fp32")
    config = bench.config(recipe, precision=precision, ema_decay=0.9)
    whole, resumed = bench.trainer(config, 2), bench.trainer(config, 2)
    whole.advance(3)
    with tempfile.TemporaryDirectory() as folder:
        whole.save_state(Path(folder) / "state")
        resumed.load_state(Path(folder) / "state")
    whole.advance(6)
    resumed.advance(6)
    wanted, found = whole.state().tensors, resumed.state().tensors
    gap = max(difference(found[name], wanted[name]) for name in wanted)
    exact = all(torch.equal(found[name], wanted[name]) for name in wanted)
    return Measured(gap, "difference", "bit for bit" if exact else "", ok=gap <= RESUME, more={"bit_exact": exact})


def groups(bench: Bench) -> Iterator[Task]:
    """A process group of one against training alone."""
    kinds: tuple[Parallel, ...] = ("ddp", "fsdp")
    for recipe in recipes(bench.policies):
        for parallel in kinds:
            yield Task(recipe.label, parallel, functools.partial(_group, bench, recipe, parallel))


def _group(bench: Bench, recipe: Recipe, parallel: Parallel) -> Measured:
    set_precision("fp32")
    _join_group(bench.device)
    config = bench.config(recipe)
    alone = bench.trainer(config, 1)
    wrapped = bench.trainer(config, 1, Ranks(parallel=parallel, wrap_one=True))
    gap = max(
        difference(torch.tensor(w), torch.tensor(a)) for w, a in zip(_losses(wrapped), _losses(alone), strict=True)
    )
    speed = bench.member_steps(wrapped) / bench.member_steps(alone)
    backend = torch.distributed.get_backend()
    return Measured(gap, "difference", f"{backend}, speed {speed:.2f} of alone", ok=gap <= AGREE, more={"speed": speed})


def _losses(trainer: PackTrainer, steps: int = 5) -> list[list[float]]:
    seen: list[list[float]] = []
    for _ in range(steps):
        trainer.advance(trainer.step + 1, lambda progress: seen.append(progress.losses))
    return seen


@functools.cache
def _join_group(device: torch.device) -> None:
    """Make a process group of this process."""
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{tempfile.mkdtemp()}/group",
        rank=0,
        world_size=1,
        device_id=torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else None,
    )
    wait(device)


#: In the order in which they run.
SECTIONS = {
    "agreement": Section("Device against CPU: largest difference", 0.10, agreement),
    "resume": Section("Resumed against uninterrupted training", 0.05, resumes),
    "group": Section("A group of one against alone: losses of five steps", 0.07, groups),
    "packs": Section("Training in packs, eager (share of the peak)", 0.28, packs),
    "chunks": Section("Time of a chunk", 0.06, chunks),
    "images": Section("Images in training", 0.06, images),
    "compile": Section("Modes of torch.compile (share of the peak)", 0.25, compiled, limit=0.7),
    "autotune": Section("torch.compile with max-autotune (share of the peak)", 0.13, autotuned, limit=0.7),
}
