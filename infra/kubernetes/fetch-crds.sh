#!/usr/bin/env bash
# Fetches the definitions of custom resources that the tests hold manifests to.
#
#   infra/kubernetes/fetch-crds.sh DIRECTORY
set -euo pipefail

KUBERAY=v1.7.0
GATEWAY_API=v1.6.1
PROMETHEUS_OPERATOR=v0.93.0

fetch() { # repository, tag, path in it, directory
    local name=${3##*/}
    echo "$name of $1 $2"
    curl --fail --silent --show-error --location --output "$4/$name" \
        "https://raw.githubusercontent.com/$1/$2/$3"
}

main() {
    local directory=${1:?usage: fetch-crds.sh DIRECTORY} kind
    mkdir -p "$directory"
    for kind in rayclusters rayservices; do
        fetch ray-project/kuberay "$KUBERAY" \
            "ray-operator/config/crd/bases/ray.io_$kind.yaml" "$directory"
    done
    for kind in gatewayclasses gateways grpcroutes httproutes; do
        fetch kubernetes-sigs/gateway-api "$GATEWAY_API" \
            "config/crd/standard/gateway.networking.k8s.io_$kind.yaml" "$directory"
    done
    for kind in podmonitors prometheusrules servicemonitors; do
        fetch prometheus-operator/prometheus-operator "$PROMETHEUS_OPERATOR" \
            "example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$directory"
    done
}

main "$@"
