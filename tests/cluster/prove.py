"""`python -m tests.cluster.prove`: `ray up` of cluster-local.yaml for real, on machines made of namespaces.

One machine, then three: a sweep on each, another in whose middle a machine dies, the machine comes back, `ray down`.
Prints what happened and when; `--out` gets the same as JSON with the logs of all commands. Exit status 0: all of it
held (or there can be no such machines here, with the reason); 1: something did not.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from raybc.sweep.ledger import SweepState, read_events
from tests.cluster.hosts import HOME, INSIDE, SHARED, Host, be_the_laptop, enter, hosts, missing

ROOT = Path(__file__).parents[2]
EXTRAS = "all"
#: What is searched: small enough for two cores that all machines share.
SETTINGS = (
    "train.training_steps=600", "eval.episodes=8", "eval.evaluations=3", "search.sampler=random",
    "prune.scheduler=none", "final.episodes=20", "final.top=1", "final.videos=0", "eval.race=false",
)  # fmt: skip


class Proof:
    """The events so far, and the commands of the laptop."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.events: list[dict[str, Any]] = []
        self.figures: dict[str, float] = {}
        self._began = time.monotonic()
        self._logs = 0

    def say(self, text: str) -> None:
        self.events.append({"seconds": round(time.monotonic() - self._began, 1), "event": text})
        print(f"{self.events[-1]['seconds']:7.1f} s  {text}", flush=True)

    @contextlib.contextmanager
    def took(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.figures[what] = round(time.monotonic() - start, 1)
        self.say(f"{what} ({self.figures[what]} s)")

    def start(self, *command: str) -> tuple[subprocess.Popen[bytes], Path]:
        self._logs += 1
        log = self.out / f"{self._logs:02d}_{re.sub('[^a-z]+', '_', ' '.join(command[:2]).lower())}.log"
        with log.open("wb") as handle:
            handle.write((" ".join(command) + "\n\n").encode())
            handle.flush()
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle), log

    def run(self, *command: str) -> str:
        process, log = self.start(*command)
        if process.wait(timeout=900):
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
            raise AssertionError(f"{' '.join(command)}: exit status {process.returncode}\n{tail}")
        return log.read_text(errors="replace")

    def until(self, what: str, ready: Callable[[], bool], limit: float = 180.0) -> None:
        with self.took(what):
            end = time.monotonic() + limit
            while not ready():
                assert time.monotonic() < end, f"not within {limit:g} s: {what}"
                time.sleep(1)


