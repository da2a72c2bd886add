#!/usr/bin/env python3
"""Start, reach, stop and terminate a GPU instance on AWS with the course on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.places import aws
from asr_with_nemo.places.plan import TAG, describe_instance, load_settings
from asr_with_nemo.places.ssh import open_ssh

ABOUT = """Start, reach, stop and terminate a GPU instance on AWS with the course on it.

It costs money from `launch` until `terminate`, or until it terminates itself after --max-hours. It needs the
credentials of an AWS account (`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY).

    python scripts/launch_aws.py types

    python scripts/launch_aws.py launch --dry-run

    python scripts/launch_aws.py launch --instance-type g5.xlarge --max-hours 4

    python scripts/launch_aws.py connect

    python scripts/launch_aws.py terminate
"""

Name = Annotated[str, typer.Option(help="The instance's name; a second instance needs another one.")]
Region = Annotated[
    str | None, typer.Option(help="AWS region, such as us-east-1; by default that of your AWS configuration.")
]
Profile = Annotated[str | None, typer.Option(help="Profile in ~/.aws; by default AWS_PROFILE.")]
KeyFile = Annotated[Path | None, typer.Option(help="File of the private key; by default ~/.ssh/KEY_NAME.pem.")]


def launch(
    instance_type: Annotated[
        str | None, typer.Option(help="By default that of configs/aws.yaml; `types` lists the supported ones.")
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot/--on-demand", help="Spot is cheaper, but can't be stopped, and AWS may end it.")
    ] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Hours after which it terminates itself; 0 for never. By default 8.")
    ] = None,
    disk: Annotated[int | None, typer.Option(min=1, help="Size of the disk in GB; by default 150.")] = None,
    ami: Annotated[
        str | None, typer.Option(help="Id of an image; by default the newest NVIDIA GPU-Optimized AMI.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag key=value for everything that is created; repeatable.")
    ] = None,
    key_name: Annotated[str, typer.Option(help="Name of the key pair, which is created if missing.")] = TAG,
    key_file: KeyFile = None,
    my_address: Annotated[
        str | None, typer.Option(help="IPv4 address allowed to connect by SSH; by default yours.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option(help="Address to clone the course from; by default that in pyproject.toml.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Allow an instance whose GPU is too old; the course runs on its CPU.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, check permission with AWS, create nothing.")
    ] = False,
    name: Name = "course",
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Start an instance (or the stopped one with this name), and print how to reach it.

    The instance pulls NVIDIA's container, installs the course, and starts JupyterLab on its own localhost, with a
    token. That takes several minutes after this command has finished; `connect` shows the progress.

    Examples:

        python scripts/launch_aws.py launch --dry-run

        python scripts/launch_aws.py launch --instance-type g5.xlarge --spot --max-hours 4
    """
    wanted = aws.Cloud(region, profile, say=typer.echo)
    wanted.check_gpu(instance_type, force)
    if stopped := wanted.stopped(name):
        typer.echo(f"restarting the stopped instance: {describe_instance(stopped)}")
        if dry_run:
            typer.echo("--dry-run: the stopped instance would be started; nothing was done")
            return
        instance = _uninterrupted(wanted.start, stopped)
    else:
        plan = wanted.plan(
            name=name,
            instance_type=instance_type,
            ami=ami,
            spot=spot,
            disk=disk,
            max_hours=max_hours,
            extra_tags=dict(_tag(text) for text in tag or []),
            key_name=key_name,
            key_file=key_file,
            repository=repository,
            address=my_address,
            force=force,
        )
        typer.echo("\n".join(plan.lines()))
        if dry_run:
            wanted.may_launch(plan)
            typer.echo("--dry-run: AWS would start it; nothing was created")
            return
        instance = _uninterrupted(wanted.launch, plan)
    typer.echo(f"\nIT IS RUNNING AND COSTS MONEY: {describe_instance(instance)}")
    typer.echo("To end it:  python scripts/launch_aws.py terminate" + ("" if name == "course" else f" --name {name}"))
    typer.echo("To reach it, in about a minute (`course` there prints JupyterLab's address once it is up):\n")
    typer.echo("    " + " ".join(wanted.ssh(instance, key_file)))


def status(region: Region = None, profile: Profile = None) -> None:
    """List the course's instances in a region, their state, and when they terminate themselves.

    Examples:

        python scripts/launch_aws.py status --region us-west-2
    """
    wanted = aws.Cloud(region, profile)
    found = wanted.instances()
    for instance in found:
        typer.echo(describe_instance(instance))
    if not found:
        typer.echo(f"the course has no instances in {wanted.region}; other regions were not checked")


def connect(
    name: Name = "course",
    key_file: KeyFile = None,
    show: Annotated[bool, typer.Option("--print", help="Print the SSH command instead of running it.")] = False,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Log in by SSH; while connected, the instance's JupyterLab is at http://localhost:8888.

    Examples:

        python scripts/launch_aws.py connect

        python scripts/launch_aws.py connect --print
    """
    wanted = aws.Cloud(region, profile)
    command = wanted.ssh(wanted.the_instance(name), key_file)
    typer.echo(" ".join(command))
    if not show:
        open_ssh(command)


def stop(name: Name = "course", region: Region = None, profile: Profile = None) -> None:
    """Stop the instance; `launch` starts it again. Its disk is kept and still costs money.

    Examples:

        python scripts/launch_aws.py stop
    """
    wanted = aws.Cloud(region, profile)
    instance = wanted.the_instance(name)
    wanted.stop(instance)
    typer.echo(f"stopped {instance['InstanceId']}; its disk costs money until `terminate`")


def terminate(name: Name = "course", region: Region = None, profile: Profile = None) -> None:
    """Delete the instance, with its disk and all files on it; download your models first.

    Examples:

        python scripts/launch_aws.py terminate
    """
    wanted = aws.Cloud(region, profile)
    instance = wanted.the_instance(name)
    wanted.terminate(instance)
    typer.echo(f"terminated {instance['InstanceId']}, its disk and its security group; the key pair is kept")


def types() -> None:
    """List instance types with their GPU, and whether the current container supports it.

    Examples:

        python scripts/launch_aws.py types
    """
    settings = load_settings()
    table = Table("instance type", "GPU", "memory", "architecture", "compute capability", "container runs")
    for family in settings.families.values():
        answer = "yes" if family.fits else "no"
        table.add_row(
            family.example, family.gpu, f"{family.memory} GB", family.architecture, str(family.capability), answer
        )
    Console().print(table)
    typer.echo("no: `launch` needs --force, and the course runs on the CPU.")
    typer.echo("Larger sizes of a family (g5.2xlarge) have more cores and memory, or more of the same GPUs.")


def _uninterrupted(start: Callable[[Any], dict], what: Any) -> dict:
    try:
        return start(what)
    except KeyboardInterrupt:
        raise InputError("interrupted") from None


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise InputError(f"--tag {text}: expected key=value")
    return key, value


if __name__ == "__main__":
    run(launch, status, connect, stop, terminate, types, about=ABOUT)
