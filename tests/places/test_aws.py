"""From nothing to a terminated instance, and every way in which AWS says no: moto's server on loopback."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import httpx
import pytest
import yaml

from asr_with_nemo import cli
from asr_with_nemo.places import aws as places_aws
from asr_with_nemo.places import plan
from asr_with_nemo.places.aws import Cloud
from asr_with_nemo.places.plan import SETTINGS, Settings, load_settings, tags
from asr_with_nemo.places.repository import PLACEHOLDER, is_placeholder
from tests.conftest import ROOT, put, stand_in
from tests.places import aws_server
from tests.places.aws_server import NEWEST, PRICE, REGION, AwsServer

sys.path.insert(0, str(ROOT / "scripts"))
import launch_aws

Launcher = Callable[..., tuple[int, str, str]]
ALWAYS = ["--my-address", "203.0.113.7", "--repository", "https://example.org/course"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsServer]:
    images = tmp_path_factory.mktemp("aws") / "images.json"
    images.write_text(json.dumps(aws_server.IMAGES))
    os.environ["MOTO_AMIS_PATH"] = str(images)  # moto reads it when it is imported
    server = AwsServer()
    yield server
    server.stop()
    del os.environ["MOTO_AMIS_PATH"]


@pytest.fixture
def aws(server: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """An account in which nothing is, with credentials, and a home of one's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL": server.address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(tmp_path),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"{server.address}/moto-api/reset", timeout=60).raise_for_status()
    server.refuse, server.after, server.prices, server.asked = {}, {}, True, []
    return server


