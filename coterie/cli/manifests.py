"""`coterie manifests`: from a configuration to files for Kubernetes."""

from pathlib import Path

import click

from coterie.cli.console import err, print_json
from coterie.config import CONFIG_HINT, load_config
from coterie.errors import ConfigError
from coterie.hints import hinting
from infra.atomic_file import replacing


@click.command()
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration file (YAML). Default: $COTERIE_CONFIG, else the built-in laptop one.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory for the manifests; files of their names there are replaced.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one line of JSON.")
def manifests_command(file: Path | None, output: Path, as_json: bool) -> None:
    """Write manifests that run the same configuration on Kubernetes, by KubeRay.

    The file is the one that `coterie up` takes; its section `kubernetes` says what pods are
    made of. What is written is a Kustomize base (a RayService with a group of pods for the
    gateways, for each model's engines, for its expert hosts and its draft replicas; Services,
    Valkey, network policies, disruption budgets, monitors), and two overlays to begin with:
    `dev`, small, and `gpu`, for nodes that are kept for pods with GPUs.

    Nothing is asked of a cluster, and no secret is written: those that must be there are
    named at the end.

    \b
    Examples:
      coterie manifests -f cluster.yaml -o deploy/
      kubectl apply --server-side -k deploy/overlays/gpu
    """
    config = load_config(file)
    # It reads the version of Ray, and its import takes a while.
    from deployments.kubernetes.render import Rendering  # noqa: PLC0415

    with hinting(ConfigError, CONFIG_HINT):
        rendering = Rendering(
            config.model_dump(mode="json", exclude_unset=True), config.kubernetes
        )
        texts = rendering.files()
    for name, text in texts.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as out:
            out.write(text.encode())
    if as_json:
        groups = {g.name: [g.min_pods, g.max_pods] for g in rendering.groups}
        fields = {"output": str(output), "files": sorted(texts), "groups": groups}
        print_json(fields | {"secrets": rendering.secrets})
        return
    console = err()
    for group in rendering.groups:
        pods = f"{group.min_pods} to {group.max_pods} pods"
        gpus = f", {group.need.num_gpus} GPUs" if group.need.num_gpus else ""
        console.print(f"  {group.name}: {pods} of {group.cpu} CPUs, {group.memory}{gpus}")
    console.print("secrets that must be there, with their keys:")
    for secret, keys in rendering.secrets.items():
        console.print(f"  {secret}: {', '.join(keys)}", highlight=False)
    console.print(f"{len(texts)} files written to {output}", style="bold green")
    console.print(
        f"look at it: kubectl kustomize {output}/base; "
        f"apply it: kubectl apply --server-side -k {output}/base",
        style="dim",
        highlight=False,
    )
