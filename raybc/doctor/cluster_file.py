"""A cluster file for `ray up`: every check that is possible without a cloud.

Ray's own schema with readable errors, what the schema leaves open (the keys of `provider`), the files it names, and
what makes a cluster secure and able to work.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from raybc.doctor.findings import Finding, error, ok, warning
from raybc.files import read_text
from raybc.strict import did_you_mean
from raybc.yaml_text import parse_yaml

#: Keys of `provider` by its type; Ray accepts any. (Other types are not checked.)
PROVIDER_KEYS = {
    "aws": {"region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group", "key_pair",
            "aws_credentials", "cloudwatch"},
    "gcp": {"region", "availability_zone", "project_id", "gcp_credentials", "cache_stopped_nodes", "use_internal_ips"},
    "local": {"head_ip", "worker_ips", "external_head_ip", "coordinator_address", "use_internal_ips"},
}  # fmt: skip
COMMON_KEYS = {"type", "disable_node_updaters", "disable_launch_config_check", "foreground_node_launch"}
PROVIDER_NEEDS = {"aws": {"region"}, "gcp": {"region", "availability_zone", "project_id"}, "local": set[str]()}
PROVIDERS = ("aws", "gcp", "azure", "local", "vsphere", "aliyun", "external")
#: Required and common keys of a cloud machine's `node_config`, by provider.
NODE_NEEDS = {"aws": "InstanceType", "gcp": "machineType"}
NODE_KEYS = {
    "aws": {"InstanceType", "ImageId", "KeyName", "SubnetId", "SubnetIds", "SecurityGroupIds", "BlockDeviceMappings",
            "InstanceMarketOptions", "IamInstanceProfile", "NetworkInterfaces", "TagSpecifications", "Placement",
            "UserData", "EbsOptimized", "CapacityReservationSpecification"},
    "gcp": {"machineType", "disks", "scheduling", "metadata", "guestAccelerators", "networkInterfaces", "labels",
            "serviceAccounts", "tags", "minCpuPlatform"},
}  # fmt: skip
SECRETS = {
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b": "a key of AWS",
    r"aws_secret_access_key": "a key of AWS",
    r"-----BEGIN": "a private key",
    r"\b[0-9a-f]{64}\b": "what looks like a token",
}
NODE_SCRIPT = "tools/cluster_node.sh"


def check_file(path: Path) -> list[Finding]:
    """All findings about the file; paths in it are relative to the working folder, as for `ray up`."""
    text = read_text(path, "a cluster file", "YAML")
    config = parse_yaml(text, str(path))
    findings = list(_schema(config))
    if findings:
        return findings  # other checks would report the same problems in other words
    findings = list(_provider(config))
    if not any(f.level == "error" for f in findings):
        findings += _ray(config)
    for check in (_placeholders, _types, _commands, _token, _files, _key):
        findings += check(config)
    findings += _secrets(text)
    if not any(f.level == "error" for f in findings):
        findings.insert(0, ok("schema", f"{path} is what Ray expects"))
    return findings


def _schema(config: Any) -> Iterator[Finding]:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    problems = sorted(jsonschema.Draft7Validator(schema).iter_errors(config), key=lambda e: [str(p) for p in e.path])
    for problem in problems:
        yield from _readable(problem)


def _readable(problem: jsonschema.ValidationError) -> Iterator[Finding]:
    where = ".".join(map(str, problem.absolute_path)) or "file"
    if problem.validator == "additionalProperties":
        known = problem.schema.get("properties", {})
        for key in sorted(map(str, problem.instance.keys() - known.keys())):
            yield error("schema", f"{where}: unknown key {key!r}", did_you_mean(key, known))
    elif problem.validator == "required":
        for key in problem.validator_value:
            if key not in problem.instance:
                yield error("schema", f"{where}: the key {key!r} is missing", f"add `{key}: ...`")
    elif problem.validator == "type":
        yield error("schema", f"{where}: expected {problem.validator_value}, got {problem.instance!r}", "correct it")
    else:
        yield error("schema", f"{where}: {problem.message}", "correct it")


def _provider(config: dict[str, Any]) -> Iterator[Finding]:
    provider = config["provider"]
    kind = provider["type"]
    if kind not in PROVIDERS:
        yield error("provider", f"provider.type: unknown {kind!r}", did_you_mean(kind, PROVIDERS))
        return
    if kind not in PROVIDER_KEYS:
        yield warning("provider", f"provider.type {kind!r} is not known to raybc", "its keys were not checked")
        return
    known = PROVIDER_KEYS[kind] | COMMON_KEYS
    for key in sorted(provider.keys() - known):
        yield error("provider", f"provider.{key}: unknown key (Ray would ignore it)", did_you_mean(key, known))
    for key in sorted(PROVIDER_NEEDS[kind] - provider.keys()):
        yield error("provider", f"provider.{key}: missing", f"add `{key}: ...`")
    if kind == "local":
        if "available_node_types" in config or "head_node_type" in config:
            yield error("provider", "available_node_types: not allowed with existing machines", "remove it")
        if "coordinator_address" not in provider and not {"head_ip", "worker_ips"} <= provider.keys():
            yield error("provider", "provider: expected head_ip and worker_ips", "list the machines")
        twice = [ip for ip in provider.get("worker_ips", []) if ip == provider.get("head_ip")]
        if twice:
            yield error("provider", f"provider.worker_ips: {twice[0]} is the head too", "list every machine once")
    elif "available_node_types" not in config:
        yield warning("provider", "available_node_types: missing", "Ray would start machines of its own choice")
    needs = NODE_NEEDS.get(kind, "")
    for name, node in config.get("available_node_types", {}).items():
        where = f"available_node_types.{name}.node_config"
        if needs and needs not in node["node_config"]:
            yield error("provider", f"{where}: the key {needs!r} is missing", f"add `{needs}: ...`")
        for key in sorted(node["node_config"].keys() - NODE_KEYS.get(kind, node["node_config"].keys())):
            yield warning(
                "provider", f"{where}.{key}: not among the keys that raybc knows", did_you_mean(key, NODE_KEYS[kind])
            )


def _ray(config: dict[str, Any]) -> Iterator[Finding]:
    """Problems that Ray finds when it prepares the file: it prints, aborts and raises in several ways."""
    said = io.StringIO()
    problem = ""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(json.loads(json.dumps(config))))
    except click.ClickException as raised:
        problem = _plain(said.getvalue()) or raised.message
    except Exception as raised:  # what Ray raises for a file depends on the mistake in it
        problem = f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else ''}"
    finally:
        logging.disable(before)
    if problem:
        yield error("ray", f"Ray refuses the file: {problem}", "correct it")


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{where}[{number}]")
    elif isinstance(value, str):
        yield where, value


def _placeholders(config: dict[str, Any]) -> Iterator[Finding]:
    for where, text in _strings(config):
        if "FILL-IN" in text or text.startswith("192.0.2."):
            short = text if len(text) < 50 else f"...{text[max(0, text.find('FILL-IN') - 20) :][:45]}..."
            yield error("values", f"{where}: not filled in yet ({short})", "write what is yours")


def _types(config: dict[str, Any]) -> Iterator[Finding]:
    """Counts and resources of the node types."""
    types = config.get("available_node_types", {})
    head = config.get("head_node_type")
    if types and head not in types:
        yield error("node types", f"head_node_type: expected one of {', '.join(types)}, got {head!r}", "correct it")
        return
    workers = {name: node for name, node in types.items() if name != head}
    limit = config.get("max_workers", 2)
    for name, node in workers.items():
        least, most = node.get("min_workers", 0), node.get("max_workers", limit)
        if least > most:
            yield error("node types", f"{name}: min_workers {least} is more than max_workers {most}", "correct one")
        if most and not node["resources"].get("CPU"):
            yield warning(
                "node types", f"{name}: resources.CPU is missing, so a sweep cannot count on machines to come",
                "write the CPUs of the machine",
            )  # fmt: skip
    wanted = sum(node.get("max_workers", 0) for node in workers.values())
    if wanted > limit:
        yield warning("node types", f"max_workers: {limit} machines, the types allow {wanted}", f"raise it to {wanted}")
    if workers and sum(node.get("min_workers", 0) for node in workers.values()):
        yield warning("cost", "min_workers: machines run (and cost) also when nothing is to do", "set it to 0")
    if types and types[head]["resources"].get("CPU", 1):
        yield warning("node types", f"{head}: has CPUs, so trials run on the head", "set resources.CPU to 0")


def _commands(config: dict[str, Any]) -> Iterator[Finding]:
    head = " ; ".join(config.get("head_start_ray_commands", []))
    worker = " ; ".join(config.get("worker_start_ray_commands", []))
    check = "start commands"
    if not head or not worker:
        yield error(
            "start commands", "head_start_ray_commands and worker_start_ray_commands: missing, and Ray's own start it "
            "without a token", "take those of the cluster.yaml of this repository",
        )  # fmt: skip
        return
    if "--autoscaling-config" not in head:
        yield error(check, "head: without --autoscaling-config no other machine joins", "add it")
    if "$RAY_HEAD_IP" not in worker:
        yield error(check, "workers: $RAY_HEAD_IP is not used, so they do not find the head", "add --address")
    exposed = re.search(r"--dashboard-host[= ](?!127\.0\.0\.1|localhost)(\S+)", head)
    if exposed:
        yield error(
            check, f"head: the dashboard answers on {exposed[1]}", "use 127.0.0.1, and `ray dashboard` to reach it"
        )
    for name, command in (("head", head), ("workers", worker)):
        if "--disable-usage-stats" not in command and "RAY_USAGE_STATS_ENABLED=0" not in command:
            yield warning(check, f"{name}: usage is reported to Ray's authors", "add --disable-usage-stats")


def _token(config: dict[str, Any]) -> Iterator[Finding]:
    commands = " ; ".join(text for where, text in _strings(config) if "commands" in where)
    if "RAY_AUTH_MODE=token" not in commands and NODE_SCRIPT not in commands:
        yield error(
            "token", "anyone who can reach port 6379 of the head can run code there (RAY_AUTH_MODE=token is not set)",
            f"run {NODE_SCRIPT} in setup_commands",
        )  # fmt: skip
    mounts = config.get("file_mounts", {}).items()
    source = next((s for t, s in mounts if t.endswith(".ray/auth_token") and isinstance(s, str)), None)
    if source is None:
        yield error("token", "file_mounts: the machines get no token", "add ~/.ray/auth_token: ~/.ray/auth_token")
        return
    yield from check_token(Path(os.path.expanduser(source)))


def check_token(path: Path) -> Iterator[Finding]:
    """A file with a token: it must exist, be long enough, and be readable for its owner only."""
    try:
        mode, token = path.stat().st_mode & 0o777, path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        yield error("token", f"{path}: no such file", f"(umask 077; openssl rand -hex 32 > {path})")
        return
    if mode & 0o077:
        yield error("token", f"{path}: readable by others (mode {mode:o})", f"chmod 600 {path}")
    if len(token) < 32:
        yield error("token", f"{path}: {len(token)} characters", f"(umask 077; openssl rand -hex 32 > {path})")
    if not mode & 0o077 and len(token) >= 32:
        yield ok("token", f"{path} exists and is readable for its owner only")


def _files(config: dict[str, Any]) -> Iterator[Finding]:
    for target, source in config.get("file_mounts", {}).items():
        if not isinstance(source, str):
            yield error("file_mounts", f"{target}: expected a path, got {source!r}", "name the file or folder")
        elif not target.endswith(".ray/auth_token") and not os.path.exists(os.path.expanduser(source)):
            yield error("file_mounts", f"{target}: no such file or folder: {source}", "run `ray up` where it is")


def _key(config: dict[str, Any]) -> Iterator[Finding]:
    name = config.get("auth", {}).get("ssh_private_key")
    if name is None:
        if config["provider"]["type"] == "local":
            yield warning("ssh", "auth.ssh_private_key: missing", "name the key that opens all machines")
        return
    path = Path(os.path.expanduser(str(name)))
    if not os.path.exists(path):
        yield error("ssh", f"auth.ssh_private_key: no such file: {path}", "name the key that opens all machines")
    elif path.stat().st_mode & 0o077:
        yield error("ssh", f"{path}: readable by others, ssh refuses it", f"chmod 600 {path}")


def _secrets(text: str) -> Iterable[Finding]:
    for pattern, what in SECRETS.items():
        if re.search(pattern, text):
            yield error("secrets", f"the file holds {what}", "keep it out of files that are shared")
