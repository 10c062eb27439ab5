"""Best of N: of N sampled chunks the one that the critic values most is executed (arXiv 2507.07969, section 4).

`Agent` acts by the same rule, in batches whose rows do not depend on each other. Letters: M members, B batch,
N candidates, H chunk, A action dim.
"""

from __future__ import annotations

from torch import Tensor

from raybc.policies.base import Policy
from raybc.policies.critic import Critic
from raybc.types import Observation, SampleSetting


def critic_of(policy: Policy) -> Critic:
    """The critic that a policy carries. Raises `ValueError` for a policy without one, which `RunConfig.check_sampling`
    refuses for users."""
    if policy.critic is None:
        raise ValueError("best_of_n above 1 needs a policy with a critic, got one without")
    return policy.critic


def sample_best(policy: Policy, obs: Observation[Tensor], noise: Tensor, setting: SampleSetting) -> Tensor:
    """Normalised chunks, float32 (M, B, H, A).

    Args:
        policy: a pack, with a critic where N is above 1.
        obs: normalised, leading axes (M, B).
        noise: times eval_temperature, (M, B, H, A), or (M, B, N, H, A) where N is above 1.
        setting: how actions are sampled.
    """
    if setting.best_of_n == 1:
        return policy.sample(obs, noise, setting)
    chunks_MBNHA = policy.candidates(obs, noise, setting)
    best_MB = critic_of(policy).score(obs, chunks_MBNHA).argmax(-1)
    place = best_MB[..., None, None, None].expand(-1, -1, 1, *chunks_MBNHA.shape[3:])
    return chunks_MBNHA.gather(2, place).squeeze(2)
