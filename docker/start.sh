#!/usr/bin/env bash
# Build the course's image and start JupyterLab in it, on 127.0.0.1 and with a token: what `make docker` runs.
#
#   docker/start.sh                  the profile that fits the machine: gpu or cpu
#   PROFILE=cpu docker/start.sh      this one
#   PROFILE=serve docker/start.sh    the server instead, without NeMo, with an API key
#   PORT=8889 docker/start.sh        another port on this machine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $1" >&2
    exit 1
}

# The profile that fits: gpu where Docker can hand on an NVIDIA GPU that the image's CUDA 13 still knows.
fitting_profile() {
    local capability
    if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
        echo "No NVIDIA GPU is found here: the course runs on the CPU." >&2
        echo cpu
        return
    fi
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | sort -n | head -1)
    if [[ $capability =~ ^([0-9]+)\.([0-9]+)$ ]] && ((BASH_REMATCH[1] * 10 + BASH_REMATCH[2] < 75)); then
        echo "This GPU's compute capability is $capability; CUDA 13 needs 7.5 (Turing) or later: the CPU it is." >&2
        echo cpu
    elif ! docker info 2>/dev/null | grep -qi nvidia; then
        echo "There is an NVIDIA GPU, but Docker can't hand it on: install NVIDIA's Container Toolkit" \
            "(https://docs.nvidia.com/datacenter/cloud-native/container-toolkit). Until then, the CPU it is." >&2
        echo cpu
    else
        echo gpu
    fi
}

command -v docker >/dev/null || fail "no docker here. Install Docker Desktop (macOS, Windows) or Docker Engine (Linux)."
docker compose version >/dev/null 2>&1 || fail "this docker has no compose: install the docker-compose-plugin package."
docker info >/dev/null 2>&1 ||
    fail "Docker's engine doesn't answer. Start Docker Desktop, or: sudo systemctl start docker. Then the same again."

profile=${PROFILE:-$(fitting_profile)}
[[ $profile == cpu || $profile == gpu || $profile == serve ]] ||
    fail "PROFILE=$profile: expected cpu, gpu or serve"
secret=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export COURSE_USER=${COURSE_USER:-$(id -u):$(id -g)}
export JUPYTER_TOKEN=${JUPYTER_TOKEN:-$secret} # compose asks for it, whatever the profile

if [[ $profile == serve ]]; then
    export PORT=${PORT:-8000} ASR_API_KEY=${ASR_API_KEY:-$secret}
    echo "Profile serve. The first build takes a minute; then the server is at http://127.0.0.1:$PORT/, with the API key"
    echo "    $ASR_API_KEY"
else
    export PORT=${PORT:-8888}
    echo "Profile $profile. The first build takes minutes; then JupyterLab is at"
    echo "    http://127.0.0.1:$PORT/lab?token=$JUPYTER_TOKEN"
fi
echo "Ctrl-C stops it."
exec docker compose --project-name asr-with-nemo --file docker/compose.yaml --profile "$profile" up --build
