#!/usr/bin/env bash
# Try the course out inside its container: the core path on a small corpus, and JupyterLab with and without its token.
#
#   docker run --rm asr-with-nemo:cpu docker/smoke.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

echo "user $(id -u), $("$VENV/bin/python" --version), torch $("$VENV/bin/python" -c 'import torch; print(torch.__version__)')"
[[ $(id -u) != 0 ]] || echo "as root: the image's own user is 1000"
"$VENV/bin/python" scripts/prepare_an4.py --source synthetic --utterances 60
UTTERANCES=60 EPOCHS=2 make tutorial

# Only here, inside: what `docker run` publishes is not part of this.
JUPYTER_TOKEN=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
PORT=${PORT:-18888}
export JUPYTER_TOKEN PORT
make lab LAB_OPTIONS=--no-browser >/tmp/lab.log 2>&1 &
trap 'kill $! 2>/dev/null || true' EXIT
"$VENV/bin/python" - <<'PYTHON'
import os, time, urllib.error, urllib.request

address = f"http://127.0.0.1:{os.environ['PORT']}/api/contents"


def status(headers: dict) -> int:
    try:
        return urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code


for _ in range(120):
    try:
        status({})
        break
    except OSError:
        time.sleep(0.5)
without, with_token = status({}), status({"Authorization": f"token {os.environ['JUPYTER_TOKEN']}"})
print(f"JupyterLab: {without} without its token, {with_token} with it")
assert (without, with_token) == (403, 200)
PYTHON
echo "smoke test passed"
