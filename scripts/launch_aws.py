#!/usr/bin/env python3
"""A GPU machine of AWS's with the course on it: start it, reach it by SSH, stop it, end it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from asr_with_nemo.cli import run
from asr_with_nemo.errors import InputError
from asr_with_nemo.places import aws
from asr_with_nemo.places.plan import TAG, describe_plan, load_settings

ABOUT = """A GPU machine of AWS's with the course on it: start it, reach it by SSH, stop it, end it.

It costs money from `launch` on until `terminate`, or until the hours of --max-hours are over, when it ends itself.
It needs an account's credentials (`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY).

    python scripts/launch_aws.py types

    python scripts/launch_aws.py launch --dry-run

    python scripts/launch_aws.py launch --instance-type g5.xlarge --max-hours 4

    python scripts/launch_aws.py connect

    python scripts/launch_aws.py terminate
"""

Name = Annotated[str, typer.Option(help="What the instance is called; two at a time need two names.")]
Region = Annotated[str | None, typer.Option(help="AWS's region, say us-east-1; by default that of AWS's own settings.")]
Profile = Annotated[str | None, typer.Option(help="Which of the profiles in ~/.aws; by default AWS_PROFILE.")]
KeyFile = Annotated[Path | None, typer.Option(help="The private key's file; by default ~/.ssh/KEY_NAME.pem.")]


def launch(
    instance_type: Annotated[
        str | None, typer.Option(help="By default that of configs/aws.yaml; `types` lists those that fit.")
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot/--on-demand", help="Spot: cheaper, can't be stopped, and AWS may take it back.")
    ] = False,
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="It ends itself after so many hours; 0: it doesn't. By default 8.")
    ] = None,
    disk: Annotated[int | None, typer.Option(min=1, help="GB of disk; by default 150.")] = None,
    ami: Annotated[
        str | None, typer.Option(help="An image's id; by default the newest NVIDIA GPU-Optimized AMI.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag, key=value, on all that is made; repeatable.")] = None,
    key_name: Annotated[str, typer.Option(help="The key pair; it is made if there is none.")] = TAG,
    key_file: KeyFile = None,
    my_address: Annotated[
        str | None, typer.Option(help="The IPv4 address that SSH is let in from; by default yours, as AWS sees it.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option(help="What the instance clones; by default that of pyproject.toml.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also an instance whose GPU is too old; the course runs on its CPU.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be, ask AWS if it may, make nothing.")
    ] = False,
    name: Name = "course",
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Start an instance (or the stopped one of this name), and print how to reach it.

    On the instance, NVIDIA's container is pulled, the course put on top, and JupyterLab started on the instance's own
    localhost, with a token. That takes a while after this command is done; `connect` tells how far it is.

    Examples:

        python scripts/launch_aws.py launch --dry-run

        python scripts/launch_aws.py launch --instance-type g5.xlarge --spot --max-hours 4

        python scripts/launch_aws.py launch --instance-type p2.xlarge --force
    """
    wanted = aws.Cloud(region, profile, say=typer.echo)
    wanted.check_gpu(instance_type, force)
    if stopped := wanted.stopped(name):
        typer.echo(f"it is there, stopped: {describe_plan(stopped)}")
        if dry_run:
            typer.echo("--dry-run: it would be started again as it is; nothing was done")
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
            typer.echo("--dry-run: AWS would start it; nothing was made")
            return
        instance = _uninterrupted(wanted.launch, plan)
    typer.echo(f"\nIT RUNS, AND COSTS, from now on: {describe_plan(instance)}")
    typer.echo("To end it:  python scripts/launch_aws.py terminate" + ("" if name == "course" else f" --name {name}"))
    typer.echo("To reach it, from a minute on; `course` there tells the address of JupyterLab once it is up:\n")
    typer.echo("    " + " ".join(wanted.ssh(instance, key_file)))


def status(region: Region = None, profile: Profile = None) -> None:
    """List what of the course is there, whether it runs, and when it ends.

    Examples:

        python scripts/launch_aws.py status --region us-west-2
    """
    wanted = aws.Cloud(region, profile)
    found = wanted.instances()
    for instance in found:
        typer.echo(describe_plan(instance))
    if not found:
        typer.echo(f"nothing of the course's is there in {wanted.region}; other regions were not looked at")


def connect(
    name: Name = "course",
    key_file: KeyFile = None,
    show: Annotated[bool, typer.Option("--print", help="Print the SSH line instead of calling it.")] = False,
    region: Region = None,
    profile: Profile = None,
) -> None:
    """Log in, with the instance's JupyterLab on http://localhost:8888 as long as the connection stands.

    Examples:

        python scripts/launch_aws.py connect

        python scripts/launch_aws.py connect --print
    """
    wanted = aws.Cloud(region, profile)
    command = wanted.ssh(wanted.the_instance(name), key_file)
    typer.echo(" ".join(command))
    if not show:
        aws.open_ssh(command)


def stop(name: Name = "course", region: Region = None, profile: Profile = None) -> None:
    """Stop the instance and keep its disk, which goes on costing; `launch` starts it again.

    Examples:

        python scripts/launch_aws.py stop
    """
    wanted = aws.Cloud(region, profile)
    instance = wanted.the_instance(name)
    wanted.stop(instance)
    typer.echo(f"stopped {instance['InstanceId']}; its disk goes on costing until `terminate`")


def terminate(name: Name = "course", region: Region = None, profile: Profile = None) -> None:
    """End the instance for good, with its disk and all that lies on it; fetch your models first.

    Examples:

        python scripts/launch_aws.py terminate
    """
    wanted = aws.Cloud(region, profile)
    instance = wanted.the_instance(name)
    wanted.terminate(instance)
    typer.echo(f"terminated {instance['InstanceId']}, its disk and its security group; the key pair stays")


def types() -> None:
    """List instance types with their GPU, and whether today's container runs on it.

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
    typer.echo("no: `launch` starts it with --force only, and the course runs on its CPU.")
    typer.echo("Larger ones of a family (g5.2xlarge) have more cores and memory, or more of the same GPU.")


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
