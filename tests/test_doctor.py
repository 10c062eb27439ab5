"""What the doctor says of cluster files, tokens, machines and what dead jobs hold; and the files of this repository."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from raybc.cli import run_main
from raybc.cluster.nodes import NodeAnswer
from raybc.doctor import running
from raybc.doctor.__main__ import main
from raybc.doctor.cluster_file import check_file
from raybc.doctor.findings import Finding
from raybc.doctor.machine import check_facts, facts, has_default_route, pins

ROOT = Path(__file__).parents[1]
FILES = ("cluster.yaml", "cluster-gcp.yaml", "cluster-local.yaml")
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with a key and a token, in the folder of the repository."""
    home = tmp_path / "home"
    for name, contents in ((".ssh/id_ed25519", "key"), (".ray/auth_token", "0123456789abcdef" * 4)):
        path = home / name
        path.parent.mkdir(parents=True, mode=0o700)
        path.write_text(contents)
        path.chmod(0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    return home


def filled(name: str) -> dict[str, Any]:
    """A file of the repository with made-up values in place of those to be filled in."""
    text = (ROOT / name).read_text().replace("FILL-IN", "0a1b").replace("192.0.2.", "10.0.0.")
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def write(folder: Path, config: Any) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False))
    return path


def wrong(findings: list[Finding]) -> list[str]:
    return [f.line() for f in findings if f.level != "ok"]


@pytest.mark.parametrize("name", FILES)
def test_files_of_the_repository_only_want_to_be_filled_in(name: str, home: Path, tmp_path: Path) -> None:
    todo = [f for f in check_file(ROOT / name) if f.level != "ok"]
    assert todo
    assert all("not filled in yet" in f.message for f in todo), todo
    findings = check_file(write(tmp_path, filled(name)))
    assert wrong(findings) == []
    assert any("is what Ray expects" in f.message for f in findings)


def aws(change: Change) -> tuple[str, Change]:
    return "cluster.yaml", change


def local(change: Change) -> tuple[str, Change]:
    return "cluster-local.yaml", change


def put(*keys: Any) -> Change:
    """Set the value at the end of a path of keys."""

    def change(config: dict[str, Any]) -> None:
        *way, last, value = keys
        for key in way:
            config = config[key]
        config[last] = value

    return change


