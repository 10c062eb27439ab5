"""Several Ray nodes on this machine, for tests: `python -m tests.nodes PORT CPUS CPUS ...` (the first is the head).

Prints its address; a line on stdin kills the last node, the end of stdin all of them. The caller sets the token.
"""

from __future__ import annotations

import sys

import raybc.cluster  # noqa: F401  isort: skip (sets Ray's environment, so before ray)
from ray.cluster_utils import Cluster


def main(port: str, *cpus: str) -> None:
    common = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    cluster = Cluster(True, head_node_args={"gcs_server_port": int(port), "num_cpus": float(cpus[0]), **common})
    nodes = [cluster.add_node(num_cpus=float(n), **common) for n in cpus[1:]]
    print("address", cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
