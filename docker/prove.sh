#!/usr/bin/env bash
# Prove the containers. The course's for the CPU: build it, build it again after a change to a notebook, and run
# docker/smoke.sh in it as its own user. The server's: build it, start it on a file system that it can't write to, and ask
# it for a transcript. `make proofs` runs this; the summary goes to build/proofs.txt.
#
#   docker/prove.sh                  with Docker where its engine answers, else with buildah
#   docker/prove.sh buildah          with buildah, as root, on a base that debootstrap makes: no registry of images is asked
#   docker/prove.sh buildah serve    one of them only: course or serve
#
# BUILD_OPTIONS: more options for the build, such as --build-arg TORCH_BACKEND= or --volume FILE:FILE. BASE: a folder
# where debootstrap's system is, or goes, for buildah. STORAGE: where buildah keeps layers (15 GB; removed at the end).
# VENV: the course's environment here, whose voices say something to the server.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine=${1:-}
which=${2:-course serve}
if [[ -z $engine ]]; then
    engine=buildah
    ! docker info >/dev/null 2>&1 || engine=docker
fi
command -v "$engine" >/dev/null || {
    echo "error: neither Docker's engine nor buildah is here (Debian: apt install buildah debootstrap)" >&2
    exit 1
}
read -ra options <<<"${BUILD_OPTIONS:-}"
image=asr-with-nemo:proof
server_image=asr-with-nemo:proof-serve
server=
work=$(mktemp -d)
context=$work/context
STORAGE=${STORAGE:-$work/storage}
log=build/proofs.log
mkdir -p build
: >"$log"
summary=("image: $engine, $(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)")

clean_up() {
    if [[ $engine == docker ]]; then
        [[ -z $server ]] || docker rm --force "$server" >/dev/null 2>&1 || true
        docker image rm "$image" "$server_image" >/dev/null 2>&1 || true
    else
        [[ -z $server ]] || pkill -P "$server" || true # the server itself, below unshare
        buildah_ rm --all >/dev/null 2>&1 || true
        rm -rf "$STORAGE"
    fi
    rm -rf "$work"
}
trap clean_up EXIT

# step NAME COMMAND...: run it into the log, and note the seconds that it took.
step() {
    local name=$1 started=$SECONDS
    shift
    echo "$name ..."
    if ! "$@" >>"$log" 2>&1; then
        tail -n 25 "$log" >&2
        echo "error: $name failed; $log has it all" >&2
        exit 1
    fi
    summary+=("$name: $((SECONDS - started)) s")
    echo "$name: $((SECONDS - started)) s"
}

buildah_() { buildah --storage-driver "${STORAGE_DRIVER:-overlay}" --root "$STORAGE" "$@"; }

make_base() {
    local folder=${BASE:-$work/base}
    [[ -d $folder/usr ]] ||
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$folder"
    local container
    container=$(buildah_ from scratch)
    buildah_ copy --quiet "$container" "$folder" /
    buildah_ commit --quiet --format docker "$container" localhost/python-stand-in
    buildah_ rm "$container"
}

# build DOCKERFILE TAG
build() {
    if [[ $engine == docker ]]; then
        docker build --file "$context/docker/$1" --tag "$2" "${options[@]}" "$context"
    else
        buildah_ build --isolation chroot --layers --pull-never --format docker \
            --build-arg PYTHON_IMAGE=localhost/python-stand-in "${options[@]}" \
            --file "$context/docker/$1" --tag "$2" "$context"
    fi
}

build_again() {
    build Dockerfile.cpu "$image" 2>&1 | tee "$work/again"
    # The layer with the requirements is the one of before: set-up didn't run.
    if grep -q "is ready, after" "$work/again"; then
        echo "a change to a notebook made set-up run again"
        return 1
    fi
}

smoke() {
    if [[ $engine == docker ]]; then
        docker run --rm --shm-size 2g "$image" docker/smoke.sh
    else
        local container
        container=$(buildah_ from --pull-never "$image")
        buildah_ run --isolation chroot "$container" -- docker/smoke.sh
    fi
}