def drop(*keys: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        del config[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (aws(drop("cluster_name")), "error schema: file: the key 'cluster_name' is missing"),
        (aws(drop("provider")), "error schema: file: the key 'provider' is missing"),
        (aws(put("max_worker", 3)), "error schema: file: unknown key 'max_worker'; did you mean 'max_workers'"),
        (aws(put("max_workers", "two")), "error schema: max_workers: expected integer, got 'two'"),
        (
            aws(put("available_node_types", "trainer", "max_worker", 1)),
            "error schema: available_node_types.trainer: unknown key 'max_worker'; did you mean 'max_workers'",
        ),
        (aws(drop("available_node_types", "trainer", "resources")), "trainer: the key 'resources' is missing"),
        (aws(put("provider", "type", "asw")), "error provider: provider.type: unknown 'asw'; did you mean 'aws'"),
        (aws(put("provider", "zone", "a")), "error provider: provider.zone: unknown key (Ray would ignore it)"),
        (
            aws(put("provider", "availabilty_zone", "us-west-2a")),
            "provider.availabilty_zone: unknown key (Ray would ignore it); did you mean 'availability_zone'?",
        ),
        (aws(drop("provider", "region")), "error provider: provider.region: missing"),
        (
            aws(put("available_node_types", "trainer", "node_config", "InstaceType", "g6.xlarge")),
            "node_config.InstaceType: not among the keys that raybc knows; did you mean 'InstanceType'",
        ),
        (aws(drop("available_node_types", "head", "node_config", "InstanceType")), "'InstanceType' is missing"),
        (aws(put("head_node_type", "haed")), "error node types: head_node_type: expected one of head, trainer"),
        (aws(put("available_node_types", "trainer", "min_workers", 3)), "min_workers 3 is more than max_workers 2"),
        (aws(put("max_workers", 4)), "warning node types: max_workers: 4 machines, the types allow 6"),
        (aws(put("available_node_types", "trainer", "min_workers", 1)), "warning cost: min_workers"),
        (aws(drop("available_node_types", "trainer", "resources", "CPU")), "a sweep cannot count on machines to come"),
        (aws(put("available_node_types", "head", "resources", {"CPU": 2})), "trials run on the head"),
        (
            aws(lambda c: [put("max_workers", 1)(c), put("available_node_types", "trainer", "min_workers", 2)(c)]),
            "error ray: Ray refuses the file: ValueError: The specified global `max_workers` is smaller",
        ),
        (aws(drop("head_start_ray_commands")), "error start commands: head_start_ray_commands"),
        (
            aws(put("head_start_ray_commands", 1, "ray start --head --dashboard-host=0.0.0.0 --autoscaling-config=x")),
            "error start commands: head: the dashboard answers on 0.0.0.0",
        ),
        (aws(put("head_start_ray_commands", 1, "ray start --head")), "without --autoscaling-config no other machine"),
        (aws(put("worker_start_ray_commands", 1, "ray start")), "$RAY_HEAD_IP is not used"),
        (aws(put("setup_commands", [])), "error token: anyone who can reach port 6379"),
        (aws(drop("file_mounts", "~/.ray/auth_token")), "error token: file_mounts: the machines get no token"),
        (aws(put("file_mounts", "~/.ray/auth_token", "/nowhere")), "error token: /nowhere: no such file"),
        (aws(put("file_mounts", "~/x", "nowhere")), "error file_mounts: ~/x: no such file or folder: nowhere"),
        (aws(put("auth", "ssh_private_key", "~/nokey")), "auth.ssh_private_key: no such file"),
        (aws(put("cluster_name", "AKIAABCDEFGHIJKLMNOP")), "error secrets: the file holds a key of AWS"),
        (local(drop("provider", "head_ip")), "error provider: provider: expected head_ip and worker_ips"),
        (local(put("provider", "worker_ips", ["10.0.0.1"])), "10.0.0.1 is the head too"),
        (local(put("head_node_type", "head")), "available_node_types: not allowed with existing machines"),
        (local(drop("auth", "ssh_private_key")), "warning ssh: auth.ssh_private_key: missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    case: tuple[str, Change], expected: str, home: Path, tmp_path: Path
) -> None:
    config = copy.deepcopy(filled(case[0]))
    case[1](config)
    said = [" ".join(line.split()) for line in wrong(check_file(write(tmp_path, config)))]
    assert any(expected in line for line in said), said


def test_a_token_that_others_can_read_is_an_error_and_can_be_taken_from_them(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = home / ".ray" / "auth_token"
    token.chmod(0o644)
    file = str(write(tmp_path, filled("cluster.yaml")))
    assert run_main(lambda: main([file])) == 1
    assert f"error    token: {token}: readable by others (mode 644); chmod 600 {token}" in capsys.readouterr().out
    assert run_main(lambda: main([file, "--fix", "--sweep", "sweeps/quickstart.yaml"])) == 0
    assert token.stat().st_mode & 0o777 == 0o600
    said = capsys.readouterr().out
    assert "ok       resources: sweeps/quickstart.yaml on" in said
    assert "beside 128 simulators" in said


@pytest.mark.parametrize(
    ("contents", "expected"),
    [(None, "expected a cluster file, found none"), ("a: [", "not readable as YAML"), ("a: 1\na: 2", "stands twice")],
)
def test_what_is_no_file_is_refused_with_one_line(
    contents: str | None, expected: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, contents) if contents else tmp_path / "none.yaml"
    assert run_main(lambda: main([str(path)])) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert expected in error


def test_json_and_an_unreachable_cluster(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    assert run_main(lambda: main([str(write(tmp_path, {"provider": {"type": "aws"}})), "--json"])) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"level": "error", "check": "schema", "do": "add `cluster_name: ...`"}.items() <= next(
        f.items() for f in found if f["level"] == "error"
    )
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests' Ray would be looked at
    assert run_main(lambda: main(["--address", "127.0.0.1:1"])) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert "nothing answers there" in error


def test_machines_that_differ_are_named() -> None:
    here = facts()
    assert here["packages"]["ray"] == "2.60.0"
    other = copy.deepcopy(here)
    other["packages"]["torch"] = "1.0"
    found = wrong(list(running._equal([NodeAnswer("a", here), NodeAnswer("b", here), NodeAnswer("c", other)])))
    assert len(found) == 1
    assert "torch differs" in found[0]
    assert "1.0 on c" in found[0]
    wanted = pins(ROOT / "constraints.txt")
    assert wanted["ray"] == "2.60.0"
    found = wrong(check_facts("c", other | {"gl": "", "route": False}, wanted))
    assert [line.split()[1] for line in found] == ["GL:", "network:", "versions:"]
    assert f"torch 1.0 (tested: {wanted['torch']})" in found[2]


def test_default_route(tmp_path: Path) -> None:
    table = tmp_path / "route"
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    local = "eth0 000A4D0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n"
    table.write_text(head + local)
    assert not has_default_route(table)
    table.write_text(head + local + "eth0 00000000 010A4D0A 0003 0 0 0 00000000 0 0 0\n")
    assert has_default_route(table)


def test_what_a_dead_job_holds_is_found_and_removed(ray_cpus: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.util.placement_group import placement_group, placement_group_table

    group = placement_group([{"CPU": 0.01}])
    ray.get(group.ready(), timeout=60)
    assert wrong(list(running.leaks(fix=False))) == [], "the job lives"
    me = ray.get_runtime_context().get_job_id()
    monkeypatch.setattr(ray._private.state, "jobs", lambda: [{"JobID": me, "IsDead": True}])
    found = wrong(list(running.leaks(fix=False)))
    assert any(f"{group.id.hex()} of job {me}, which has ended, holds 0.01 CPU" in line for line in found), found
    assert any("removed" in f.message for f in running.leaks(fix=True))
    assert placement_group_table(group)["state"] == "REMOVED"
    assert wrong(list(running.leaks(fix=False))) == []


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-gcp.yaml"])
def test_rays_autoscaler_starts_the_right_machines(name: str) -> None:
    """Its own scheduler, offline: what trials and simulators ask for against the types of the file."""
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
    from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
    from ray.autoscaler._private.util import prepare_config

    from raybc.cluster.capacity import SHARE

    config = prepare_config(filled(name))

    scorer = functools.partial(_default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({}))

    def wanted(*demands: dict[str, float]) -> dict[str, int]:
        types, head = config["available_node_types"], config["head_node_type"]
        return dict(get_nodes_for(types, {}, head, 99, list(demands), scorer)[0])

    trial = {"CPU": 0.5, "GPU": 0.5, "trainer": SHARE}
    simulator = {"CPU": 0.5, "simulator": SHARE}
    assert wanted(trial, trial) == {"trainer": 1}
    assert wanted(*[trial] * 4) == {"trainer": 2}
    assert wanted(*[simulator] * 33) == {"simulator": 2}
    assert wanted(trial, simulator) == {"trainer": 1, "simulator": 1}


@pytest.mark.parametrize("name", FILES)
def test_files_are_copied_and_named_as_ray_does_it(name: str, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The hash over everything that is copied: `ray up` makes it first, of small files only."""
    from ray.autoscaler._private.util import hash_runtime_conf, prepare_config

    config = prepare_config(filled(name))
    runtime, _ = hash_runtime_conf(config["file_mounts"], [], config)
    assert runtime
    assert sum(p.stat().st_size for m in config["file_mounts"].values() for p in Path(m).rglob("*")) < 20e6


def test_rayjob_has_the_roles_and_the_token() -> None:
    job = yaml.safe_load((ROOT / "rayjob.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    roles = [json.loads(json.loads(g["rayStartParams"]["resources"])) for g in cluster["workerGroupSpecs"]]
    assert roles == [{"trainer": 1}, {"simulator": 1}]
    pins_ray = pins(ROOT / "constraints.txt")["ray"]
    assert cluster["rayVersion"] == pins_ray
    for name in FILES[:2]:
        assert f"rayproject/ray:{pins_ray}-py311" in (ROOT / name).read_text()
