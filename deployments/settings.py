"""The sections of the configuration that this room reads: cluster, gateway, models."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from deployments.engine.engine_argument_names import engine_argument_names
from experts.settings import ExpertsSection
from infra.busy_scaling import BusyScalingSection
from infra.loopback import is_loopback
from infra.replica_limits import ReplicaLimits
from infra.section import Section
from infra.section_file import nearest
from router.dispatch.settings import DispatchSection
from router.scaling.settings import EngineScalingSection
from router.speculation.settings import SpeculationSection

Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]
FilePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
ToolParserName = Literal["hermes", "llama3_json", "mistral"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=128)]


# Engine arguments that a section's own fields set; giving them a second time
# in `engine_args` would leave it open which one counts.
_OWN_ENGINE_ARGS = {
    "model": "model",
    "served_model_name": "name",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "dtype": "dtype",
    "quantization": "quantization",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "enable_prefix_caching": "enable_prefix_caching",
    "enable_chunked_prefill": "enable_chunked_prefill",
    "enforce_eager": "enforce_eager",
    "enable_lora": "adapters",
    "runner": "task",
    "convert": "task",
    "distributed_executor_backend": "tensor_parallel_size and pipeline_parallel_size",
}


def _engine_argument(name: str) -> str:
    """The name, if `engine_args` may give it; else ValueError says what to write."""
    if name in _OWN_ENGINE_ARGS:
        raise ValueError(_set_own(name))
    known = engine_argument_names()
    if known is None or name in known:
        return name
    if name in ModelSection.model_fields:
        raise ValueError("a key of the model itself; put it beside engine_args")
    close = nearest(name, known | _OWN_ENGINE_ARGS.keys())
    if close is None:
        raise ValueError("unknown engine argument; vLLM's AsyncEngineArgs has all of them")
    advice = f" Then {_set_own(close)}" if close in _OWN_ENGINE_ARGS else ""
    raise ValueError(f"unknown engine argument; did you mean {close}?{advice}")


def _set_own(name: str) -> str:
    return f"set {_OWN_ENGINE_ARGS[name]} of the model instead"


EngineArgument = Annotated[str, AfterValidator(_engine_argument)]


class ClusterSection(Section):
    """The Ray cluster underneath."""

    address: str | None = None
    """Address of a running Ray cluster, or `auto` for the one on this machine.
    Without one, `coterie up` starts a local cluster and `coterie down` ends it."""

    app_name: Name = "coterie"
    """Name of the Serve application; two of them can share one Ray cluster if
    their ports differ."""

    node_groups: bool = False
    """Replicas run on nodes of their kind alone: those that offer a resource of the
    deployment's name (`gateway`, `engine-MODEL`, `experts-MODEL`, `director-MODEL`,
    `drafts-MODEL`), of which a replica takes 1. `coterie manifests` makes such nodes."""

    num_cpus: Positive | None = None
    """CPUs that a local cluster offers. Default: those of the machine."""

    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs that a local cluster offers. Default: those of the machine."""

    object_store_memory_bytes: Annotated[int, Field(ge=80_000_000)] = 200_000_000
    """Shared memory for a local cluster's object store; token streams pass it by."""

    dashboard: bool = False
    """Run Ray's dashboard in a local cluster (about 240 MB of memory)."""

    # As text, since the default is checked as strictly as the file's values are.
    state_dir: Path = Field(default="~/.cache/coterie")  # type: ignore[assignment]
    """Where converted models, compile caches, logs and the state of a local
    cluster are kept."""

    startup_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """How long `coterie up` waits until every model answers."""


class TlsSection(Section):
    """TLS on both doors. Files that change are taken without a restart."""

    certificate_file: FilePath
    """Certificate of the gateway, with those that lead to its authority (PEM)."""

    key_file: FilePath
    """Private key of the certificate (PEM)."""

    client_ca_file: FilePath | None = None
    """Authority of the clients' certificates (PEM). Given, only clients that have
    such a certificate get in, on either door."""


