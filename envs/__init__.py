"""Environment adapters: one file a suite, the simulator imported lazily, never torch.

To add a suite: write `envs/<suite>.py` with a `Task` (see `raybc.envs.base`), name it in `raybc.registry.TASKS`
and add its name to `tests/conformance/envs.py`.
"""
