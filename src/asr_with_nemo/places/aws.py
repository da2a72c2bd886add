"""Start, find, reach, stop and terminate a GPU instance on AWS for the course.

Everything that a launch makes has the tag `TAG` with the instance's name, by which the other commands find it. No
instance is left running: an interrupted launch terminates its own, and an instance has a time limit.
"""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    WaiterError,
)
from botocore.parsers import ResponseParserError

from asr_with_nemo.errors import InputError
from asr_with_nemo.places.interruptions import Interruptions
from asr_with_nemo.places.plan import (
    ALIVE,
    LAUNCH_TAG,
    PORT,
    TAG,
    Plan,
    Settings,
    aws_tags,
    check_address,
    describe_instance,
    load_settings,
    tags,
)
from asr_with_nemo.places.repository import SETTING, is_placeholder, repository_url
from asr_with_nemo.places.ssh import ssh_keygen

ADDRESS_SERVICE = "https://checkip.amazonaws.com"  # AWS's; returns the caller's address
_SIGN_IN = "the credentials are invalid or expired. Set new ones with `aws configure` or `aws sso login`"
_QUOTA = (
    "the account's quota for these instances is used up; new accounts start at 0. Request more (Service Quotas, EC2, "
)
_REFUSALS = {
    "AuthFailure": _SIGN_IN,
    "InvalidClientTokenId": _SIGN_IN,
    "RequestExpired": _SIGN_IN,
    "ExpiredToken": _SIGN_IN,
    "UnauthorizedOperation": "the credentials lack a permission. Ask the administrator for the one named below",
    "OptInRequired": "the account has not subscribed to this image. Accept its terms once, at\n    {page}\n"
    "It takes some minutes and costs nothing extra. Then run the same command again",
    "VcpuLimitExceeded": f"{_QUOTA}'Running On-Demand G and VT instances'), or use another region (--region)",
    "MaxSpotInstanceCountExceeded": f"{_QUOTA}'All G and VT Spot Instance Requests'), or leave out --spot",
    "InsufficientInstanceCapacity": "AWS has no free instance of this type there now. Try again later, or another "
    "--region or --instance-type",
    "InvalidAMIID.NotFound": "the image doesn't exist in this region; ids differ between regions. Without --ami, "
    "NVIDIA's newest image is used",
    "InvalidAMIID.Malformed": "not an image id, which looks like ami-0123456789abcdef0; correct --ami",
    "Unsupported": "AWS doesn't support this configuration. Try another --instance-type or --region",
    "PendingVerification": "AWS is still verifying this new account; that takes minutes to hours. Try again later",
}
"""The cause and next step for AWS's error codes."""


