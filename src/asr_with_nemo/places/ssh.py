"""SSH: making keys and opening a connection with OpenSSH's programs."""

import os
import subprocess

from asr_with_nemo.errors import InputError


def ssh_keygen(*arguments: str) -> str:
    """Run ssh-keygen and return its output.

    Raises:
        InputError: it isn't installed, or it failed.
    """
    try:
        done = subprocess.run(["ssh-keygen", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise InputError("ssh-keygen isn't installed; install OpenSSH's client (Debian: openssh-client)") from error
    if done.returncode != 0:
        raise InputError(f"ssh-keygen: {done.stderr.strip()}; give another file with --key-file")
    return done.stdout


def open_ssh(command: list[str]) -> None:
    """Replace this process by the SSH session, which first prints JupyterLab's address.

    Raises:
        InputError: ssh isn't installed.
    """
    remote = "course; exec bash --login"
    try:
        os.execvp(command[0], [command[0], "-t", *command[1:], remote])
    except FileNotFoundError as error:
        raise InputError("ssh isn't installed; install OpenSSH's client (Debian: openssh-client)") from error
