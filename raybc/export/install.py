"""What to install to use a policy, for its model card."""

from __future__ import annotations

from raybc.bundle import PolicyBundle
from raybc.registry import get_task, parse_env_name
from raybc.types import UserError

#: `Task.suite` -> the extra of raybc that installs its simulator.
EXTRAS = {
    "robosuite": "robosuite",
    "gymnasium": "mujoco",
    "gymnasium_robotics": "robotics",
    "ogbench": "ogbench",
    "metaworld": "metaworld",
    "gym_pusht": "pusht",
}


def install_lines(bundle: PolicyBundle) -> list[str]:
    """Commands that install what loading the policy from the Hub and measuring it need."""
    config = bundle.config
    extras, more = ["hub"], []
    if config.has_environment:
        try:
            task = get_task(parse_env_name(config.env_name).task)
        except UserError:  # of another version, or whose packages are not here
            task = None
        if task is not None and task.environment is not None:
            more.append(f"raybc env build {task.environment.name}")
        elif task is not None and task.suite in EXTRAS:
            extras.append(EXTRAS[task.suite])
    if config.encoder.kind == "vit":
        extras.append("vit")
    return [f'pip install "raybc[{",".join(sorted(extras))}]"', *more]
