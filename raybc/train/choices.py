"""Values of flags of `raybc train`, which need neither torch nor a tracker's package."""

from __future__ import annotations

from typing import Literal

#: How training processes share a policy. fsdp: its weights are sharded.
Parallel = Literal["ddp", "fsdp"]
#: How a cosine schedule continues where a run is extended.
ExtendSchedule = Literal["no", "hold", "restart"]
#: Whether Weights & Biases gets a copy.
Mode = Literal["off", "offline", "online"]