# The server with its file system read-only but for /tmp, as its own user; its address goes to $address.
start_server() {
    export ASR_API_KEY=proof
    if [[ $engine == docker ]]; then
        server=$(docker run --detach --read-only --tmpfs /tmp --cap-drop ALL --env ASR_API_KEY \
            --publish 127.0.0.1::8000 "$server_image")
        address=http://$(docker port "$server" 8000)
        return
    fi
    : >"$work/server"
    # buildah's own `run` knows no read-only root. The network is this machine's, so nobody else may connect.
    local root format='{{range .OCIv1.Config.Entrypoint}}{{println .}}{{end}}'
    mapfile -t entrypoint < <(buildah_ inspect --type image --format "$format" "$server_image" | grep .)
    root=$(buildah_ mount "$(buildah_ from --pull-never "$server_image")")
    # shellcheck disable=SC2016
    unshare --mount --pid --fork --kill-child bash -c '
        root=$1
        shift
        mount --bind "$root" "$root"
        mount --bind /dev "$root/dev"
        mount -t proc proc "$root/proc"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount -o remount,bind,ro "$root"
        exec chroot --userspec=1000:1000 "$root" env --ignore-environment ASR_API_KEY="$ASR_API_KEY" \
            PATH=/opt/serve/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 "$@"' \
        - "$root" "${entrypoint[@]}" --host=127.0.0.1 --port=0 an4 >"$work/server" &
    server=$!
    for _ in {1..150}; do
        address=$(sed -n 's/^listening on \(.*\)\/$/\1/p' "$work/server")
        [[ -z $address ]] || return 0
        kill -0 "$server" && sleep 0.2
    done
    return 1
}

ask_server() {
    "${VENV:-.venv}/bin/python" - "$work/said.wav" <<'PYTHON'
import sys
import soundfile
from asr_with_nemo.data.espeak import Speaker, Voice

with Speaker() as speaker:
    soundfile.write(sys.argv[1], speaker.say("enter five six", Voice("en-us", "m3", words_per_minute=140)), speaker.rate)
PYTHON
    start_server || return 1
    curl --silent --show-error --fail --output /dev/null --retry 60 --retry-delay 1 --retry-all-errors "$address/healthz"
    local url=$address/v1/audio/transcriptions form=(--form "file=@$work/said.wav" --form model=an4)
    local status text
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' "${form[@]}" "$url")
    text=$(curl --silent --show-error --fail --header "Authorization: Bearer $ASR_API_KEY" \
        --form response_format=text "${form[@]}" "$url")
    echo "server: $status without its key; heard with it: $text"
    [[ $status == 401 && -n $text ]]
}

# size TAG
size() {
    if [[ $engine == docker ]]; then
        docker image inspect --format '{{.Size}}' "$1"
    else
        buildah_ images --json "$1" | sed -n 's/.*"size": "\(.*\)".*/\1/p'
    fi
}

# A copy of what git knows, so that the change for the second build changes nothing here.
mkdir "$context"
git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from - | tar --extract --directory "$context"

[[ $engine == docker ]] || step "base made with debootstrap, in the place of python:slim" make_base
if [[ $which == *course* ]]; then
    step "build" build Dockerfile.cpu "$image"
    echo >>"$context/notebooks/01_data.ipynb"
    step "build again, after a change to a notebook" build_again
    step "smoke test in it" smoke
    summary+=("size: $(size "$image")")
fi
if [[ $which == *serve* ]]; then
    step "build of the server" build Dockerfile.serve "$server_image"
    step "the server, asked for a transcript" ask_server
    summary+=("size of the server: $(size "$server_image")")
fi
grep -hE "^(user [0-9]+,|corpus:|epochs:|WER on test|JupyterLab:|smoke test|server:)" "$log" >"$work/said"
mapfile -t said <"$work/said"
printf '%s\n' "${summary[@]}" "${said[@]}" | tee build/proofs.txt
