"""What `raybc export` writes and uploads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from raybc import cli
from raybc.bundle import PolicyBundle
from raybc.export.card import evidence_for
from raybc.export.eval_results import FILE, check_benchmark, why_no_results
from raybc.export.film import REPLAY
from raybc.export.hub import check_account, check_name, publish, write_folder
from raybc.export.measured import evaluation_of
from raybc.export.onnx import FORMAT, export_onnx
from raybc.files import read_json
from raybc.find_bundle import find_bundle
from raybc.inference.policy import load_bundle
from raybc.lerobot.exported import export_checkpoint
from raybc.lerobot.files import CONFIG, PREPROCESSOR
from raybc.rollout.folder import EvaluationFolder
from raybc.run_folder import SweepFolder
from raybc.types import SampleSetting, UserError

if TYPE_CHECKING:
    from raybc.export.__main__ import Args


#: Flags that change how actions are sampled.
SAMPLING = ("flow_steps", "solver", "eval_temperature", "best_of_n")


def export(args: Args) -> int:
    """Write or upload a policy. Raises `UserError` for what cannot be exported."""
    changes = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
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
    evaluation = evaluation_of(bundle, setting)
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
    flow += "" if args.eval_temperature is None else f"_temperature_{args.eval_temperature:g}"
    flow += "" if args.best_of_n is None else f"_best_of_{args.best_of_n}"
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
    if setting.best_of_n == 1 and not bundle.config.critic.is_none:
        cli.console.print("note: the critic is left out, since best_of_n is 1; --best_of_n 4, say, has it in the file")
    difference = facts["largest_difference"]
    cli.console.print(f"onnxruntime differs from the policy by {difference:.1e} of the action's scale at most")
    cli.console.print(f"policy: {out}")
