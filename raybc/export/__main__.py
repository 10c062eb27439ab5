"""`python -m raybc.export BUNDLE --onnx`: a policy for those who do not have raybc."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from raybc import cli
from raybc.act import load_bundle
from raybc.bundle import PolicyBundle
from raybc.types import SampleSetting, UserError


@dataclass(frozen=True)
class Args:
    """Write a policy as one ONNX file."""

    bundle: tyro.conf.Positional[Path]
    """A bundle, the run folder of a training (see --checkpoint), or that of a sweep (then its winner)."""
    checkpoint: str = ""
    """Of a training run: latest (also -1), best (highest success in eval.csv), or a step."""
    onnx: bool = False
    """One ONNX file from physical observations and noise to physical chunks, and a JSON file about it."""
    flow_steps: int | None = None
    """Euler steps of the flow in the ONNX file (default: the policy's)."""
    out: Path | None = None
    """The ONNX file (default: runs/exports/RUNID_step_STEP.onnx)."""
    overwrite: bool = False
    """Replace an existing file."""


def main(argv: list[str] | None = None) -> int:
    args = cli.parse(Args, argv, "raybc.export", Args.__doc__ or "")
    if not args.onnx:
        raise UserError("expected what to export: --onnx")
    changes = {} if args.flow_steps is None else {"flow_steps": args.flow_steps}
    bundle, setting = load_bundle(args.bundle, args.checkpoint, changes)
    return _onnx(args, bundle, setting)


def _onnx(args: Args, bundle: PolicyBundle, setting: SampleSetting) -> int:
    from raybc.export.onnx import export_onnx

    out = args.out or Path("runs/exports") / f"{bundle.run_id}_step_{bundle.step}.onnx"
    if out.suffix != ".onnx":
        raise UserError(f"--out: expected a file that ends in .onnx, got {out}")
    for path in (out, out.with_suffix(".json")):
        if path.exists() and not args.overwrite:
            raise UserError(f"{path}: exists; replace it with --overwrite, or choose another with --out")
    facts = export_onnx(bundle, setting, out)
    difference = facts["largest_difference"]
    cli.console.print(f"onnxruntime differs from the policy by {difference:.1e} of the action's scale at most")
    cli.console.print(f"policy: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run_main(main))