class GatewaySection(ReplicaLimits, Section):
    """The door: gRPC and HTTP, tokenization, streaming."""

    num_replicas: Positive = 1
    """Gateway replicas to begin with. Those on one node share its ports."""

    min_replicas: Positive | None = None
    """Fewest gateways when scaling in. Default: `num_replicas`."""

    max_replicas: Positive | None = None
    """Most gateways when scaling out. Default: `num_replicas`."""

    autoscaling: BusyScalingSection = BusyScalingSection()
    """When there are more or fewer gateways: by what share of a core each one takes, the most
    that a gateway has."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPUs that Ray sets aside for each gateway replica."""

    host: str = "127.0.0.1"
    """Address that both doors listen on; `0.0.0.0` for all interfaces."""

    grpc_port: Port = 9000
    """Port of the gRPC door."""

    http_port: Port = 8000
    """Port of the OpenAI-style HTTP door."""

    max_message_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Largest gRPC message or HTTP body taken from a client."""

    max_outputs: Positive = 16
    """Largest `n` of a request."""

    max_prompts: Positive = 64
    """Most prompts of one completions request."""

    max_logprobs: Annotated[int, Field(ge=0)] = 20
    """Most alternatives a request may ask logprobs for."""

    request_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time one request may take; a client's deadline may shorten it."""

    client_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest time that a client may keep the gateway waiting: for a whole HTTP
    request, for the start of gRPC, or until it takes more of its answer. Its
    connection, or its stream, ends then."""

    keep_alive_s: Positive = 75
    """How long an HTTP connection without a request is kept. More than clients and load
    balancers keep theirs (most of them up to 60 s), or a request of theirs now and then
    meets a connection that has just ended."""

    drain_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    """How long a gateway that is to end lets its open streams run on."""

    reflection: bool = False
    """Answer gRPC server reflection, so that `grpcurl`-like tools work. It shows
    every caller what can be called."""

    api_keys_file: FilePath | None = None
    """File of the API keys that requests must come with; `coterie key` writes it.
    It must be there on each node that runs a gateway. Changes are taken within
    some seconds, without a restart."""

    allow_anonymous: bool = False
    """Answer requests without a key on an address that other machines reach."""

    open_metrics: bool = False
    """Answer `/metrics` without a key. Otherwise an operator's key is needed
    where there are keys."""

    tls: TlsSection | None = None
    """Certificates, to speak TLS on both doors."""

    @model_validator(mode="after")
    def _the_limits_enclose_the_number_of_replicas(self) -> "GatewaySection":
        self.check_limits()
        return self

    @model_validator(mode="after")
    def _not_open_to_strangers(self) -> "GatewaySection":
        if self.api_keys_file is not None and self.allow_anonymous:
            raise ValueError("api_keys_file and allow_anonymous are both set; keep one of them")
        has_client_certificates = self.tls is not None and self.tls.client_ca_file is not None
        is_guarded = self.api_keys_file is not None or has_client_certificates
        if not (is_guarded or self.allow_anonymous or is_loopback(self.host)):
            raise ValueError(
                f"host {self.host} lets other machines in, and no key is asked of them; make "
                "one with `coterie key new TENANT -f keys.yaml` and set api_keys_file, "
                "or set allow_anonymous to true"
            )
        return self

    @model_validator(mode="after")
    def _each_door_its_port(self) -> "GatewaySection":
        if self.grpc_port == self.http_port:
            raise ValueError(
                f"grpc_port and http_port are both {self.grpc_port}; give each its own"
            )
        return self


class ModelSection(ReplicaLimits, Section):
    """One served model: what it is, how it is split, how many replicas."""

    unknown_key_hint: ClassVar[str] = (
        "an argument of vLLM's engine that has no key of its own goes under engine_args"
    )

    name: Name
    """Name by which clients choose it."""

    model: str
    """Model reference: a built-in name (`smollm2-135m-instruct`), a local
    directory, a GGUF file, or a hub id."""

    task: Literal["generate", "embed"] = "generate"
    """`generate`: text. `embed`: a vector for each text; of a model that was made to
    generate, the normalised hidden state of the last token."""

    num_replicas: Positive = 1
    """Engine replicas to begin with, each a whole copy of the model."""

    min_replicas: Annotated[int, Field(ge=0)] | None = None
    """Fewest replicas when scaling in. 0: none while nobody asks, and requests that come
    wait until an engine is there, for at most `startup_timeout_s`. Default: `num_replicas`."""

    max_replicas: Positive | None = None
    """Most replicas when scaling out. Default: `num_replicas`."""

    autoscaling: EngineScalingSection = EngineScalingSection()
    """When there are more or fewer replicas: by sequences, waiting prompts and memory."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: what the installed vLLM was built for."""

    tensor_parallel_size: Positive = 1
    """Ranks that each layer is split over; packed on one node."""

    pipeline_parallel_size: Positive = 1
    """Stages that the layers are split into; spread over nodes on GPUs."""

    num_cpus_per_rank: Annotated[float, Field(ge=0)] | None = None
    """CPUs that Ray sets aside for each rank. Default: 1 where the device is a
    GPU; on CPU 0: ranks share out the cores of their node without Ray. Where it is
    given on CPU, a rank is bound to as many cores."""

    cpu_cores_per_rank: list[list[int]] | None = None
    """CPU only: the cores that each rank's threads are bound to, one list a
    rank, such as [[0], [1]]. Default: all ranks of a node, of whichever replica and
    model, share its cores out equally, but for one that is left to gateway and scheduler
    where it can be spared. Replicas on one node would all be bound to the cores given."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number type of weights and activations; `auto` takes the checkpoint's."""

    quantization: str | None = None
    """Quantization scheme, by vLLM's name. Default: what the checkpoint says."""

    max_model_len: Positive | None = None
    """Most tokens, prompt and output together. Default: the model's own."""

    max_num_seqs: Positive = 64
    """Most sequences that one step works on."""

    kv_cache_memory_bytes: Annotated[int, Field(ge=1024 * 1024)] | None = None
    """Memory for the KV cache of one rank. Default: on CPU 1 GiB; on GPUs what
    `gpu_memory_utilization` leaves."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that the engine may take."""

    enable_prefix_caching: bool = True
    """Keep the KV blocks of past prompts for prompts that begin alike."""

    enable_chunked_prefill: bool = True
    """Split long prompts over several steps so that decoding goes on beside."""

    enforce_eager: bool = False
    """Skip compilation: quicker first start, slower steps."""

    chat_template_file: FilePath | None = None
    """A Jinja chat template in place of the model's own, to teach it tools, say. A
    local file of each node that a gateway runs on; clients cannot give one."""

    tool_parser: ToolParserName | None = None
    """The form in which the model writes tool calls: `hermes` (also Qwen2.5, Qwen3),
    `llama3_json` or `mistral`. Without it a model calls tools only where a request
    demands it."""

    adapters: dict[str, str] = {}
    """LoRA adapters: the name that clients use, and the local directory."""

    engine_args: dict[EngineArgument, Any] = {}
    """Every other engine argument, by the name vLLM gives it."""

    experts: ExpertsSection = ExpertsSection()
    """Of a mixture-of-experts model: where its routed experts are computed."""

    dispatch: DispatchSection = DispatchSection()
    """With `experts.placement: service`: which copy of an expert computes a token."""

    speculation: SpeculationSection = SpeculationSection()
    """Speculative decoding: several tokens a step, where drafts of them are right."""

    health_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """An engine core that does not answer for this long counts as stuck, and its
    replica is replaced. It answers between two steps, so this must be longer
    than the longest step."""

    drain_timeout_s: Annotated[float, Field(ge=0)] = 30.0
    """How long a replica that is to end lets its sequences run on."""

    startup_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """How long one engine may take to load, compile and warm up."""

    @classmethod
    def place_elsewhere(cls, key: str) -> str:
        """An argument of vLLM's engine is easily written one level too high."""
        return "it goes under engine_args" if key in (engine_argument_names() or ()) else ""

    @property
    def scales_to_zero(self) -> bool:
        """There may be no engine replica, and requests bring one."""
        return self.fewest == 0

    @property
    def num_ranks(self) -> int:
        """Processes that one engine replica is split over."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def has_expert_tier(self) -> bool:
        """Whether its routed experts are computed by expert hosts."""
        return self.experts.placement == "service"

    @model_validator(mode="after")
    def _the_limits_enclose_the_number_of_replicas(self) -> "ModelSection":
        self.check_limits()
        if self.scales_to_zero and self.max_model_len is None:
            raise ValueError(
                "min_replicas is 0, and gateways check the length of prompts while there is no "
                "engine to ask; set max_model_len"
            )
        return self

    @model_validator(mode="after")
    def _expert_hosts_can_serve_it(self) -> "ModelSection":
        args = self.engine_args
        reasons = {
            "its task is embed": self.task == "embed",
            "quantization is set": self.quantization is not None,
            "data_parallel_size is above 1": args.get("data_parallel_size", 1) != 1,
            "enable_expert_parallel is set": bool(args.get("enable_expert_parallel")),
            "load_format is set": "load_format" in args,
            "additional_config is set": "additional_config" in args,
        }
        found = [reason for reason, holds in reasons.items() if holds]
        if self.has_expert_tier and found:
            raise ValueError(
                f"experts.placement is service, which cannot be where {found[0]}; change "
                "that, or set it to engine"
            )
        return self

    @model_validator(mode="after")
    def _speculation_has_its_arguments_to_itself(self) -> "ModelSection":
        if not self.speculation.is_on:
            return self
        for name in ("speculative_config", "additional_config"):
            if name in self.engine_args:
                raise ValueError(
                    f"engine_args.{name} is set beside the section speculation, which sets it; "
                    "give one of the two (speculation.engine takes vLLM's speculative_config)"
                )
        if self.task == "embed":
            raise ValueError("speculation is for models that generate; its task is embed")
        return self

    @model_validator(mode="after")
    def _one_core_list_per_rank(self) -> "ModelSection":
        cores = self.cpu_cores_per_rank
        if cores is not None and len(cores) != self.num_ranks:
            raise ValueError(
                f"cpu_cores_per_rank has {len(cores)} lists for {self.num_ranks} ranks "
                "(tensor_parallel_size x pipeline_parallel_size); give one list a rank"
            )
        return self