@pytest.fixture
def run(aws: AwsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Launcher:
    """scripts/launch_aws.py as a user calls it: its exit status, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["launch_aws.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            commands = (getattr(launch_aws, name) for name in COMMANDS)
            cli.run(*commands, about=launch_aws.ABOUT)
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


COMMANDS = ("launch", "status", "connect", "stop", "terminate", "types")


def instances(*states: str) -> list[dict]:
    """What runs in the account, asked for past the script."""
    states = states or ("pending", "running", "stopping", "stopped")
    found = boto3.client("ec2").describe_instances(Filters=[{"Name": "instance-state-name", "Values": list(states)}])
    return [instance for reservation in found["Reservations"] for instance in reservation["Instances"]]


def user_data(instance: dict) -> str:
    import base64

    attribute = boto3.client("ec2").describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
    return base64.b64decode(attribute["UserData"]["Value"]).decode()


# The way through


def test_from_nothing_to_terminated(run: Launcher, tmp_path: Path):
    assert "no instances in us-east-1" in run("status")[1]

    code, said, _ = run("launch", *ALWAYS, "--tag", "owner=me", "--max-hours", "3")
    assert code == 0
    (instance,) = instances()
    assert instance["InstanceType"] == "g4dn.xlarge"
    assert instance["ImageId"] == NEWEST
    assert "COSTS MONEY" in said
    assert PRICE in said

    # The key pair: the private half is here and only mine.
    key = tmp_path / ".ssh" / "asr-with-nemo.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, text=True, check=True).stdout
    (pair,) = boto3.client("ec2").describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    assert pair["PublicKey"].split()[:2] == public.split()[:2]

    # The security group: SSH, from here.
    (group,) = boto3.client("ec2").describe_security_groups(GroupIds=[instance["SecurityGroups"][0]["GroupId"]])[
        "SecurityGroups"
    ]
    (rule,) = group["IpPermissions"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)
    assert [r["CidrIp"] for r in rule["IpRanges"]] == ["203.0.113.7/32"]
    assert not rule.get("Ipv6Ranges")

    # It ends itself, its disk goes with it, and it says whose it is.
    ec2 = boto3.client("ec2")
    behaviour = ec2.describe_instance_attribute(
        InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
    )
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert "MAX_MINUTES=180\n" in user_data(instance)
    (volume,) = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance["InstanceId"]]}])[
        "Volumes"
    ]
    assert volume["Size"] == 150
    assert tags(instance)["owner"] == "me"

    # The last line is the one to paste.
    line = said.splitlines()[-1].strip()
    assert shlex.split(line) == [
        *("ssh", "-i", str(key), "-o", "StrictHostKeyChecking=accept-new"),
        *("-L", "8888:localhost:8888", f"ubuntu@{instance['PublicIpAddress']}"),
    ]
    assert line in run("connect", "--print")[1]

    said = run("status")[1]
    assert re.search(
        r"course, i-\w+, g4dn.xlarge, running, [\d.]+, running for 0\.0 hours, terminates itself at 20", said
    )

    said = run("stop")[1]
    assert instance["InstanceId"] in said
    assert ", stopped, " in run("status")[1]
    assert "is stopped; `launch`" in run("connect")[2]

    code, said, _ = run("launch", *ALWAYS)
    assert code == 0
    assert f"stopped instance: course, {instance['InstanceId']}" in said
    assert [i["InstanceId"] for i in instances("running")] == [instance["InstanceId"]]

    code, said, _ = run("terminate")
    assert code == 0
    assert instances() == []
    assert "no instances" in run("status")[1]
    names = [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]]
    assert "asr-with-nemo-course" not in names
    assert key.exists()


def test_the_second_launch_uses_the_key_again_and_lets_in_todays_address(run: Launcher):
    assert run("launch", *ALWAYS)[0] == 0
    run("terminate")
    assert run("launch", *ALWAYS)[0] == 0
    assert len(boto3.client("ec2").describe_key_pairs()["KeyPairs"]) == 1

    run("launch", "--name", "other", *ALWAYS)
    run("terminate", "--name", "other")
    assert run("launch", "--name", "other", "--my-address", "198.51.100.9", *ALWAYS[2:])[0] == 0
    groups = boto3.client("ec2").describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["asr-with-nemo-other"]}]
    )["SecurityGroups"]
    assert [r["CidrIp"] for r in groups[0]["IpPermissions"][0]["IpRanges"]] == ["198.51.100.9/32"]


def test_a_rule_that_somebody_added_is_taken_back(run: Launcher, aws: AwsServer):
    aws.refuse["RunInstances"] = ("InsufficientInstanceCapacity", "none left")
    run("launch", *ALWAYS)  # it comes as far as the group
    ec2 = boto3.client("ec2")
    name = [{"Name": "group-name", "Values": ["asr-with-nemo-course"]}]
    group = ec2.describe_security_groups(Filters=name)["SecurityGroups"][0]["GroupId"]
    everybody = {"IpProtocol": "tcp", "FromPort": 8888, "ToPort": 8888, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[everybody])
    aws.refuse = {}
    assert run("launch", *ALWAYS)[0] == 0
    (rule,) = ec2.describe_security_groups(Filters=name)["SecurityGroups"][0]["IpPermissions"]
    assert [r["CidrIp"] for r in rule["IpRanges"]] == ["203.0.113.7/32"]


def test_spot_with_a_disk_an_image_and_no_end(run: Launcher):
    options = ["--spot", "--disk", "200", "--ami", "ami-00000000000000025", "--max-hours", "0"]
    code, said, _ = run("launch", *ALWAYS, "--instance-type", "g5.xlarge", *options)
    assert code == 0
    (instance,) = instances()
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["ImageId"] == "ami-00000000000000025"
    assert "WITH NO TIME LIMIT" in said
    assert "MAX_MINUTES=0\n" in user_data(instance)
    assert "spot" in run("stop")[2] and "`terminate`" in run("stop")[2]
    assert instances("running")


def test_dry_run_says_what_would_be_and_makes_nothing(run: Launcher, aws: AwsServer, tmp_path: Path):
    code, said, _ = run("launch", *ALWAYS, "--dry-run")
    assert code == 0
    for word in (
        "g4dn.xlarge",
        NEWEST,
        "203.0.113.7 only",
        "150 GB",
        "8 hours",
        "nothing was created",
    ):
        assert word in said
    made = {"CreateSecurityGroup", "ImportKeyPair", "CreateKeyPair", "AuthorizeSecurityGroupIngress"}
    assert not made & set(aws.asked)
    assert instances() == []
    assert not (tmp_path / ".ssh").exists()

    aws.refuse["RunInstances"] = ("UnauthorizedOperation", "You are not authorized: ec2:RunInstances")
    code, _, errors = run("launch", *ALWAYS, "--dry-run")
    assert code == 1
    assert "ec2:RunInstances" in errors


def test_a_price_only_where_aws_gives_one(run: Launcher, aws: AwsServer):
    assert f"{PRICE} USD an hour" in run("launch", *ALWAYS, "--dry-run")[1]
    aws.prices = False
    said = run("launch", *ALWAYS, "--dry-run")[1]
    assert "USD" not in said
    assert re.search(r"price +unknown", said)


def test_the_callers_address_is_asked_of_aws(run: Launcher, aws: AwsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places_aws, "ADDRESS_SERVICE", f"{aws.address}/address")
    assert "SSH from 203.0.113.7 only" in run("launch", *ALWAYS[2:], "--dry-run")[1]
    monkeypatch.setattr(places_aws, "ADDRESS_SERVICE", "http://127.0.0.1:9/address")
    assert "--my-address" in run("launch", *ALWAYS[2:], "--dry-run")[2]


@pytest.mark.parametrize("address", ["0.0.0.0", "0.0.0.0/0", "10.0.0.0/8", "2001:db8::1", "everybody"])
def test_never_everybody(run: Launcher, aws: AwsServer, address: str):
    code, _, errors = run("launch", *ALWAYS[2:], "--my-address", address)
    assert code == 1
    assert "--my-address" in errors
    assert instances() == []


def test_connect_calls_ssh(run: Launcher, tmp_path: Path):
    run("launch", *ALWAYS)
    (instance,) = instances()
    bin_ = stand_in(tmp_path / "bin", "ssh", 'printf "%s\\n" "$@"')
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/launch_aws.py", "connect"],
        env=os.environ | {"PATH": f"{bin_}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    called = done.stdout.splitlines()[1:]
    assert called[0] == "-t"
    assert "8888:localhost:8888" in called
    assert called[-2:] == [f"ubuntu@{instance['PublicIpAddress']}", "course; exec bash --login"]


# p2.xlarge


def test_p2_is_told_straight(run: Launcher, aws: AwsServer):
    code, _, errors = run("launch", *ALWAYS, "--instance-type", "p2.xlarge")
    assert code == 1
    for word in ("K80", "Kepler", "3.7", "g4dn.xlarge, g5.xlarge or g6.xlarge", "--force", "CPU"):
        assert word in errors
    assert aws.asked == []  # not even AWS is asked

    code, said, _ = run("launch", *ALWAYS, "--instance-type", "p2.xlarge", "--force")
    assert code == 0
    assert re.search(r"container +for the CPU: the K80 .*CUDA 13", said)
    (instance,) = instances()
    assert instance["InstanceType"] == "p2.xlarge"
    assert "DOCKERFILE=docker/Dockerfile.cpu\n" in user_data(instance)


def test_the_table_of_types(run: Launcher):
    said = run("types")[1]
    for row in ("p2.xlarge .* K80 .* Kepler .* 3.7 .* no", "g4dn.xlarge .* T4 .* Turing .* 7.5 .* yes"):
        assert re.search(row, said)
    families = load_settings().families
    assert {name for name, family in families.items() if not family.fits} == {"p2", "g3", "g3s", "p3"}
    for name, family in families.items():
        assert family.example.split(".")[0] == name


def test_the_readmes_table_is_that_of_the_settings():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for f in load_settings().families.values():
        cells = (f.example, f"{f.gpu}, {f.memory} GB", f.architecture, f.capability, "yes" if f.fits else "no")
        assert f"| {' | '.join(map(str, cells))} |" in readme


# No


def refused(run: Launcher, *arguments: str) -> str:
    code, _, errors = run(*arguments)
    assert code == 1
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    return errors


def test_no_credentials(run: Launcher, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for command in ("launch", "status", "terminate"):
        assert "aws configure" in refused(run, command)


def test_no_region_and_no_such_profile(run: Launcher, monkeypatch: pytest.MonkeyPatch):
    assert "list-profiles" in refused(run, "status", "--profile", "nobody")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "--region" in refused(run, "status")


def test_no_such_type(run: Launcher):
    errors = refused(run, "launch", *ALWAYS, "--instance-type", "g99.xlarge")
    assert "'g99.xlarge' in us-east-1" in errors
    assert "g4dn.xlarge" in errors


def test_no_such_image(run: Launcher, aws: AwsServer):
    assert "InvalidAMIID.NotFound" in refused(run, "launch", *ALWAYS, "--ami", "ami-0123456789abcdef0")
    assert "InvalidAMIID.Malformed" in refused(run, "launch", *ALWAYS, "--ami", "ubuntu")


def test_no_image_of_nvidias_in_the_region(run: Launcher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    text = SETTINGS.read_text().replace("NVIDIA GPU-Optimized AMI *", "No such AMI *")
    settings = load_settings(put(tmp_path / "aws.yaml", text))
    monkeypatch.setattr(plan, "load_settings", lambda: settings)
    monkeypatch.setattr(Cloud, "__init__", _with(settings))
    assert "aws.amazon.com/marketplace" in refused(run, "launch", *ALWAYS)


def _with(settings: Settings) -> Callable:
    original = Cloud.__init__

    def make(self, region=None, profile=None, say=print):
        original(self, region, profile, settings, say)

    return make


@pytest.mark.parametrize(
    ("code", "words", "advice"),
    [
        (
            "OptInRequired",
            "In order to use this AWS Marketplace product you need to accept terms",
            "prodview-7ikjtg3um26wq",
        ),
        ("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit", "Service Quotas"),
        ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", "Spot Instance Requests"),
        ("InsufficientInstanceCapacity", "We currently do not have sufficient capacity", "another --region"),
        ("PendingVerification", "Your account is currently being verified", "minutes to hours"),
        ("SomethingNew", "words that nobody has heard yet", "see its message"),
    ],
)
def test_aws_refuses(run: Launcher, aws: AwsServer, code: str, words: str, advice: str):
    aws.refuse["RunInstances"] = (code, words)
    errors = refused(run, "launch", *ALWAYS)
    assert advice in errors
    assert f"{code}: {words}" in errors
    assert instances() == []


def test_credentials_that_are_not_valid(run: Launcher, aws: AwsServer):
    aws.refuse["DescribeInstances"] = ("AuthFailure", "AWS was not able to validate the provided access credentials")
    assert "aws configure" in refused(run, "launch", *ALWAYS)


def test_aws_does_not_answer(run: Launcher, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "DescribeInstances" in refused(run, "status")


def test_the_key_was_made_elsewhere(run: Launcher, tmp_path: Path):
    boto3.client("ec2").create_key_pair(KeyName="theirs")
    errors = refused(run, "launch", *ALWAYS, "--key-name", "theirs")
    assert "theirs.pem" in errors
    assert "--key-name" in errors

    put(tmp_path / "mine.pem", None)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "mine.pem"], check=True)
    errors = refused(run, "launch", *ALWAYS, "--key-name", "theirs", "--key-file", str(tmp_path / "mine.pem"))
    assert "mine.pem" in errors
    assert instances() == []


def test_a_key_of_ones_own_is_taken_and_made_private(run: Launcher, tmp_path: Path):
    key = tmp_path / "mine.pem"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    key.chmod(0o644)
    assert run("launch", *ALWAYS, "--key-name", "mine", "--key-file", str(key))[0] == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "mine" in [pair["KeyName"] for pair in boto3.client("ec2").describe_key_pairs()["KeyPairs"]]

    put(tmp_path / "text.pem", "no key").chmod(0o600)
    arguments = ["--name", "second", "--key-name", "text", "--key-file", str(tmp_path / "text.pem")]
    assert "ssh-keygen" in refused(run, "launch", *ALWAYS, *arguments)


def test_there_is_one_already_or_none(run: Launcher):
    assert "no instance 'course'" in refused(run, "connect")
    run("launch", *ALWAYS)
    errors = refused(run, "launch", *ALWAYS)
    assert instances()[0]["InstanceId"] in errors
    assert "--name" in errors
    assert len(instances()) == 1
    assert "course (--name)" in refused(run, "terminate", "--name", "other")


def test_a_repository_that_nobody_has_set_is_not_cloned(run: Launcher):
    assert is_placeholder("https://github.com/YOUR_ACCOUNT/asr-with-nemo")
    errors = refused(run, "launch", "--my-address", "203.0.113.7", "--repository", f"https://{PLACEHOLDER}/x")
    assert "[project.urls] Repository" in errors


def test_a_tag_without_a_value(run: Launcher):
    assert "key=value" in refused(run, "launch", *ALWAYS, "--tag", "owner")


# Nothing runs on unnoticed


def test_aws_fails_after_it_has_started_the_instance(run: Launcher, aws: AwsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    aws.refuse["RunInstances"] = 500
    code, said, _ = run("launch", *ALWAYS)
    assert code == 1
    assert re.search(r"terminated i-\w+: no instance of this launch is left", said)
    assert instances() == []


def test_what_can_not_be_ended_is_said_loudly(run: Launcher, aws: AwsServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    aws.after["RunInstances"] = lambda: aws.refuse.update(
        DescribeInstances=("RequestExpired", "expired"), TerminateInstances=("RequestExpired", "expired")
    )
    code, said, _ = run("launch", *ALWAYS)
    assert code == 1
    assert "CAREFUL: an instance of this launch may be running" in said
    aws.refuse = {}
    assert len(instances()) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["RunInstances", "DescribeInstances"])
def test_an_interrupted_launch_leaves_no_instance(aws: AwsServer, moment: str, number: signal.Signals):
    """Ctrl-C while AWS is about to answer, or while the instance comes up."""
    reached = threading.Event()

    def hold() -> None:
        if "RunInstances" in aws.asked and not reached.is_set():
            reached.set()
            time.sleep(1)

    aws.after[moment] = hold
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts/launch_aws.py", "launch", *ALWAYS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not reached.wait(0.1):
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    said, errors = process.communicate(timeout=60)
    aws.after = {}
    assert process.returncode == 1, said + errors
    assert instances() == []
    assert len(instances("terminated")) >= 1
    assert "interrupted: " in said
    assert re.search(r"terminated i-\w+: no instance of this launch is left", said)
    assert "COSTS MONEY" not in said


# What the instance runs


def test_user_data_listens_on_localhost_only_and_with_a_token(run: Launcher):
    run("launch", *ALWAYS)
    text = user_data(instances()[0])
    assert len(text) < 16_384  # AWS's limit
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    published = re.findall(r"--publish (\S+)", text)
    assert published == ["127.0.0.1:8888:8888"]
    assert "0.0.0.0" not in text
    assert "--network" not in text
    assert '--env-file "$home/course.env"' in text
    assert re.search(r"JUPYTER_TOKEN=%s.*urandom", text)
    assert "REPOSITORY=https://example.org/course\n" in text
    # The end is set up before anything that may fail.
    assert text.index("course-end.timer") < text.index("git clone") < text.index("docker run")


def test_user_data_quotes_what_it_is_given(run: Launcher):
    code, _, _ = run("launch", *ALWAYS[:2], "--repository", "https://example.org/x; touch /tmp/owned")
    assert code == 0
    assert "REPOSITORY='https://example.org/x; touch /tmp/owned'\n" in user_data(instances()[0])


def test_the_settings_are_those_of_the_file():
    read = yaml.safe_load((ROOT / "configs/aws.yaml").read_text())
    settings = load_settings()
    assert (settings.instance_type, settings.disk, settings.max_hours) == ("g4dn.xlarge", 150, 8)
    assert settings.image["owner"] == read["image"]["owner"] == aws_server.MARKETPLACE
    assert settings.family("g5.48xlarge").gpu == "A10G"
    assert settings.family("t3.micro") is None
