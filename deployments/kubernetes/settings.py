"""The section of the configuration that `coterie manifests` reads, and nobody else: what
pods are made of. Everything else in the manifests follows from the other sections.
"""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from infra.section import Section

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[int, Field(ge=1)]

# As the API server checks them.
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
DnsLabel = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]

MAX_SERVICE_NAME = 47
"""KubeRay's limit for a RayService: what it makes of the name has 63 characters."""


def _folder(path: str) -> str:
    """The path, if a volume can be mounted there; else ValueError."""
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or pure == PurePosixPath("/"):
        raise ValueError("must be an absolute path below /")
    return str(pure)


Folder = Annotated[str, AfterValidator(_folder)]


class VolumeSection(Section):
    """What pods find in a folder: a claim, a secret, or empty space on the node."""

    folder: Folder
    """Where it is mounted."""

    claim: DnsName | None = None
    """Name of a PersistentVolumeClaim."""

    secret: DnsName | None = None
    """Name of a Secret, whose keys become files."""

    empty: Quantity | None = None
    """Empty space of the node, at most so much; gone with the pod."""

    read_only: bool = True
    """Mounted so that nothing can be written. Empty space always can."""

    groups: list[str] = []
    """Which pods have it: `head`, `gateway`, `engine-MODEL`, `experts-MODEL`,
    `drafts-MODEL`. Empty: all of them."""

    @model_validator(mode="after")
    def _one_source(self) -> "VolumeSection":
        if sum(source is not None for source in (self.claim, self.secret, self.empty)) != 1:
            raise ValueError("give one of claim, secret and empty")
        return self


class GroupSection(Section):
    """Pods of one kind. What is not given follows from the other sections."""

    cpu: Quantity | None = None
    """CPUs of a pod. Default: what its replicas need."""

    memory: Quantity | None = None
    """Memory of a pod. Default: a guess by kind that is to be replaced by what
    your models take."""

    shared_memory: Quantity = "2Gi"
    """Most of the memory that may be shared between a pod's processes (/dev/shm): ranks,
    and Ray's object store."""

    replicas_per_pod: Positive = 1
    """Serve replicas of the kind that share a pod: four engines of two GPUs on a
    node of eight, say."""

    min_pods: Count | None = None
    """Fewest pods. Default: what the fewest replicas need."""

    max_pods: Positive | None = None
    """Most pods. Default: what the most replicas need. More: room to start a replica
    before another one ends, as where nodes are emptied."""

    idle_timeout_s: PositiveSeconds | None = None
    """How long a pod without replicas is kept. Default: `kubernetes.idle_timeout_s`."""

    priority: int | None = None
    """Where pods of several groups would do, those of the highest come first."""

    gpu: DnsName | str = "nvidia.com/gpu"
    """The resource by which pods ask for GPUs."""

    node_selector: dict[str, str] = {}
    """Labels of the nodes they run on, such as those of a GPU model."""

    tolerations: list[dict[str, Any]] = []
    """Taints of nodes that they bear, as in a pod's specification."""


class StoreSection(Section):
    """A Valkey server."""

    memory: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(Mi|Gi)$")] = "1Gi"
    """Memory of its pod, in Mi or Gi; three quarters of it are for data."""

    storage: Quantity | None = None
    """Size of its volume. Without one it forgets everything when it restarts."""

    storage_class: DnsName | None = None
    """Class of its volume. Default: the cluster's."""


class RouteSection(Section):
    """The way in from outside, by the Gateway API."""

    gateway: DnsName
    """Name of the Gateway (gateway.networking.k8s.io) that listens."""

    gateway_namespace: DnsLabel | None = None
    """Its namespace. Default: that of the RayService."""

    grpc_hostnames: Annotated[list[DnsName], Field(min_length=1)]
    """Names by which gRPC clients call."""

    http_hostnames: Annotated[list[DnsName], Field(min_length=1)]
    """Names by which HTTP clients call; others, as two kinds of route may not share one."""

    @model_validator(mode="after")
    def _names_of_their_own(self) -> "RouteSection":
        if shared := sorted({*self.grpc_hostnames} & {*self.http_hostnames}):
            raise ValueError(
                f"grpc_hostnames and http_hostnames both have {', '.join(shared)}; give each "
                "its own"
            )
        return self


class KubernetesSection(Section):
    """What `coterie manifests` makes pods of."""

    name: Annotated[DnsLabel, Field(max_length=MAX_SERVICE_NAME)] = "coterie"
    """Name of the RayService; those of everything else begin with it."""

    namespace: DnsLabel | None = None
    """Where it is deployed. Default: kubectl's."""

    image: str = "coterie:latest"
    """Image of all of Ray's pods, best by its digest; `infra/image/` makes it."""

    image_pull_secrets: list[DnsName] = []
    """Secrets by which nodes may fetch it."""

    valkey_image: str = "valkey/valkey:9.1-alpine"
    """Image of both Valkey servers."""

    link_secret: DnsName = "coterie-link"
    """Secret whose key `token` is what gateways and engines prove themselves by."""

    ray_token_secret: DnsName = "coterie-ray-token"
    """Secret whose key `auth_token` Ray's processes ask of each other."""

    files: dict[Folder, DnsName] = {}
    """Secrets for files that other sections name: the path, and the Secret that has
    it under the file's own name. `gateway.api_keys_file: /etc/coterie/keys.yaml` takes
    `/etc/coterie/keys.yaml: coterie-keys`."""

    volumes: list[VolumeSection] = []
    """Folders for pods: models, above all."""

    groups: dict[str, GroupSection] = {}
    """Pods by kind: `head`, `gateway`, `engine-MODEL`, `experts-MODEL`, `drafts-MODEL`,
    with `--` for each `/` in a model's name."""

    idle_timeout_s: PositiveSeconds = 300
    """How long a pod without replicas is kept."""

    upscaling: Literal["Default", "Aggressive", "Conservative"] = "Default"
    """How many pods Ray's autoscaler asks for at a time."""

    index_store: StoreSection = StoreSection()
    """The server of the prefix index, where `cache.url` names none."""

    head_store: StoreSection | None = StoreSection(storage="10Gi")
    """The server of Ray's own state, by which a head that restarts goes on. null: none,
    and everything restarts with the head."""

    route: RouteSection | None = None
    """Routes for gRPC and HTTP. Without one the Service of the gateways is all there is."""

    monitors: bool = True
    """PodMonitors for the Prometheus operator."""

    monitor_labels: dict[str, str] = {"release": "prometheus"}
    """By which the Prometheus operator finds them."""

    topology_key: str = "topology.kubernetes.io/zone"
    """Node label over whose values gateways and engines are spread."""
