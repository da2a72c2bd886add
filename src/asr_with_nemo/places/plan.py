"""The plan of a launch on AWS: settings, instance families, tags and the first start's script; sends no request."""

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

_ROOT = Path(__file__).resolve().parents[3]
SETTINGS = _ROOT / "configs" / "aws.yaml"
_USER_DATA = _ROOT / "docker" / "on_instance.sh"
TAG = "asr-with-nemo"
_HOURS_TAG = "asr-with-nemo-max-hours"
LAUNCH_TAG = "asr-with-nemo-launch"
"""Unique per launch: finds the instance if AWS's response is lost."""
ALIVE = ("pending", "running", "stopping", "stopped")
PORT = 8888


@dataclass(frozen=True)
class Family:
    """A family of instance types with an NVIDIA GPU."""

    example: str
    gpu: str
    memory: int
    """Of one GPU, in GB."""
    architecture: str
    capability: float
    fits: bool
    """Whether the current container supports it."""


@dataclass(frozen=True)
class Settings:
    """The settings in configs/aws.yaml."""

    image: Mapping[str, str]
    instance_type: str
    disk: int
    max_hours: float
    families: Mapping[str, Family]

    def family(self, instance_type: str) -> Family | None:
        """Return the family of an instance type; None if configs/aws.yaml doesn't list it."""
        return self.families.get(instance_type.split(".")[0])


def load_settings(path: Path = SETTINGS) -> Settings:
    """Read configs/aws.yaml."""
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    least = read["least_capability"]
    families = {name: Family(**values, fits=values["capability"] >= least) for name, values in read["families"].items()}
    return Settings(read["image"], read["instance_type"], read["disk"], read["max_hours"], families)


@dataclass
class Plan:
    """The instance that a launch will start."""

    name: str
    instance_type: str
    spot: bool
    disk: int
    """GB."""
    max_hours: float
    """0 for no limit."""
    tags: Mapping[str, str]
    key_name: str
    key_file: Path
    repository: str
    image: Mapping[str, Any]
    """As EC2's DescribeImages returns it."""
    address: str
    """The caller's IPv4 address."""
    region: str
    price: str | None
    unused_gpu: str | None
    """The GPU, if it is too old and the course runs on the CPU."""

    @property
    def root_disk(self) -> dict:
        """The root volume's mapping: of the requested size, but not smaller than the image's."""
        name = self.image["RootDeviceName"]
        own = next(
            (m["Ebs"].get("VolumeSize", 0) for m in self.image["BlockDeviceMappings"] if m.get("DeviceName") == name), 0
        )
        ebs = {"VolumeSize": max(self.disk, own), "VolumeType": "gp3", "DeleteOnTermination": True, "Encrypted": True}
        return {"DeviceName": name, "Ebs": ebs}

    def lines(self) -> list[str]:
        """Return the plan as text, line by line."""
        hours = f"terminates itself {self.max_hours:g} hours after each start" if self.max_hours else "NO TIME LIMIT"
        if self.unused_gpu:
            container = f"for the CPU: the {self.unused_gpu} is too old for CUDA 13 and stays unused"
        else:
            container = "NVIDIA's"
        return [
            f"instance     {self.instance_type}{', spot' if self.spot else ''}, in {self.region}; {hours}",
            f"price        {self.price or 'unknown: AWS gave none'}",
            f"image        {self.image['ImageId']}, {self.image['Name']}",
            f"disk         {self.root_disk['Ebs']['VolumeSize']} GB, deleted with the instance",
            f"key pair     {self.key_name}, {self.key_file}",
            f"access       SSH from {self.address} only",
            f"tags         {', '.join(f'{key}={value}' for key, value in self.all_tags().items())}",
            f"course       {self.repository}",
            f"container    {container}",
            f"             with JupyterLab on the instance's own localhost:{PORT}",
        ]

    def all_tags(self) -> dict[str, str]:
        """Return the tags of everything that the launch makes."""
        return {"Name": self.name, **self.tags, TAG: self.name, _HOURS_TAG: f"{self.max_hours:g}"}

    def user_data(self, login: str) -> str:
        """Return the script of the instance's first start: docker/on_instance.sh with this plan's settings.

        Args:
            login: the image's user.
        """
        settings = {
            "MAX_MINUTES": math.ceil(self.max_hours * 60),
            "REPOSITORY": self.repository,
            "DOCKERFILE": "docker/Dockerfile.cpu" if self.unused_gpu else "docker/Dockerfile",
            "LOGIN": login,
        }
        lines = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
        return _USER_DATA.read_text(encoding="utf-8").replace("# SETTINGS\n", lines, 1)


def check_address(address: str) -> str:
    """Return an IPv4 address unchanged.

    Raises:
        InputError: it isn't a single IPv4 address.

    Example:
        >>> check_address("203.0.113.7")
        '203.0.113.7'
    """
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError as error:
        raise InputError(
            f"{address!r} is not a single IPv4 address, such as 203.0.113.7; give yours with --my-address"
        ) from error
    if parsed.is_unspecified:
        raise InputError(f"{address} would let every machine connect; give your own address with --my-address")
    return address


def aws_tags(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags in the form of AWS's API.

    Example:
        >>> aws_tags({"owner": "me"})
        [{'Key': 'owner', 'Value': 'me'}]
    """
    return [{"Key": key, "Value": value} for key, value in mapping.items()]


def tags(instance: Mapping[str, Any]) -> dict[str, str]:
    """Return an instance's tags as a dict."""
    return {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}


def describe_instance(instance: Mapping[str, Any]) -> str:
    """Return an instance's id, type, state, running time and end, in a line."""
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
        limit = float(held.get(_HOURS_TAG, 0))
        end = (
            f"terminates itself at {since + timedelta(hours=limit):%Y-%m-%d %H:%M} UTC"
            if limit
            else "WITH NO TIME LIMIT"
        )
        parts.append(end)
    elif state == "stopped":
        parts.append("its disk still costs money")
    return ", ".join(parts)