@dataclass
class Cloud:
    """One AWS account in one region.

    Attributes:
        region: by default that of AWS's own settings.
        profile: of ~/.aws; by default AWS_PROFILE.
        settings: of configs/aws.yaml.
        say: prints a line of progress.

    Raises:
        InputError: the profile doesn't exist, or no region is set.
    """

    region: str | None = None
    profile: str | None = None
    settings: Settings = field(default_factory=load_settings)
    say: Callable[[str], None] = print

    def __post_init__(self):
        try:
            self._session = boto3.Session(profile_name=self.profile, region_name=self.region)
            self._ec2 = self._session.client("ec2")
        except ProfileNotFound as error:
            raise InputError(f"{error}; `aws configure list-profiles` lists the existing ones") from error
        except NoRegionError as error:
            raise InputError("no region is set: give --region, such as us-east-1, or set AWS_DEFAULT_REGION") from error
        self.region = self._session.region_name

    # --- Looking ---

    def instances(self, name: str | None = None) -> list[dict]:
        """Return the course's instances (or those with this name) that aren't terminated, the newest last."""
        filters = [{"Name": "instance-state-name", "Values": list(ALIVE)}]
        filters.append({"Name": f"tag:{TAG}", "Values": [name]} if name else {"Name": "tag-key", "Values": [TAG]})
        with self.explained("DescribeInstances"):
            pages = self._ec2.get_paginator("describe_instances").paginate(Filters=filters)
            found = [i for page in pages for reservation in page["Reservations"] for i in reservation["Instances"]]
        return sorted(found, key=lambda instance: instance["LaunchTime"])

    def the_instance(self, name: str) -> dict:
        """Return the instance with this name.

        Raises:
            InputError: no instance has the name, or more than one.
        """
        found = self.instances(name)
        if not found:
            others = sorted({tags(instance)[TAG] for instance in self.instances()})
            raise InputError(
                f"no instance {name!r} in {self.region}; "
                + (f"existing names: {', '.join(others)} (--name)" if others else "the course has no instances there")
            )
        if len(found) > 1:
            ids = ", ".join(instance["InstanceId"] for instance in found)
            raise InputError(f"{len(found)} instances are called {name!r} ({ids}); end all but one in AWS's console")
        return found[0]

    # --- Launching ---

    def check_gpu(self, instance_type: str | None, force: bool = False) -> None:
        """Check that the container supports an instance type's GPU, if configs/aws.yaml lists it.

        Raises:
            InputError: the GPU is too old, and `force` isn't set.
        """
        instance_type = instance_type or self.settings.instance_type
        family = self.settings.family(instance_type)
        if family and not family.fits and not force:
            good = [f.example for f in self.settings.families.values() if f.fits][:3]
            raise InputError(
                f"{instance_type} has a {family.gpu} (architecture {family.architecture}, compute capability "
                f"{family.capability}), which CUDA, PyTorch and NVIDIA's container no longer support. "
                f"Use {', '.join(good[:-1])} or {good[-1]} (`launch_aws.py types` lists more), "
                "or --force to start it anyway and run the course on its CPU"
            )

    def stopped(self, name: str) -> dict | None:
        """Return the stopped instance with this name, or None.

        Raises:
            InputError: an instance with this name isn't stopped.
        """
        found = self.instances(name)
        running = [instance for instance in found if instance["State"]["Name"] != "stopped"]
        if running:
            raise InputError(
                f"the instance exists already: {describe_instance(running[-1])}. Use it with `connect`, end it with "
                "`terminate`, or give a second one another --name"
            )
        return found[-1] if found else None

    def plan(
        self,
        *,
        name: str,
        instance_type: str | None = None,
        ami: str | None = None,
        spot: bool = False,
        disk: int | None = None,
        max_hours: float | None = None,
        extra_tags: Mapping[str, str] | None = None,
        key_name: str = TAG,
        key_file: Path | None = None,
        repository: str | None = None,
        address: str | None = None,
        force: bool = False,
    ) -> Plan:
        """Query everything that a launch needs; creates nothing.

        Raises:
            InputError: the launch isn't possible, with the next step.
        """
        self.check_gpu(instance_type, force)
        instance_type = instance_type or self.settings.instance_type
        family = self.settings.family(instance_type)
        repository = repository or repository_url()
        if is_placeholder(repository):
            raise InputError(
                f"{SETTING} is still {repository}: set it to your copy's address, from which the instance clones the "
                "course, or give the address with --repository"
            )
        self._check_offered(instance_type)
        return Plan(
            name=name,
            instance_type=instance_type,
            spot=spot,
            disk=disk or self.settings.disk,
            max_hours=self.settings.max_hours if max_hours is None else max_hours,
            tags=extra_tags or {},
            key_name=key_name,
            key_file=key_file or Path.home() / ".ssh" / f"{key_name}.pem",
            repository=repository,
            image=self._image(ami),
            address=check_address(address) if address else own_address(),
            region=self.region,
            price=self.price(instance_type),
            unused_gpu=family.gpu if family and not family.fits else None,
        )

    def _check_offered(self, instance_type: str) -> None:
        with self.explained("DescribeInstanceTypeOfferings"):
            found = self._ec2.describe_instance_type_offerings(
                LocationType="region", Filters=[{"Name": "instance-type", "Values": [instance_type]}]
            )["InstanceTypeOfferings"]
        if not found:
            examples = ", ".join(f.example for f in self.settings.families.values() if f.fits)
            raise InputError(
                f"AWS offers no instance type {instance_type!r} in {self.region}. Supported types: {examples}; "
                "regions differ in what they offer (--region)"
            )

    def _image(self, ami: str | None) -> dict:
        wanted = self.settings.image
        with self.explained("DescribeImages"):
            if ami:
                images = self._ec2.describe_images(ImageIds=[ami])["Images"]
            else:
                filters = {"name": wanted["name"], "architecture": "x86_64", "state": "available"}
                images = self._ec2.describe_images(
                    Owners=[wanted["owner"]],
                    Filters=[{"Name": key, "Values": [value]} for key, value in filters.items()],
                )["Images"]
        if not images:
            raise InputError(
                f"no image {ami or wanted['name']!r} found in {self.region}. NVIDIA's is on AWS Marketplace: "
                f"{wanted['page']}. Use another --region, or another image with Docker and NVIDIA's driver (--ami)"
            )
        return max(images, key=lambda image: image.get("CreationDate", ""))

    def price(self, instance_type: str) -> str | None:
        """Return the on-demand price of an hour by AWS's pricing API; None if it returns none."""
        wanted = {
            "instanceType": instance_type,
            "regionCode": self.region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        try:
            # The pricing API has no endpoint in most regions; this one covers all of them.
            answer = self._session.client("pricing", region_name="us-east-1").get_products(
                ServiceCode="AmazonEC2",
                Filters=[{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()],
            )
            (product,) = answer["PriceList"]
            (term,) = json.loads(product)["terms"]["OnDemand"].values()
            (dimension,) = term["priceDimensions"].values()
            amount = float(dimension["pricePerUnit"]["USD"])
        except (BotoCoreError, ClientError, KeyError, ValueError):
            return None
        return f"{amount:.3f} USD an hour on demand (AWS's pricing API), plus disk and traffic"

    def may_launch(self, plan: Plan) -> None:
        """Check with a dry run whether AWS would start the instance.

        Raises:
            InputError: AWS wouldn't.
        """
        try:
            self._ec2.run_instances(
                DryRun=True, ImageId=plan.image["ImageId"], InstanceType=plan.instance_type, MinCount=1, MaxCount=1
            )
        except ClientError as error:
            if _code_of(error) != "DryRunOperation":  # it would have started it
                raise self._refusal("RunInstances", error) from error
        except BotoCoreError as error:
            raise self._no_answer("RunInstances", error) from error

    def launch(self, plan: Plan) -> dict:
        """Create the key pair and security group, start the instance, wait until it runs, and return it.

        If the launch is interrupted, or fails after the instance was started, the instance is terminated.

        Raises:
            InputError: the key pair or the security group can't be used, or AWS refuses.
            KeyboardInterrupt: it was interrupted; the instance is terminated.
        """
        self._key_pair(plan)
        group = self._security_group(plan)
        token = str(uuid.uuid4())
        held = aws_tags(plan.all_tags() | {LAUNCH_TAG: token})
        request = {
            "ImageId": plan.image["ImageId"],
            "InstanceType": plan.instance_type,
            "KeyName": plan.key_name,
            "SecurityGroupIds": [group],
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": token,
            "UserData": plan.user_data(self.settings.image["user"]),
            "BlockDeviceMappings": [plan.root_disk],
            "TagSpecifications": [{"ResourceType": kind, "Tags": held} for kind in ("instance", "volume")],
            "MetadataOptions": {"HttpTokens": "required"},
            # So that the instance's own timer terminates it, which ends the costs, and doesn't only stop it.
            "InstanceInitiatedShutdownBehavior": "terminate",
        }
        if plan.spot:
            request["InstanceMarketOptions"] = {"MarketType": "spot"}
        # From here on, an instance may run and cost money: no signal may separate the request from its response.
        with Interruptions(self.say) as interruptions:
            started = None
            try:
                with self.explained("RunInstances"):
                    started = self._ec2.run_instances(**request)["Instances"][0]
                self.say(f"started {started['InstanceId']}; waiting until it runs ...")
                return self._wait_until_running(started["InstanceId"], interruptions)
            except BaseException as error:
                if started or not _is_refusal(error.__cause__):
                    self._undo(token)
                raise

    def start(self, instance: Mapping[str, Any]) -> dict:
        """Start a stopped instance, and wait until it runs; if interrupted, stop it again.

        Raises:
            InputError: AWS refuses.
            KeyboardInterrupt: it was interrupted.
        """
        ids = [instance["InstanceId"]]
        with Interruptions(self.say) as interruptions:
            with self.explained("StartInstances"):
                self._ec2.start_instances(InstanceIds=ids)
            try:
                return self._wait_until_running(ids[0], interruptions)
            except BaseException:
                with self.explained("StopInstances"):
                    self._ec2.stop_instances(InstanceIds=ids)
                self.say(f"stopped {ids[0]} again")
                raise

    def _wait_until_running(self, instance_id: str, interruptions: "Interruptions", seconds: float = 600) -> dict:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with self.explained("DescribeInstances"):
                instance = self._by_id(instance_id)
            interruptions.check()
            state = instance["State"]["Name"] if instance else "pending"
            if state == "running" and instance.get("PublicIpAddress"):
                return instance
            if state in ("shutting-down", "terminated"):
                reason = instance.get("StateReason", {}).get("Message", "no reason given")
                raise InputError(f"AWS ended {instance_id} before it ran: {reason}")
            interruptions.wait(2)
        raise InputError(f"{instance_id} did not run within {seconds / 60:.0f} minutes")

    def _by_id(self, instance_id: str) -> dict | None:
        try:
            reservations = self._ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
        except ClientError as error:
            if _code_of(error) == "InvalidInstanceID.NotFound":  # a new instance isn't visible everywhere at once
                return None
            raise
        return reservations[0]["Instances"][0]

    def _undo(self, token: str, tries: int = 5) -> None:
        """Terminate the instances of a launch, found by the tag of its request."""
        try:
            for _ in range(tries):
                found = self._ec2.describe_instances(Filters=[{"Name": f"tag:{LAUNCH_TAG}", "Values": [token]}])
                ids = [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]]
                if ids:
                    self._ec2.terminate_instances(InstanceIds=ids)
                    self.say(f"terminated {', '.join(ids)}: no instance of this launch is left")
                    return
                time.sleep(1)
        except (BotoCoreError, ClientError) as error:
            self.say(
                f"CAREFUL: an instance of this launch may be running, and AWS could not be asked to end it ({error}). "
                f"When AWS answers again, run `status` and `terminate`. The instance's tag {LAUNCH_TAG} is {token}"
            )
            return
        self.say("no instance had been started")

    def _key_pair(self, plan: Plan) -> None:
        """Create the key pair, or check that the private key here and the account's public key belong together."""
        with self.explained("DescribeKeyPairs"):
            found = self._ec2.describe_key_pairs(
                Filters=[{"Name": "key-name", "Values": [plan.key_name]}], IncludePublicKey=True
            )["KeyPairs"]
        file = plan.key_file
        if found and not file.exists():
            raise InputError(
                f"the account has a key pair {plan.key_name!r}, but {file} doesn't exist: the key was made on "
                "another machine. Copy the file from there, or use another --key-name"
            )
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made here, so that the private key never leaves this machine; ssh-keygen gives it the mode 0600.
            ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", plan.key_name, "-f", str(file))
            file.with_name(file.name + ".pub").unlink()
            self.say(f"made the key {file}")
        elif file.stat().st_mode & 0o077:
            file.chmod(0o600)
        public = ssh_keygen("-y", "-P", "", "-f", str(file)).split()[:2]
        if found:
            if found[0].get("PublicKey", "").split()[:2] not in ([], public):
                raise InputError(
                    f"the key pair {plan.key_name!r} in the account and {file} do not belong together. Use another "
                    "--key-name or --key-file"
                )
            return
        with self.explained("ImportKeyPair"):
            self._ec2.import_key_pair(
                KeyName=plan.key_name,
                PublicKeyMaterial=" ".join(public).encode(),
                TagSpecifications=[{"ResourceType": "key-pair", "Tags": aws_tags({TAG: plan.name})}],
            )

    def _security_group(self, plan: Plan) -> str:
        """Create or update the security group that allows only SSH from the caller's address; return its id."""
        rule = {
            "IpProtocol": "tcp",
            "FromPort": 22,
            "ToPort": 22,
            "IpRanges": [{"CidrIp": f"{plan.address}/32", "Description": "who started the instance"}],
        }
        with self.explained("DescribeVpcs"):
            vpcs = self._ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            raise InputError(f"{self.region} has no default network; `aws ec2 create-default-vpc` makes one")
        found = self._groups(plan.name, vpcs[0]["VpcId"])
        with self.explained("CreateSecurityGroup"):
            if not found:
                group = self._ec2.create_security_group(
                    GroupName=_group_name(plan.name),
                    Description="SSH from one address, for the course ASR with NeMo and W&B",
                    VpcId=vpcs[0]["VpcId"],
                    TagSpecifications=[{"ResourceType": "security-group", "Tags": aws_tags({TAG: plan.name})}],
                )["GroupId"]
            else:
                group = found[0]["GroupId"]
                if found[0]["IpPermissions"]:  # of an earlier address, or added by hand
                    self._ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=found[0]["IpPermissions"])
            self._ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        return group

    def _groups(self, name: str, vpc: str | None = None) -> list[dict]:
        filters = {"group-name": _group_name(name), f"tag:{TAG}": name} | ({"vpc-id": vpc} if vpc else {})
        with self.explained("DescribeSecurityGroups"):
            return self._ec2.describe_security_groups(
                Filters=[{"Name": key, "Values": [value]} for key, value in filters.items()]
            )["SecurityGroups"]

    # --- Afterwards ---

    def ssh(self, instance: Mapping[str, Any], key_file: Path | None = None) -> list[str]:
        """Return the SSH command that logs in and forwards the instance's JupyterLab to this machine's localhost.

        Raises:
            InputError: the instance isn't running.
        """
        if instance["State"]["Name"] != "running" or not instance.get("PublicIpAddress"):
            state = instance["State"]["Name"]
            raise InputError(
                f"{instance['InstanceId']} is {state}"
                + ("; `launch` starts it again" if state == "stopped" else "; try again in a minute")
            )
        file = key_file or Path.home() / ".ssh" / f"{instance['KeyName']}.pem"
        return [
            *("ssh", "-i", str(file), "-o", "StrictHostKeyChecking=accept-new"),
            *("-L", f"{PORT}:localhost:{PORT}", f"{self.settings.image['user']}@{instance['PublicIpAddress']}"),
        ]

    def stop(self, instance: Mapping[str, Any]) -> None:
        """Stop an instance; its disk is kept and still costs money.

        Raises:
            InputError: it is a spot instance, which can only be terminated.
        """
        if instance.get("InstanceLifecycle") == "spot":
            raise InputError(f"{instance['InstanceId']} is a spot instance, which can't be stopped; use `terminate`")
        with self.explained("StopInstances"):
            self._ec2.stop_instances(InstanceIds=[instance["InstanceId"]])
            self._wait("instance_stopped", instance)

    def terminate(self, instance: Mapping[str, Any]) -> None:
        """Terminate an instance, with its disk and security group; the key pair is kept."""
        with self.explained("TerminateInstances"):
            self._ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
            self._wait("instance_terminated", instance)
            for group in self._groups(tags(instance)[TAG]):
                self._ec2.delete_security_group(GroupId=group["GroupId"])

    def _wait(self, what: str, instance: Mapping[str, Any]) -> None:
        try:
            self._ec2.get_waiter(what).wait(
                InstanceIds=[instance["InstanceId"]], WaiterConfig={"Delay": 3, "MaxAttempts": 200}
            )
        except WaiterError as error:
            raise InputError(
                f"{instance['InstanceId']}: AWS accepted the request, but did not complete it within ten minutes "
                f"({error}); check with `status`"
            ) from error

    # --- Errors ---

    @contextlib.contextmanager
    def explained(self, operation: str) -> Iterator[None]:
        """Turn boto3's exceptions into an `InputError` with the next step."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise InputError(
                "no AWS credentials found. Run `aws configure`, or set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or give --profile"
            ) from error
        except ClientError as error:
            raise self._refusal(operation, error) from error
        except WaiterError:
            raise
        except (BotoCoreError, ResponseParserError) as error:
            raise self._no_answer(operation, error) from error

    def _refusal(self, operation: str, error: ClientError) -> InputError:
        code = _code_of(error)
        said = error.response["Error"].get("Message", "")
        advice = _REFUSALS.get(code, "").format(page=self.settings.image["page"])
        return InputError(f"AWS refuses {operation}: {advice or 'see its message'}.\nAWS's message: {code}: {said}")

    def _no_answer(self, operation: str, error: Exception) -> InputError:
        return InputError(
            f"no response from AWS to {operation} ({error}). Check the network and the region {self.region!r}"
        )


def own_address() -> str:
    """Return this machine's public IPv4 address, as AWS's address service reports it.

    Raises:
        InputError: the service doesn't respond, or not with an IPv4 address.
    """
    try:
        answer = httpx.get(ADDRESS_SERVICE, timeout=10)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        raise InputError(
            f"{ADDRESS_SERVICE} doesn't report your address ({error}); give it with --my-address"
        ) from error
    return check_address(answer.text.strip())


def _group_name(name: str) -> str:
    return f"{TAG}-{name}"


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether AWS refused the request, so that nothing was started; after a server error that is unknown."""
    return isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500


def _code_of(error: ClientError) -> str:
    """Return the error code of AWS's response."""
    return error.response["Error"]["Code"]
