"""What to launch on AWS: settings, instance families, limits and the plan, computed without any request."""

import ipaddress
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from asr_with_nemo.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = ROOT / "configs" / "aws.yaml"
USER_DATA = ROOT / "docker" / "on_instance.sh"
TAG = "asr-with-nemo"
HOURS_TAG = "asr-with-nemo-max-hours"
LAUNCH_TAG = "asr-with-nemo-launch"
"""Tells one launch from all others, by which its instance is found should AWS's answer not arrive."""
ALIVE = ("pending", "running", "stopping", "stopped")
PORT = 8888


@dataclass(frozen=True)
class Family:
    """A family of instance types with an NVIDIA GPU."""

    example: str
    gpu: str
    memory: int
    """GB, each."""
    architecture: str
    capability: float
    fits: bool
    """Whether today's container runs on it."""


@dataclass(frozen=True)
class Settings:
    """What configs/aws.yaml says."""

    image: Mapping[str, str]
    instance_type: str
    disk: int
    max_hours: float
    families: Mapping[str, Family]

    def family(self, instance_type: str) -> Family | None:
        """The family of an instance type; None for one that is not in the table."""
        return self.families.get(instance_type.split(".")[0])


def load_settings(path: Path = SETTINGS) -> Settings:
    """Read configs/aws.yaml."""
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    least = read["least_capability"]
    families = {name: Family(**values, fits=values["capability"] >= least) for name, values in read["families"].items()}
    return Settings(read["image"], read["instance_type"], read["disk"], read["max_hours"], families)


@dataclass
class Plan:
    """What a launch is going to start."""

    name: str
    instance_type: str
    spot: bool
    disk: int
    """GB."""
    max_hours: float
    """0: no end."""
    tags: Mapping[str, str]
    key_name: str
    key_file: Path
    repository: str
    image: Mapping[str, Any]
    """As EC2 describes it."""
    address: str
    """The caller's, IPv4."""
    region: str
    price: str | None
    unused_gpu: str | None
    """The GPU, if it is too old: the course runs on the CPU."""

    @property
    def root_disk(self) -> dict:
        """The root volume: as large as asked for, but not smaller than the image's own."""
        name = self.image["RootDeviceName"]
        own = next(
            (m["Ebs"].get("VolumeSize", 0) for m in self.image["BlockDeviceMappings"] if m.get("DeviceName") == name), 0
        )
        ebs = {"VolumeSize": max(self.disk, own), "VolumeType": "gp3", "DeleteOnTermination": True, "Encrypted": True}
        return {"DeviceName": name, "Ebs": ebs}

    def lines(self) -> list[str]:
        """What is going to be, for a person."""
        hours = f"terminates itself {self.max_hours:g} hours after each start" if self.max_hours else "has no end"
        if self.unused_gpu:
            container = f"the container for the CPU: the {self.unused_gpu} is too old for CUDA 13 and stays unused"
        else:
            container = "NVIDIA's container"
        return [
            f"instance     {self.instance_type}{', spot' if self.spot else ''}, in {self.region}; {hours}",
            f"price        {self.price or 'not known: AWS was asked and gave none'}",
            f"image        {self.image['ImageId']}, {self.image['Name']}",
            f"disk         {self.root_disk['Ebs']['VolumeSize']} GB, deleted with the instance",
            f"key pair     {self.key_name}, {self.key_file}",
            f"lets in      SSH from {self.address} only",
            f"tags         {', '.join(f'{key}={value}' for key, value in self.all_tags().items())}",
            f"on it        {self.repository}",
            f"in           {container}",
            f"             with JupyterLab on the instance's own localhost:{PORT}",
        ]

    def all_tags(self) -> dict[str, str]:
        return {"Name": self.name, **self.tags, TAG: self.name, HOURS_TAG: f"{self.max_hours:g}"}

    def user_data(self, login: str) -> str:
        """What the instance runs at its first start: docker/on_instance.sh with this plan's settings."""
        settings = {
            "MAX_MINUTES": math.ceil(self.max_hours * 60),
            "REPOSITORY": self.repository,
            "DOCKERFILE": "docker/Dockerfile.cpu" if self.unused_gpu else "docker/Dockerfile",
            "LOGIN": login,
        }
        lines = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
        return USER_DATA.read_text(encoding="utf-8").replace("# SETTINGS\n", lines, 1)


def check_settings(address: str) -> str:
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError as error:
        raise InputError(
            f"{address!r} is not one IPv4 address, such as 203.0.113.7; give yours: --my-address"
        ) from error
    if parsed.is_unspecified:
        raise InputError(f"{address} stands for everybody; give your own address: --my-address")
    return address


def aws_tags(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as AWS's API writes them."""
    return [{"Key": key, "Value": value} for key, value in mapping.items()]


def tags(instance: Mapping[str, Any]) -> dict[str, str]:
    """An instance's tags."""
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}


def describe_plan(instance: Mapping[str, Any]) -> str:
    """An instance in a line: what it is, since when it runs, and when it ends."""
    held = tags(instance)
    since = instance["LaunchTime"].astimezone(UTC)
    state = instance["State"]["Name"]
    parts = [held[TAG], instance["InstanceId"], instance["InstanceType"], state]
    if instance.get("InstanceLifecycle") == "spot":
        parts.append("spot")
    if instance.get("PublicIpAddress"):
        parts.append(instance["PublicIpAddress"])
    if state in ("pending", "running"):
        hours = (datetime.now(UTC) - since).total_seconds() / 3600
        parts.append(f"running for {hours:.1f} hours")
        limit = float(held.get(HOURS_TAG, 0))
        end = f"ends itself at {since + timedelta(hours=limit):%Y-%m-%d %H:%M} UTC" if limit else "WITH NO END"
        parts.append(end)
    elif state == "stopped":
        parts.append("its disk goes on costing")
    return ", ".join(parts)
