"""A training from start to end: check, record demonstrations if there are none, find the run folder, train."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raybc import cli
from raybc.config import DemosConfig, RunConfig
from raybc.data.action_form import with_units
from raybc.data.control import refuse_other_control
from raybc.data.episodes import check_matches_task, image_size
from raybc.data.gains import far_starts_of, refuse_other_units
from raybc.data.instructions import check_language, language_notes
from raybc.data.names import obtain
from raybc.demos.generate import generate_shown
from raybc.demos.spec import check_source, source_of
from raybc.envs.spec import observation_shapes, spec_of_task
from raybc.files import free_space_for
from raybc.metric_choice import resolve
from raybc.registry import get_task, parse_env_name
from raybc.rollout.measured import check_tasks
from raybc.run_folder import TrainingFolder
from raybc.run_start import check_folder, starting
from raybc.suites import resolve_over, tasks_of_run
from raybc.train.args import Args, inputs_of, push_at_the_end, with_hub
from raybc.train.arithmetic import pick_device
from raybc.train.data import TrainingData, held_out_episodes, resolved, window_notes, with_held_out
from raybc.train.loop import with_seeds
from raybc.train.member import saved_threads
from raybc.train.pretrained import with_pretrained
from raybc.train.ranks import WorkerConfig
from raybc.train.resume import RunPlace, find_run, new_place, nothing_to_resume, resumed
from raybc.train.run import PackRun
from raybc.train.source import observed, read_data, recorded_observations
from raybc.train.threads import available_cores, busy_cores, free_threads, registered
from raybc.train.trackers.base import TrackerConfig
from raybc.train.trackers.mlflow import MlflowConfig
from raybc.train.trackers.wandb import WandbConfig
from raybc.types import UserError
from raybc.waiting import waiting

if TYPE_CHECKING:  # it imports Ray
    from raybc.rollout.pool import RolloutPool


def start(config: RunConfig, args: Args, argv: Sequence[str]) -> RunPlace:
    """Train `config`, with the seeds of `args`; returns the run folders. Raises `UserError` for what cannot be
    trained."""
    seeds = args.seeds or (config.seed,)
    for member in with_seeds(config, seeds):
        member.validate("--")
    trackers = (WandbConfig(args.wandb, args.wandb_project), MlflowConfig(args.mlflow, args.mlflow_experiment))
    for tracker in trackers:
        tracker.check()
    args = with_hub(args, seeds)
    pick_device(config.device)
    config.encoder.check_available("--")
    if args.resume == "False":  # a saved run has its embeddings in a cache
        config.language.check_available("--")
    training_workers(args, config, seeds, gpus=0)
    busy = busy_cores()  # before this process starts any other
    with registered():
        return (_with_simulators if config.has_environment else _without_simulator)(
            _Request(config, args, tuple(seeds), trackers, busy, argv)
        )


@dataclass(frozen=True)
class _Request:
    """What was asked for."""

    config: RunConfig
    args: Args
    seeds: tuple[int, ...]
    trackers: Sequence[TrackerConfig]
    busy: int
    """See `free_threads`."""
    argv: Sequence[str]
    """The arguments of the command."""

    @property
    def resumes(self) -> bool:
        """Whether a saved run may be continued."""
        return self.args.resume != "False" and not self.args.overwrite


def _without_simulator(request: _Request) -> RunPlace:
    """Train on data alone; what is measured is the error of actions on held-out episodes."""
    config, seeds = request.config, request.seeds
    resolve(config.metric, None, "--metric")
    if config.eval_tasks or config.eval_suite:
        raise UserError("--eval_tasks: expected none without a simulator (env_name none); name the environment")
    if config.video_episodes:
        raise UserError(f"--video_episodes: expected 0 without a simulator, got {config.video_episodes}")
    dataset = obtain(config.dataset)
    store = read_data(config, dataset, cli.console.print, cli.episodes_bar)
    keys = recorded_observations(config, store)
    config.encoder.check_sizes({key: image_size(store.obs[key].shape[1:]) for key in store.images})
    held_out = with_held_out(config, store)
    say = cli.console.print
    say(
        f"no environment: the policy sees {', '.join(keys)} and gives {store.actions_NA.shape[1]} numbers. No success "
        "rate is measured, but the error of actions on held-out episodes; --env_name NAME measures success"
    )
    if held_out.holdout_seed != config.holdout_seed:
        count = len(held_out_episodes(held_out, store))
        say(
            f"the data have no split `valid`: {count} of {store.num_episodes} episodes are held out "
            f"(--holdout_seed={held_out.holdout_seed})"
        )
    data = TrainingData(store, store.fingerprint(bar=cli.images_bar), keys, {})
    members = with_seeds(resolved(held_out, store, request.resumes), seeds)
    with contextlib.ExitStack() as stack:
        training, _ = _processes(stack, request, "")
        return _go(stack, request, members, data, None, training, dataset)


def _with_simulators(request: _Request) -> RunPlace:
    """Train, and measure success by rollouts."""
    config, args, seeds = request.config, request.args, request.seeds
    name = parse_env_name(config.env_name)
    task = get_task(name.task)
    tasks = tasks_of_run(config.eval_suite, config.eval_tasks, config.env_name)
    if not resolve_over(config.metric, [get_task(one) for one in tasks], "--metric").from_episodes:
        raise UserError(
            f"--metric: expected a measure of rollouts with an environment, got {config.metric}; leave it out"
        )
    config.check_encoder(task.images, "--")
    check_source(name, config.dataset or config.ogbench_dataset_dir)
    cli.print_notes(task.notes)
    dataset, plan = source_of(config, DemosConfig(episodes=args.demos))
    needs_demos = plan is not None and not dataset.exists()
    store = None if needs_demos else read_data(config, dataset, cli.console.print, cli.episodes_bar)
    with waiting(f"Building a simulator of {task.name}"):
        probe = spec_of_task(task)
    task = dataclasses.replace(task, obs_keys=observed(config, probe, task.obs_keys))
    shapes = observation_shapes(probe, task.obs_keys)
    config.encoder.check_sizes({key: shapes[key] for key in task.obs_keys if key in probe.images})
    instructions = {name.task: probe.instruction or task.instruction}
    if tasks != (name.task,):
        instructions = check_tasks(tasks, shapes, probe.action_size, name.task)
    if store is not None:
        check_matches_task(store, shapes, probe.action_size, config.env_name)
        check_language(config, store, instructions)
        if config.dataset:
            refuse_other_control(store, probe.env_args, task.name, config.action_key)
            cli.print_notes(refuse_other_units(store, task, probe))
            cli.print_notes(far_starts_of(store, probe, task.obs_keys))
    with contextlib.ExitStack() as stack:
        simulates = needs_demos or config.eval_interval > 0 or config.critic.online_updates > 0
        training, pool = _processes(stack, request, name.task if simulates else "", tasks)
        if store is None:
            assert pool is not None
            assert plan is not None
            generate_shown(plan, dataset, pool)
            cli.console.print(f"demonstrations are in {dataset}")
            store = read_data(config, dataset)
            check_language(config, store, instructions)
        config = with_units(config, store.env_args, probe.env_args)
        data = TrainingData(store, store.fingerprint(bar=cli.images_bar), task.obs_keys, probe.identity)
        members = with_seeds(resolved(config, store, request.resumes), seeds)
        return _go(stack, request, members, data, pool, training, dataset)


def _processes(
    stack: contextlib.ExitStack, request: _Request, task: str, tasks: Sequence[str] = ()
) -> tuple[WorkerConfig, RolloutPool | None]:
    """The training processes, and the simulators of `task` ("": none) and of others that are measured; Ray is started
    only if something needs it."""
    config, args, seeds = request.config, request.args, request.seeds
    training = training_workers(args, config, seeds, gpus=0)
    if training.max_workers == 1 and not task and not args.ray_dashboard:
        return training, None
    from raybc.cluster.session import ray_session  # isort: skip (before ray)
    import ray

    from raybc.rollout.on_gpu import gpu_left
    from raybc.rollout.pool import RolloutPool

    cpus = stack.enter_context(ray_session(args.address, dashboard=args.ray_dashboard))
    training = training_workers(args, config, seeds, ray.cluster_resources().get("GPU", 0))
    if not task:
        check_cpus(cpus, training)
        return training, None
    if training.max_workers > 1 and training.use_gpu and gpu_left((task, *tasks)) < 1:
        raise UserError(
            f"{flag_of(training)}: expected one training process, or --device=cpu: each takes a whole GPU, and the "
            f"simulators of {task} need a part of it"
        )
    simulators, share = simulator_workers(cpus, args.workers, training)
    return training, stack.enter_context(RolloutPool.start(task, simulators, tasks, worker_cpus=share))


def _go(
    stack: contextlib.ExitStack,
    request: _Request,
    members: Sequence[RunConfig],
    data: TrainingData,
    pool: RolloutPool | None,
    training: WorkerConfig,
    dataset: Path,
) -> RunPlace:
    """Find the run folder and train."""
    args = request.args
    notes = window_notes(members[0], data.store), language_notes(members[0], data.store)
    cli.print_notes((*data.store.remarks(), *itertools.chain(*notes)))
    place = find_place(args, members, data.fingerprint)
    free_space_for(place.out, 200)
    inputs = inputs_of(members[0], args, dataset)
    begun = stack.enter_context(starting(TrainingFolder(place.out), args.overwrite, inputs))
    threads = 1
    if training.max_workers == 1:
        threads = args.threads or saved_threads(place.folders[0]) or free_threads(request.busy)
    run = PackRun(place, data, pool, request.trackers, threads)
    place.write_args(request.argv)
    if training.max_workers > 1:
        run.go_with_workers(training, dataset, begun)
    else:
        torch.set_num_threads(threads)
        if not args.threads and threads < available_cores():
            cli.console.print(f"PyTorch threads: {threads} of {available_cores()}; --threads=N chooses another number")
        run.go(pick_device(members[0].device), begun)
    if args.push_to_hub:
        push_at_the_end(args.push_to_hub, place.out)
    return place


def find_place(args: Args, members: Sequence[RunConfig], fingerprint: str) -> RunPlace:
    """The run folder: of the run to resume or extend, or a new one.

    Raises `UserError` if there is nothing to resume, or if the folder holds another run.
    """
    if args.resume != "False" and not args.overwrite:
        out = args.out or find_run(members, fingerprint, args.extend_schedule)
        place = resumed(members, fingerprint, out, args.extend_schedule) if out is not None else None
        if place is not None:
            for member, saved in zip(place.members, place.saved, strict=True):
                for change in saved.output_changes(member) if saved is place.saved[0] else ():
                    cli.console.print(f"same run, {change}")
                if member.total_steps > saved.config.total_steps:
                    cli.console.print(
                        f"extending {saved.folder}: {saved.config.total_steps} steps become {member.total_steps}"
                    )
            return dataclasses.replace(place, recipe=args.recipe or place.saved[0].recipe)
        if args.resume == "True":
            raise nothing_to_resume(members, fingerprint, args.out)
        members = [with_pretrained(member) for member in members]  # refused if the weights are missing
    place = new_place(members, fingerprint, args.out)
    begun = TrainingFolder(place.folders[0]).flags
    check_folder(TrainingFolder(place.out), begun, args.resume, args.overwrite, inputs_of(members[0], args))
    return dataclasses.replace(place, recipe=args.recipe)


def training_workers(args: Args, config: RunConfig, seeds: Sequence[int], gpus: float) -> WorkerConfig:
    """The training processes that the flags request, on GPUs if Ray has enough.

    gpus: GPUs that Ray has; 0 also before Ray has started. Raises `UserError` for impossible numbers.
    """
    minimum = args.min_workers or args.num_workers
    use_gpu = config.device.startswith("cuda") or (config.device == "auto" and gpus >= minimum)
    workers = WorkerConfig(minimum, args.num_workers, use_gpu, args.parallel)
    workers.check(with_seeds(config, seeds))
    if workers.max_workers > 1 and gpus and use_gpu and gpus < minimum:
        raise UserError(
            f"{flag_of(workers)}: {minimum} processes need {minimum} GPUs, Ray has {gpus:g}; use --device=cpu"
        )
    return workers


def simulator_workers(cpus: float, workers: int, training: WorkerConfig) -> tuple[int, float]:
    """The number of simulator processes, and the CPUs that each reserves in Ray.

    Raises `UserError` if the training workers alone need more than `cpus`.
    """
    from raybc.cluster.session import allocate_workers

    if training.max_workers == 1:
        return allocate_workers(cpus, trials=0, trial_cpus=0, workers=workers, worker_cpus=1.0), 1.0
    check_cpus(cpus, training)
    # Training and evaluation run at the same time. Simulators get the remaining cores and share one if none is left.
    left = max(0, int(cpus) - training.max_workers)
    count = workers or max(1, left)
    # An elastic group must never wait for a CPU that a simulator reserves, so simulators then reserve none.
    return count, 0.0 if training.elastic else min(1.0, left / count)


def check_cpus(cpus: float, training: WorkerConfig) -> None:
    """Raise `UserError` if the training workers alone need more than `cpus`."""
    if cpus < training.min_workers:
        raise UserError(
            f"{flag_of(training)}: {training.min_workers} processes need {training.min_workers} CPUs, "
            f"Ray has {cpus:g}: they would wait for ever"
        )


def flag_of(training: WorkerConfig) -> str:
    """The flag that set the minimum number of workers, for error messages."""
    return "--min_workers" if training.elastic else "--num_workers"
