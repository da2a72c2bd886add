#!/usr/bin/env bash
# What a fresh instance of AWS's runs once, as root: first the end of the instance, then the course in its container,
# with JupyterLab on the instance's own localhost. scripts/launch_aws.py puts its settings in the place of these:
# SETTINGS
MAX_MINUTES=${MAX_MINUTES:-480}                     # after each start; 0: it ends when somebody ends it
REPOSITORY=${REPOSITORY:?the address that the course is cloned from}
DOCKERFILE=${DOCKERFILE:-docker/Dockerfile}         # docker/Dockerfile.cpu where the GPU is too old
LOGIN=${LOGIN:-ubuntu}
set -euo pipefail
exec >>/var/log/course.log 2>&1
date -u

# A timer, because user data runs at the first start only, and the end must hold after `stop` too. The instance is
# started such that it terminates when it shuts down.
if ((MAX_MINUTES > 0)); then
    cat >/etc/systemd/system/course-end.service <<UNIT
[Service]
Type=oneshot
ExecStart=/sbin/shutdown -h now "the hours that launch_aws.py was given are over"
UNIT
    cat >/etc/systemd/system/course-end.timer <<UNIT
[Timer]
OnBootSec=${MAX_MINUTES}min
[Install]
WantedBy=timers.target
UNIT
    systemctl daemon-reload
    systemctl enable --now course-end.timer
fi

home=$(getent passwd "$LOGIN" | cut -d: -f6)
umask 077
printf 'JUPYTER_TOKEN=%s\n' "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" >"$home/course.env"
chown "$LOGIN:" "$home/course.env"
umask 022

# What `launch_aws.py connect` calls: where JupyterLab is, or how far the set-up has come.
cat >/usr/local/bin/course <<'COMMAND'
#!/usr/bin/env bash
token=$(sed -n 's/^JUPYTER_TOKEN=//p' ~/course.env 2>/dev/null)
if [[ -n $token ]] && curl --silent --output /dev/null http://127.0.0.1:8888/api; then
    echo "JupyterLab, while this connection is open: http://localhost:8888/lab?token=$token"
else
    echo "The instance is still setting itself up; \`course\` tells again. Its log, /var/log/course.log, ends so:"
    tail -n 3 /var/log/course.log
fi
COMMAND
chmod 755 /usr/local/bin/course

command -v git >/dev/null || { apt-get update && apt-get install --yes git; }
runuser -u "$LOGIN" -- git clone --depth 1 "$REPOSITORY" "$home/course"
cd "$home/course"
gpu=()
if [[ $DOCKERFILE == docker/Dockerfile ]]; then
    gpu=(--gpus all)
    docker pull "$(sed -n 's/^ARG NEMO_IMAGE=//p' "$DOCKERFILE")"
fi
docker build --file "$DOCKERFILE" --tag asr-with-nemo:instance .
docker run --detach --name course --restart unless-stopped --init "${gpu[@]}" \
    --shm-size=16g --ulimit memlock=-1 --ulimit stack=67108864 \
    --publish 127.0.0.1:8888:8888 --env-file "$home/course.env" \
    --user "$(id -u "$LOGIN"):$(id -g "$LOGIN")" --volume "$home/course:/course" asr-with-nemo:instance
echo "JupyterLab is started"
