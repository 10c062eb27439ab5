"""Which saved policy a path and `--checkpoint` mean. It needs neither torch nor Ray."""

from __future__ import annotations

from pathlib import Path

from raybc.files import read_json
from raybc.run_folder import BUNDLE_FILE, SweepFolder, TrainingFolder, is_policy
from raybc.types import SampleSetting, UserError


def find_bundle(path: Path, checkpoint: str = "") -> tuple[Path, SampleSetting | None]:
    """The bundle at `path`, and the sample setting if a sweep chose one.

    path: a bundle, the folder of a sweep (its winner), or the folder of a training run, of which `checkpoint` selects
    the latest (also -1, the default), the best (see `TrainingFolder.best_step`), best_mse, the final one or a step.
    """
    if is_policy(path):
        if checkpoint:
            raise UserError(f"--checkpoint: {path} is one bundle; expected the folder of a training run")
        return path, None
    sweep = SweepFolder(path)
    if sweep.winner_json.is_file():
        if checkpoint:
            raise UserError(
                f"--checkpoint: {path} is a sweep, whose winner is measured; name a training run, or a bundle below "
                f"{sweep.trial(0).parent}"
            )
        winner = read_json(sweep.winner_json)
        return path / winner["bundle"], SampleSetting(**winner["setting"])
    run = TrainingFolder(path)
    steps = run.checkpoints()
    if not steps:
        return path, None  # PolicyBundle.load says what is missing
    if checkpoint in ("", "latest", "-1"):
        return steps[max(steps)], None
    if checkpoint == "best":
        best = run.best_step()
        if best is None:
            raise UserError(
                f"--checkpoint best: {run.eval_csv} has no evaluation of a checkpoint that is still on disk, so no "
                "checkpoint is known to be the best; use latest or a step"
            )
        return steps[best], None
    if checkpoint == run.best_mse.name:
        if not (run.best_mse / BUNDLE_FILE).is_file():
            raise UserError(f"--checkpoint {checkpoint}: {path} has none; a run with --action_metrics=1 keeps it")
        return run.best_mse, None
    if checkpoint in ("final", "final_model"):
        if not run.final_model.exists():
            raise UserError(
                f"--checkpoint {checkpoint}: {path} has not finished, so it has no final_model; use latest, or finish "
                "it with --resume"
            )
        return run.final_model.resolve(), None
    if checkpoint.isdigit() and int(checkpoint) in steps:
        return steps[int(checkpoint)], None
    known = ", ".join(map(str, sorted(steps)))
    raise UserError(
        f"--checkpoint: expected latest, best, best_mse, final, -1 or one of the steps {known}; got {checkpoint!r}"
    )


def check_policy(path: Path, checkpoint: str = "") -> None:
    """Raise `UserError` unless there is a policy at `path`, see `find_bundle`. Needs no PyTorch."""
    found, _ = find_bundle(path, checkpoint)
    if not found.is_dir():  # `PolicyBundle.load` says more about a folder
        raise UserError(
            f"{found}: expected a policy bundle (a folder with {BUNDLE_FILE} and policy.safetensors), found none"
        )
