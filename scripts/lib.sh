# Sourced by the scripts beside it: what they share. Never run by itself.
# shellcheck shell=bash

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Waits until a command succeeds, at most $1 seconds.
wait_for() {
    local seconds=$1 deadline
    shift
    deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# Servers that a script starts are its own to end: by PID, newest first, and nothing else is touched.
started=()
start() { # start LOG COMMAND…: runs a server in the background, its output in LOG
    local log=$1
    shift
    "$@" >"$log" 2>&1 &
    started+=("$!")
}
end() { # end PID: SIGTERM, and SIGKILL for what does not hear it
    kill "$1" 2>/dev/null || return 0
    wait_for 15 not_running "$1" || kill -9 "$1" 2>/dev/null || true
}
end_started() {
    local i
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do end "${started[i]}"; done
    started=()
}
not_running() { ! kill -0 "$1" 2>/dev/null; }

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# A containerd that answers: the machine's own, else one of ours with everything below $1.
ensure_containerd() {
    local folder=$1
    export CONTAINERD_ADDRESS=${CONTAINERD_ADDRESS:-/run/containerd/containerd.sock}
    if ! ctr version >/dev/null 2>&1; then
        mkdir -p "$folder"
        export CONTAINERD_ADDRESS=$folder/containerd.sock
        say "starting a containerd below $folder"
        start "$folder/containerd.log" containerd --address "$CONTAINERD_ADDRESS" \
            --root "$folder/root" --state "$folder/state"
        wait_for 30 ctr version || die "containerd does not start: see $folder/containerd.log"
    fi
    export FNBUILD_CONTAINERD=$CONTAINERD_ADDRESS
}

# A docker daemon that answers, likewise.
ensure_dockerd() {
    local folder=$1
    if ! docker info >/dev/null 2>&1; then
        mkdir -p "$folder"
        export DOCKER_HOST=unix://$folder/docker.sock
        say "starting a dockerd below $folder"
        start "$folder/dockerd.log" dockerd --host "$DOCKER_HOST" --containerd "$CONTAINERD_ADDRESS" \
            --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/docker.pid"
        wait_for 60 docker info || die "dockerd does not start: see $folder/dockerd.log"
    fi
}
