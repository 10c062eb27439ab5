"""A process that has LeRobot, for `raybc.foreign.lerobot`: `python -m raybc.foreign.lerobot_host`.

It reads requests from stdin and writes answers to stdout, as `raybc.env.host` does; what LeRobot prints goes to stderr.
Rows are computed one by one, so that an action does not depend on the other episodes. Letters: H chunk, A action dim.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raybc.env.host import serve
from raybc.envs.border import describe

#: Kinds whose whole chunks can be asked for; of others, the next action.
OF_CHUNKS = ("act", "diffusion")
IMAGES = "observation.images"


class Host:
    """One policy of LeRobot's."""

    def __init__(self) -> None:
        self._policy: Any = None
        self._states: dict[str, dict[str, Any]] = {}

    def load(self, folder: str, flow_steps: int) -> str:
        """Load a checkpoint; the device that it is on. flow_steps: of a diffusion policy, 0: the checkpoint's."""
        import torch
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors

        torch.set_num_threads(1)  # simulators run side by side
        config = PreTrainedConfig.from_pretrained(folder, local_files_only=True)
        config.pretrained_path = Path(folder)
        if config.type == "diffusion":  # all actions that are ahead: how many are executed is up to the caller
            config.n_action_steps = config.horizon - config.n_obs_steps + 1
            config.num_inference_steps = flow_steps or config.num_inference_steps
        self._policy = get_policy_class(config.type).from_pretrained(
            folder, config=config, strict=config.type in OF_CHUNKS, local_files_only=True
        )
        self._before, self._after = make_pre_post_processors(
            config,
            pretrained_path=folder,
            preprocessor_overrides={"device_processor": {"device": str(config.device)}},
        )
        self._policy.eval()
        return str(config.device)

    def chunks(self, rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray | str]:
        """The chunks (H, A) of several episodes; a text where LeRobot raised something.

        rows: `steps`, the last observations, oldest first (input -> array), `instruction`, `seed` of what LeRobot
        draws, and of a diffusion policy `noise` (H, A).
        """
        return [self._tried(row) for row in rows]

    def _tried(self, row: Mapping[str, Any]) -> np.ndarray | str:
        try:
            return self._chunk(row)
        except Exception as error:
            return describe(error)

    def _chunk(self, row: Mapping[str, Any]) -> np.ndarray:
        import torch

        policy = self._policy
        torch.manual_seed(row["seed"])
        batches = [self._prepared(obs, row["instruction"]) for obs in row["steps"]]
        with torch.inference_mode():
            if policy.config.type == "diffusion":
                from lerobot.policies.utils import populate_queues

                policy.reset()
                for batch in batches:
                    if policy.config.image_features:
                        batch[IMAGES] = torch.stack([batch[name] for name in policy.config.image_features], dim=-4)
                    policy._queues = populate_queues(policy._queues, batch)
                noise = torch.from_numpy(row["noise"])[None].to(policy.config.device)
                chunk = policy.predict_action_chunk(batches[-1], noise=noise)
            else:
                chunk = policy.predict_action_chunk(batches[-1])
            return self._after(chunk)[0].float().cpu().numpy()

    def action(self, key: str, obs: Mapping[str, Any], instruction: str, seed: int, is_first: bool) -> np.ndarray:
        """The next action (A,) of the episode `key`, for kinds with memories of their own (LeRobot's queues)."""
        import torch

        policy = self._policy
        if is_first:
            policy.reset()
            self._states[key] = copy.deepcopy(self._memory())
        vars(policy).update(self._states[key])
        torch.manual_seed(seed)
        with torch.inference_mode():
            action = self._after(policy.select_action(self._prepared(obs, instruction)))
        self._states[key] = self._memory()
        return action[0].float().cpu().numpy()

    def forget(self, key: str) -> None:
        """The episode `key` has ended."""
        self._states.pop(key, None)

    def _memory(self) -> dict[str, Any]:
        """What a policy remembers of an episode: plain attributes, not its modules."""
        import torch

        kept = (deque, list, torch.Tensor, type(None))
        found = {name: value for name, value in vars(self._policy).items() if isinstance(value, kept)}
        queues = vars(self._policy).get("_queues")
        return found | ({"_queues": queues} if isinstance(queues, dict) else {})

    def _prepared(self, obs: Mapping[str, Any], instruction: str) -> dict[str, Any]:
        """What LeRobot's processor makes of an observation; images are float in [0, 1] with their channels first."""
        import torch

        batch: dict[str, Any] = {"task": instruction}
        for name, value in obs.items():
            tensor = torch.from_numpy(np.ascontiguousarray(value))
            batch[name] = tensor.permute(2, 0, 1).contiguous() / 255 if tensor.ndim == 3 else tensor.float()
        prepared = self._before(batch)
        return {name: value for name, value in prepared.items() if name != "action"}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all files of a checkpoint are in its folder
    serve(Host())
