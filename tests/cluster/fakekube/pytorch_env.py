"""What the training operator puts into each container of a PyTorchJob (v1.9.4: envvar.go, master.go)."""

from __future__ import annotations

from cluster.fakekube.errors import Json

PORT, PORT_NAME = 23456, "pytorchjob-port"


def injected(job: Json, role: str, index: int) -> list[Json]:
    """The variables in the operator's own order; they are appended after the container's own, and so win."""
    spec = job["spec"]
    replicas = spec["pytorchReplicaSpecs"]
    total = sum(int(replica.get("replicas", 1)) for replica in replicas.values())
    per_node = str(spec.get("nprocPerNode", "auto"))
    world = total * (int(per_node) if per_node.lstrip("-").isdigit() else 1)
    env = {"PYTHONUNBUFFERED": "1"}
    if "Master" in replicas:
        port, address = str(master_port(job)), f"{job['metadata']['name']}-master-0"
        rank = str(index + (role == "Worker"))
        env.update(MASTER_PORT=port, PET_MASTER_PORT=port, MASTER_ADDR=address, PET_MASTER_ADDR=address)
        env.update(WORLD_SIZE=str(world), RANK=rank, PET_NODE_RANK=rank)
    env["PET_NPROC_PER_NODE"] = per_node
    env["PET_NNODES"] = str(total)
    return [{"name": name, "value": value} for name, value in env.items()]


def master_port(job: Json) -> int:
    """Of the port named ``pytorchjob-port``, which the operator adds by default."""
    containers = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"]
    (main,) = [each for each in containers if each["name"] == "pytorch"]
    named = [port["containerPort"] for port in main.get("ports") or [] if port.get("name") == PORT_NAME]
    return int(named[0]) if named else PORT


def with_default_port(container: Json) -> Json:
    ports = container.get("ports") or []
    if container["name"] != "pytorch" or any(port.get("name") == PORT_NAME for port in ports):
        return container
    return {**container, "ports": [*ports, {"name": PORT_NAME, "containerPort": PORT, "protocol": "TCP"}]}
