"""What Serve deployments are called, and the resource of the nodes that they are to run on.

With `cluster.node_groups` each kind runs on nodes that offer a resource of its deployment's
name: a replica takes 1 of it, so that a node takes as many replicas as it offers.
"""

GATEWAY = "gateway"


def engine_deployment(model_name: str) -> str:
    """Name of the Serve deployment that holds the model's engines."""
    return _of("engine", model_name)


def expert_host_deployment(model_name: str) -> str:
    """Name of the Serve deployment that holds the model's expert hosts."""
    return _of("experts", model_name)


def director_deployment(model_name: str) -> str:
    """Name of the Serve deployment that holds their director."""
    return _of("director", model_name)


def draft_deployment(model_name: str) -> str:
    """Name of the Serve deployment that holds the model's draft replicas."""
    return _of("drafts", model_name)


def node_resources(deployment: str, has_node_groups: bool) -> dict[str, float]:
    """What a replica asks of its node, beside CPUs and GPUs."""
    return {deployment: 1.0} if has_node_groups else {}


def _of(kind: str, model_name: str) -> str:
    return f"{kind}-{model_name.replace('/', '--')}"
