"""`python -m raybc.export BUNDLE --onnx`, `--lerobot` or `--push_to_hub OWNER/NAME`: share a policy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.export.card import evidence_for
from raybc.export.eval_results import FILE, check_benchmark, why_no_results
from raybc.export.film import REPLAY
from raybc.export.hub import check_account, check_name, publish, write_folder
from raybc.export.onnx import FORMAT, export_onnx
from raybc.files import read_json
from raybc.find_bundle import find_bundle
from raybc.inference.policy import load_bundle
from raybc.lerobot.exported import export_checkpoint
from raybc.lerobot.files import CONFIG, PREPROCESSOR
from raybc.rollout.folder import EvaluationFolder
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting, UserError


@dataclass(frozen=True)
class Args:
    """Write a policy as one ONNX file or as a LeRobot checkpoint, or upload it to the Hugging Face Hub with a model
    card."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, the folder of a training run (see --checkpoint), or the folder of a sweep (its winner)."""
    checkpoint: str = ""
    """Checkpoint of a training run: latest (also -1), best (best score in eval.csv), final, or a step."""
    onnx: bool = False
    """Write one ONNX file from physical observations and noise to physical chunks, and its metadata as JSON."""
    lerobot: bool = False
    """Write a folder that LeRobot loads as its diffusion policy, for policy flow_unet with objective diffusion."""
    observations: tuple[str, ...] = ()
    """Of --lerobot: what its inputs are made of, observation.state=KEY observation.environment_state=KEY+KEY:0:3."""
    push_to_hub: str = ""
    """Repository OWNER/NAME to upload the policy to; it is created if it does not exist."""
    public: bool = False
    """Make a new repository public (default: private)."""
    dry_run: Path | None = None
    """Write what --push_to_hub would upload to this folder instead of uploading it."""
    measured: Path | None = None
    """Folder of an evaluation by raybc.rollout, for the model card (default: where that command writes it)."""
    benchmark: str = ""
    """Data set on the Hub that stands for the task in .eval_results, OWNER/NAME or OWNER/NAME:TASK (default: that of
    LIBERO's and robomimic's tasks and of PushT)."""
    flow_steps: int | None = None
    """Steps of the solver that integrates the flow (default: the policy's)."""
    solver: Literal["euler", "midpoint", "heun", "rk4"] | None = None
    """Solver of the flow (default: the policy's)."""
    out: Path | None = None
    """The ONNX file (default: runs/exports/RUNID_step_STEP.onnx, with --flow_steps and --solver also these), or the
    folder of --lerobot (default: the same with _lerobot)."""
    overwrite: bool = False
    """Replace an existing file or folder."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.export", Args.__doc__ or "")
    if not args.onnx and not args.push_to_hub and not args.lerobot:
        raise UserError("expected --onnx, --lerobot or --push_to_hub OWNER/NAME (what to export)")
    if args.onnx and args.lerobot and args.out is not None:
        raise UserError("--out: expected --onnx or --lerobot, got both; call raybc export twice")
    if args.observations and not args.lerobot:
        raise UserError("--observations: belongs to --lerobot, which is missing")
    for flag in ("public", "dry_run", "measured", "benchmark"):
        if getattr(args, flag) and not args.push_to_hub:
            raise UserError(f"--{flag}: belongs to --push_to_hub OWNER/NAME, which is missing")
    changes = {name: getattr(args, name) for name in ("flow_steps", "solver") if getattr(args, name) is not None}
    bundle, setting = load_bundle(args.bundle, args.checkpoint, changes)
    if args.push_to_hub:
        _hub(args, bundle, setting)
    if args.onnx:
        _onnx(args, bundle, setting)
    if args.lerobot:
        _lerobot(args, bundle, setting)
    return 0


def _hub(args: Args, bundle: PolicyBundle, setting: SampleSetting) -> None:
    name = args.push_to_hub
    check_name(name)
    check_benchmark(args.benchmark)
    if args.dry_run is None:
        check_account()
    elif args.dry_run.exists():
        _check_replaceable(args.dry_run, args.overwrite)
    source, _ = find_bundle(args.bundle, args.checkpoint)
    evaluation = EvaluationFolder.default(bundle.run_id, bundle.step, "final")
    if args.measured is not None:
        evaluation = EvaluationFolder(args.measured)
        if not evaluation.metrics.is_file():
            raise UserError(f"--measured: expected a folder with {evaluation.metrics.name}, got {args.measured}")
    evidence = evidence_for(source, bundle, setting, evaluation, chosen=args.measured is not None)
    cli.print_notes(why_no_results(bundle.config, evidence, args.bundle, args.benchmark))
    if args.dry_run is not None:
        write_folder(args.dry_run, name, source, bundle, setting, evidence, args.benchmark)
        cli.console.print(f"would upload to {name}: {args.dry_run}")
        return
    cli.console.print(f"uploaded: {publish(name, args.public, source, bundle, setting, evidence, args.benchmark)}")


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    """Raise `UserError` unless `folder` is one that --dry_run wrote and may replace."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else None
    ours = {"policy", "README.md", SweepFolder(folder).winner_json.name}
    optional = {FILE.partition("/")[0], REPLAY}
    if names != set() and (names is None or names - optional != ours):
        raise UserError(
            f"{folder}: exists, and --dry_run did not write it; nothing was deleted: choose another with --dry_run"
        )
    if names and not overwrite:
        raise UserError(f"{folder}: exists; replace it with --overwrite, or choose another with --dry_run")


def _is_exported(path: Path) -> bool:
    """Whether `path` describes an ONNX file that raybc wrote."""
    try:
        facts = read_json(path)
    except UserError:
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT


def _lerobot(args: Args, bundle: PolicyBundle, setting: SampleSetting) -> None:
    out = args.out or Path("runs/exports") / f"{_name(args, bundle)}_lerobot"
    if out.exists():
        if not (out / PREPROCESSOR).is_file() or not (out / CONFIG).is_file():
            raise UserError(f"{out}: exists, and is no LeRobot checkpoint; nothing was deleted: choose another --out")
        if not args.overwrite:
            raise UserError(f"{out}: exists; replace it with --overwrite, or choose another with --out")
    for note in export_checkpoint(bundle, setting, out, args.observations):
        cli.console.print(f"note: {note}")
    cli.console.print(f"policy: {out}")


def _name(args: Args, bundle: PolicyBundle) -> str:
    flow = "" if args.flow_steps is None else f"_flow_{args.flow_steps}"
    flow += "" if args.solver is None else f"_{args.solver}"
    return f"{bundle.run_id}_step_{bundle.step}{flow}"


def _onnx(args: Args, bundle: PolicyBundle, setting: SampleSetting) -> None:
    out = args.out or Path("runs/exports") / f"{_name(args, bundle)}.onnx"
    if out.suffix != ".onnx":
        raise UserError(f"--out: expected a file that ends in .onnx, got {out}")
    facts_file = out.with_suffix(".json")
    for path in (p for p in (out, facts_file) if p.exists()):
        if not _is_exported(facts_file):
            raise UserError(f"{path}: exists, and raybc did not export it; nothing was deleted: choose another --out")
        if not args.overwrite:
            raise UserError(f"{path}: exists; replace it with --overwrite, or choose another with --out")
    facts = export_onnx(bundle, setting, out)
    difference = facts["largest_difference"]
    cli.console.print(f"onnxruntime differs from the policy by {difference:.1e} of the action's scale at most")
    cli.console.print(f"policy: {out}")


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