def fill_in(machines: list[Host], path: Path) -> Path:
    """The repository's own file with the three values that are to be filled in, as a user would.

    Each machine also says that it has one CPU: all of them share those of this one.
    """
    config = yaml.safe_load((ROOT / "cluster-local.yaml").read_text())
    config["provider"] |= {"head_ip": machines[0].ip, "worker_ips": [m.ip for m in machines[1:]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(HOME / ".ssh/id_ed25519")}
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[commands] = [c.replace("ray start", "ray start --num-cpus=1") for c in config[commands]]
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def install_already(machine: Host) -> None:
    """The environment of this test in place of one that `pip` would make: there is no network on these machines."""
    home = machine.work / machine.name / "home"
    contents = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    (home / ".raybc-installed").write_text(hashlib.sha256(b"".join([*contents, f"{EXTRAS}\n".encode()])).hexdigest())
    (home / "raybc-env").symlink_to(sys.prefix)


def sweep_command(name: str, trials: int, machines: int) -> str:
    settings = (
        *SETTINGS,
        f"search.trials={trials}",
        f"search.max_concurrent={machines}",
        f"resources.workers={machines}",
    )
    flags = " ".join(f"--set {s}" for s in settings)
    return f"python -m raybc.sweep ~/raybc-src/sweeps/pointmass.yaml --address auto --out {SHARED}/runs/{name} {flags}"


def check_ledger(name: str, trials: int) -> None:
    """Nothing is lost and nothing stands twice."""
    folder = SHARED / "runs" / name
    events = read_events(folder / "ledger.jsonl")
    assert [e["trial"] for e in events if e["event"] == "start"] == list(range(trials)), "each trial is started once"
    evaluated = [(e["trial"], e["evaluation"]) for e in events if e["event"] == "evaluation"]
    assert sorted(evaluated) == [(t, k) for t in range(trials) for k in (1, 2, 3)], "each evaluation stands once"
    state = SweepState.from_events(events)
    assert all(t.status == "completed" for t in state.trials.values())
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    keys = [(r["run_id"], r["phase"], r["evaluation"], r["flow_steps"]) for r in rows]
    assert len(keys) == len(set(keys)) == 2 * 3 * (3 * trials + 1)  # seeds x flow_steps x (evaluations + final)
    assert sum(r["errors"] for r in rows) == 0
    assert (folder / "winner" / "policy.safetensors").exists()
    assert (folder / "report.html").exists()


def search_seconds(name: str) -> float:
    events = read_events(SHARED / "runs" / name / "ledger.jsonl")
    return next(e["end"] - e["start"] for e in events if e.get("name") == "search")


class Cluster:
    """`ray up` to `ray down`."""

    def __init__(self, proof: Proof, machines: list[Host]) -> None:
        self.proof, self.machines = proof, machines
        self.file = str(fill_in(machines, machines[0].work / "cluster-local.yaml"))

    def up(self) -> None:
        self.proof.run(sys.executable, "-m", "raybc.doctor", self.file)
        with self.proof.took(f"ray up of {len(self.machines)} machine(s): the head runs"):
            self.proof.run("ray", "up", "-y", "--no-config-cache", self.file)
        self.wait_for_all(f"all {len(self.machines)} machine(s) are in the cluster")

    def wait_for_all(self, what: str) -> None:
        self.proof.until(what, lambda: self.alive() == len(self.machines))

    def alive(self) -> int:
        code = "import ray; ray.init(log_to_driver=False); print('alive', sum(n['Alive'] for n in ray.nodes()))"
        found = re.search(r"alive (\d+)", self.proof.run("ray", "exec", self.file, f'python -c "{code}"'))
        return int(found[1]) if found else 0

    def doctor(self) -> None:
        """Everything about the running cluster is well."""
        with self.proof.took("doctor on the head"):
            flags = f"--address auto --storage {SHARED} --sweep ~/raybc-src/sweeps/pointmass.yaml"
            said = self.proof.run("ray", "exec", self.file, f"python -m raybc.doctor {flags}")
        assert f"{SHARED} is one disk" in said, said
        assert "0 errors" in said, said

    def sweep(self, name: str, trials: int) -> None:
        with self.proof.took(f"sweep {name} of {trials} trials on {len(self.machines)} machine(s)"):
            self.proof.run("ray", "exec", self.file, sweep_command(name, trials, len(self.machines)))
        check_ledger(name, trials)
        self._rate(name, trials, "its ledger is complete")

    def _rate(self, name: str, trials: int, and_: str) -> None:
        rate = self.proof.figures[f"{name}: trials per hour"] = round(3600 * trials / search_seconds(name), 1)
        load = self.proof.figures[f"{name}: load average"] = round(os.getloadavg()[0], 1)
        self.proof.say(f"{name}: {rate} trials per hour (load average of this machine {load}); {and_}")

    def sweep_with_a_death(self, name: str, trials: int) -> None:
        """By `ray job submit` through `ray dashboard`; in the middle of it a machine that works for it goes dark."""
        tunnel, _ = self.proof.start("ray", "dashboard", self.file)
        try:
            self.proof.until("ray dashboard forwards the port", lambda: port_open(8265))
            with self.proof.took(f"sweep {name} of {trials} trials with a death"):
                job, log = self.proof.start(
                    "ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--",
                    "bash", "-lc", f". ~/.bashrc; {sweep_command(name, trials, len(self.machines))}",
                )  # fmt: skip
                ledger = SHARED / "runs" / name / "ledger.jsonl"
                self.proof.until(
                    "a third of its results is in the ledger",
                    lambda: job.poll() is not None or evaluations(ledger) >= trials,
                )
                victim = max(self.machines[1:], key=lambda m: len(busy(m)))
                working = busy(victim)
                everywhere = {m.name: busy(m) for m in self.machines}
                assert working, f"no worker machine has work: {everywhere}"
                victim.kill()
                self.proof.say(f"{victim.name} is dead, with {', '.join(working)}; all worked: {everywhere}")
                assert job.wait(timeout=900) == 0, log.read_text(errors="replace")[-3000:]
        finally:
            tunnel.terminate()
            tunnel.wait()
        check_ledger(name, trials)
        self._rate(name, trials, "its ledger is complete, nothing is lost and nothing doubled")
        victim.start()
        self.wait_for_all(f"{victim.name} is switched on and in the cluster again")

    def down(self) -> None:
        with self.proof.took("ray down"):
            self.proof.run("ray", "down", "-y", self.file)
        self.proof.until(
            "no process of Ray is left on any machine", lambda: not any(left(m) for m in self.machines), 300
        )


def evaluations(ledger: Path) -> int:
    return sum(e["event"] == "evaluation" for e in read_events(ledger)) if ledger.exists() else 0


def busy(machine: Host) -> list[str]:
    """Trials and simulators on it."""
    titles = [line.removeprefix("ray::").strip() for line in machine.processes("ray::")]
    return sorted(t for t in titles if "IDLE" not in t and "Agent" not in t)


def left(machine: Host) -> list[str]:
    return [line for name in ("raylet", "gcs_server", "ray::") for line in machine.processes(name)]


def port_open(port: int) -> bool:
    import socket

    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def prove(work: Path, out: Path, count: int, trials: int) -> None:
    proof = Proof(out)
    os.chdir(ROOT)
    be_the_laptop(work)
    # `ray` is that of this environment, whether or not it is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "PATH": path}
    token = HOME / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700)
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    try:
        with hosts(work, count) as machines:
            for machine in machines:
                install_already(machine)
            proof.say(f"{count} machines answer to ssh")
            alone = Cluster(proof, machines[:1])
            alone.up()
            alone.sweep("one", trials)
            alone.down()
            cluster = Cluster(proof, machines)
            cluster.up()
            cluster.doctor()
            cluster.sweep("three", trials)
            cluster.sweep_with_a_death("death", trials)
            cluster.down()
        grown = proof.figures["three: trials per hour"] / proof.figures["one: trials per hour"]
        proof.figures["growth"] = round(grown, 2)
        proof.say(
            f"trials per hour grew {grown:.2f} times from 1 to {count} machines, which share {os.cpu_count()} cores"
        )
    finally:
        (out / "events.json").write_text(
            json.dumps({"events": proof.events, "figures": proof.figures}, indent=2) + "\n"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/cluster"), help="events.json and the logs of all commands"
    )
    parser.add_argument("--machines", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    args = parser.parse_args()
    out = args.out.absolute()
    if INSIDE in os.environ:
        prove(Path(os.environ.pop(INSIDE)), out, args.machines, args.trials)
        return 0
    if reason := missing():
        print(f"skipped: {reason}")
        return 0
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the folder below goes then, too
    work = Path(tempfile.mkdtemp(prefix="raybc-cluster-", dir="/var/tmp"))  # /tmp is another one on each machine
    try:
        return enter(["-m", "tests.cluster.prove", *sys.argv[1:]], work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    sys.exit(main())
