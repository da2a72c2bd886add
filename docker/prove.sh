#!/usr/bin/env bash
# Prove the container for the CPU: build it, build it again after a change to a notebook, and run docker/smoke.sh in it
# as its own user. `make proofs` runs this; the summary goes to build/proofs.txt.
#
#   docker/prove.sh            with Docker where its engine answers, else with buildah
#   docker/prove.sh buildah    with buildah, as root, on a base that debootstrap makes: no registry of images is asked
#
# BUILD_OPTIONS: more options for the build, such as --build-arg TORCH_BACKEND= or --volume FILE:FILE. BASE: a folder
# where debootstrap's system is, or goes, for buildah. STORAGE: where buildah keeps layers (15 GB; removed at the end).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

engine=${1:-}
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
work=$(mktemp -d)
context=$work/context
STORAGE=${STORAGE:-$work/storage}
log=build/proofs.log
mkdir -p build
: >"$log"
summary=("image: $engine, $(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)")

clean_up() {
    if [[ $engine == docker ]]; then
        docker image rm "$image" >/dev/null 2>&1 || true
    else
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

build() {
    if [[ $engine == docker ]]; then
        docker build --file "$context/docker/Dockerfile.cpu" --tag "$image" "${options[@]}" "$context"
    else
        buildah_ build --isolation chroot --layers --pull-never --format docker \
            --build-arg PYTHON_IMAGE=localhost/python-stand-in "${options[@]}" \
            --file "$context/docker/Dockerfile.cpu" --tag "$image" "$context"
    fi
}

build_again() {
    build 2>&1 | tee "$work/again"
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

size() {
    if [[ $engine == docker ]]; then
        docker image inspect --format '{{.Size}}' "$image"
    else
        buildah_ images --json "$image" | sed -n 's/.*"size": "\(.*\)".*/\1/p'
    fi
}

# A copy of what git knows, so that the change for the second build changes nothing here.
mkdir "$context"
git ls-files -z --cached --others --exclude-standard |
    tar --create --null --files-from - | tar --extract --directory "$context"

[[ $engine == docker ]] || step "base made with debootstrap, in the place of python:slim" make_base
step "build" build
echo >>"$context/notebooks/01_data.ipynb"
step "build again, after a change to a notebook" build_again
step "smoke test in it" smoke
summary+=("size: $(size)")
grep -hE "^(user [0-9]+,|corpus:|epochs:|WER on test|JupyterLab:|smoke test)" "$log" >"$work/said"
mapfile -t said <"$work/said"
printf '%s\n' "${summary[@]}" "${said[@]}" | tee build/proofs.txt
