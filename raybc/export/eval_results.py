"""`.eval_results/raybc.yaml`: scores that the Hugging Face Hub reads for model pages and benchmarks' leaderboards.

https://huggingface.co/docs/hub/eval-results. The format needs a data set on the Hub as the benchmark.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from raybc import cli
from raybc._version import __version__
from raybc.bundle import PolicyBundle
from raybc.config import RunConfig
from raybc.data.names import LIBERO, ROBOMIMIC
from raybc.envs.variant import split
from raybc.export.card import Evidence, Measured
from raybc.registry import parse_env_name
from raybc.types import SampleSetting, UserError

#: Where it is in a repository.
FILE = ".eval_results/raybc.yaml"
#: Names of tasks -> the data set on the Hub that stands for them.
_BENCHMARKS = (
    (r"libero_(spatial|object|goal|10|90)-\d+", LIBERO),
    (r"(lift|can|square|transport|tool_hang)(_abs)?(_pixels)?", ROBOMIMIC),
    (r"pusht(_.*)?", "lerobot/pusht"),
)
_BENCHMARK = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<task>[\w./ -]+))?")


def check_benchmark(text: str) -> None:
    """Raise `UserError` if `text` is neither "" nor OWNER/NAME or OWNER/NAME:TASK."""
    if text and not _BENCHMARK.fullmatch(text):
        raise UserError(f"--benchmark: expected a data set on the Hub, OWNER/NAME or OWNER/NAME:TASK, got {text!r}")


def known_benchmark(env_name: str) -> str:
    """The data set on the Hub that stands for an environment; "" where none is known."""
    task = split(parse_env_name(env_name).task)[0]
    return next((found for pattern, found in _BENCHMARKS if re.fullmatch(pattern, task)), "")


def eval_results(name: str, bundle: PolicyBundle, setting: SampleSetting, evidence: Evidence, benchmark: str) -> str:
    """The contents of `FILE`; "" where nothing may be quoted or no data set is known.

    name: the repository, OWNER/NAME. benchmark: OWNER/NAME or OWNER/NAME:TASK; "": that of the environment.
    """
    config = bundle.config
    if evidence.rate is None or not config.has_environment:
        return ""
    match = _BENCHMARK.fullmatch(benchmark or known_benchmark(config.env_name))
    if match is None:
        return ""
    own = split(parse_env_name(config.env_name).task)[0]
    whole = Measured(evidence.rate, evidence.interval, evidence.episodes)
    entries = [(match["task"] or evidence.suite or ("all tasks" if evidence.tasks else own), whole)]
    entries += [(task, one) for task, one in evidence.tasks.items() if one.value is not None]
    found = [_entry(name, match["id"], task, one, setting, evidence) for task, one in entries]
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True)


def why_no_results(config: RunConfig, evidence: Evidence, path: Path, benchmark: str = "") -> list[str]:
    """Why `FILE` is not written, a line for people; [] where it is. path: what the user named, for the command that
    measures it. benchmark: as for `eval_results`."""
    if not config.has_environment:
        return [f"{FILE} is not written: there is no environment, so no success rate can be measured"]
    if evidence.rate is None:
        command = cli.as_typed(f"python -m raybc.rollout {shlex.quote(str(path))}")
        return [
            f"{FILE} is not written: this policy has no score on final starts with this sample setting; "
            f"`{command}` measures one"
        ]
    if not (benchmark or known_benchmark(config.env_name)):
        return [
            f"{FILE} is not written: no data set on the Hub is known for {config.env_name}; name one with --benchmark"
        ]
    return []


def _entry(
    name: str, dataset: str, task: str, one: Measured, setting: SampleSetting, evidence: Evidence
) -> dict[str, Any]:
    metric = evidence.metric
    what = "success rate" if metric.is_rate else metric.label
    interval = "" if one.interval is None else f", 95 % interval {metric.show_range(one.interval)}"
    where = "starts that no choice was made on" if metric.from_episodes else "held-out episodes"
    return {
        "dataset": {"id": dataset, "task_id": task},
        "value": one.value,
        "source": {"url": f"https://huggingface.co/{name}", "name": "model card"},
        "notes": f"{what} of {one.episodes} episodes on {where}{interval}; {setting.label()}; raybc {__version__}",
    }
