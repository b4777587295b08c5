"""`coterie up`: from a configuration to a cluster that answers."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from cache.store.server_link import check_server
from coterie.cli.console import err, print_json
from coterie.cli.stages import Stages
from coterie.config import CONFIG_HINT, Config, load_config
from coterie.errors import ConfigError
from coterie.hints import hinting
from deployments import local_cluster, metadata_server
from deployments.experts.tier_plan import check_tier
from deployments.gateway.openai.chat_turns import read_template
from deployments.gateway.security.door_security import DoorSecurity
from deployments.models.resolve import resolve_model
from deployments.settings import GatewaySection

if TYPE_CHECKING:
    from deployments.operate import DeploymentState


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration file (YAML). Default: $COTERIE_CONFIG, else the built-in laptop one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one line of JSON.")
def up_command(file: Path | None, as_json: bool) -> None:
    """Start serving, and wait until every model answers.

    Without `cluster.address` in the configuration a Ray cluster is started on
    this machine, to be ended with `coterie down`. Called again, it brings the
    running application up to date with the configuration.

    \b
    Examples:
      coterie up                     the built-in model, on this machine
      coterie up -f cluster.yaml     your own configuration
    """
    config = load_config(file)
    stages = Stages(quiet=as_json)
    with _told_what_stays(file), hinting(ConfigError, CONFIG_HINT):
        _check_security(config)
        _check_templates(config)
        _prepare(config, stages)
        _deploy(config, stages)
    _say_where(config, stages, as_json)


@contextmanager
def _told_what_stays(file: Path | None) -> Iterator[None]:
    """Ctrl-C ends this command, and not what it has begun."""
    try:
        yield
    except KeyboardInterrupt:
        option = "" if file is None else f" -f {file}"
        err().print(
            "\ninterrupted; what was begun may go on by itself: "
            f"`coterie status{option}` shows it, `coterie down{option}` ends it"
        )
        raise


def _prepare(config: Config, stages: Stages) -> None:
    if config.cluster.address is None:
        # Before anything imports Ray.
        local_cluster.use_auth_token(config.cluster)
    with ThreadPoolExecutor(max_workers=1) as pool:
        # Ray starts beside the preparation of the models.
        ray_start = pool.submit(_start_ray, config)
        for model in config.models:
            with stages.stage(f"model files of {model.name}"):
                state_dir = config.cluster.state_dir.expanduser()
                path = resolve_model(model.model, state_dir, stages).path
                if model.has_expert_tier:
                    check_tier(model, path)
        with stages.stage("Ray"):
            # Its import takes seconds, in which its processes start.
            import deployments.operate  # noqa: F401, PLC0415

            ray_start.result()


def _check_security(config: Config) -> None:
    """Keys and certificates, where the gateways run on this very machine."""
    if config.cluster.address is None:
        DoorSecurity(config.gateway, [tenant.name for tenant in config.tenants])


def _check_templates(config: Config) -> None:
    """Chat templates, where the gateways run on this very machine."""
    for model in config.models:
        if config.cluster.address is None and model.chat_template_file is not None:
            read_template(model.chat_template_file)


def _start_ray(config: Config) -> None:
    if config.cluster.address is not None:
        return
    if config.cache.enabled:
        _start_index(config)
    if local_cluster.find(config.cluster) is None:
        _check_ports(config)
        local_cluster.start(config.cluster)


def _start_index(config: Config) -> None:
    url = config.cache.url or metadata_server.ensure(config.cluster, config.cache).url
    asyncio.run(check_server(config.cache, url))


def _deploy(config: Config, stages: Stages) -> None:
    from deployments import operate  # noqa: PLC0415 - imports Ray

    def on_state(states: "list[DeploymentState]") -> None:
        waiting = [s.name for s in states if s.num_running < max(s.num_wanted, 1)]
        stages.report(f"waiting for {', '.join(waiting)}" if waiting else "all replicas run")

    with operate.connected(config.cluster):
        with stages.stage("engines and gateway"):
            operate.deploy(config.model_dump(mode="json"), config.cluster, on_state)
        details = operate.deployment_states(config.cluster.app_name, with_details=True)
    for state in details:
        for detail in state.details:
            if "startup_s" in detail:
                stages.durations_s[state.name] = detail["startup_s"]


def _say_where(config: Config, stages: Stages, as_json: bool) -> None:
    gateway = config.gateway
    grpc_at = f"{reachable(gateway.host)}:{gateway.grpc_port}"
    scheme = "http" if gateway.tls is None else "https"
    http_at = f"{scheme}://{reachable(gateway.host)}:{gateway.http_port}/v1"
    names = [model.name for model in config.models]
    if as_json:
        print_json(
            {"grpc": grpc_at, "http": http_at, "models": names, "seconds": stages.durations_s}
        )
        return
    console = err()
    console.print(Text.assemble(("serving", "bold green"), f" {', '.join(names)}"))
    console.print(f"  gRPC         {grpc_at}")
    console.print(f"  OpenAI HTTP  {http_at}")
    console.print(
        f"talk to it: coterie chat{_options(gateway, grpc_at)}", style="dim", highlight=False
    )


def _options(gateway: GatewaySection, grpc_at: str) -> str:
    """What a command needs to enter."""
    options = "" if gateway.grpc_port == 9000 else f" --address {grpc_at}"
    if gateway.tls is not None:
        options += " --ca-file AUTHORITY"
        if gateway.tls.client_ca_file is not None:
            options += " --client-certificate-file FILE --client-key-file FILE"
    return options + (" --api-key KEY" if gateway.api_keys_file is not None else "")


def reachable(host: str) -> str:
    """What a client on this machine writes for a host that a door listens on."""
    bare = host.strip("[]")
    if bare in {"127.0.0.1", "0.0.0.0", "::", "::1"}:
        return "localhost"
    return f"[{bare}]" if ":" in bare else bare


def _check_ports(config: Config) -> None:
    """Replicas may share a port among themselves, but not with a stranger."""
    gateway = config.gateway
    host = gateway.host.strip("[]")
    for key in ("grpc_port", "http_port"):
        port: int = getattr(gateway, key)
        family: Any = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
            except OSError as error:
                raise ConfigError(
                    f"gateway.{key}: cannot listen on {gateway.host}:{port} "
                    f"({error.strerror}); end what listens there, or choose another port"
                ) from error
