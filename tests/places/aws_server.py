"""AWS on loopback: moto's own server, with what moto doesn't have put at the wire before it.

That is: answers by which AWS refuses (quotas, an image that is not subscribed to), answers that come late or not at
all, and the pricing API.
"""

import io
import json
import threading
from collections.abc import Callable
from urllib.parse import parse_qs

from werkzeug.serving import make_server

REGION = "us-east-1"
MARKETPLACE = "679593333241"
NEWEST = "ami-00000000000000026"
PRICE = "0.526"

REFUSAL = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>x</RequestID></Response>
"""


def image(number: int, name: str, owner: str, created: str) -> dict:
    return {
        "ami_id": f"ami-000000000000000{number}",
        "name": name,
        "owner_id": owner,
        "creation_date": created,
        "state": "available",
        "public": True,
        "architecture": "x86_64",
        "root_device_name": "/dev/sda1",
        "root_device_type": "ebs",
        "virtualization_type": "hvm",
        "hypervisor": "xen",
        "description": "",
        "image_location": "here",
        "image_type": "machine",
        "platform": None,
        "sriov": "simple",
    }


IMAGES = [
    image(24, "NVIDIA GPU-Optimized AMI 24.05.1-676eed8d", MARKETPLACE, "2024-06-01T00:00:00.000Z"),
    image(26, "NVIDIA GPU-Optimized AMI 26.07.1-676eed8d", MARKETPLACE, "2026-08-01T00:00:00.000Z"),
    image(25, "NVIDIA GPU-Optimized AMI 25.09.1-676eed8d", MARKETPLACE, "2025-10-01T00:00:00.000Z"),
    image(99, "NVIDIA GPU-Optimized AMI 99.01.1-bitcoin", "666666666666", "2026-11-01T00:00:00.000Z"),
    image(98, "Something else", MARKETPLACE, "2026-11-01T00:00:00.000Z"),
]


class AwsServer:
    """A thread with AWS's API; `address` is what AWS_ENDPOINT_URL is set to."""

    def __init__(self):
        from moto.ec2.models import instance_types
        from moto.server import DomainDispatcherApplication, create_backend_app

        for names in instance_types.INSTANCE_TYPE_OFFERINGS["region"].values():  # AWS has it still, moto no longer
            if {"InstanceType": "p2.xlarge", "Location": REGION} not in names:
                names.append({"InstanceType": "p2.xlarge", "Location": REGION})
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.refuse: dict[str, tuple[str, str] | int] = {}
        """Operation → the code and words by which it is refused, or the HTTP status of a server that has failed."""
        self.after: dict[str, Callable[[], None]] = {}
        """Operation → what is done after moto has carried it out, before the answer goes out."""
        self.prices = True
        self.asked: list[str] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict, start_response: Callable):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if environ["PATH_INFO"] == "/address":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"203.0.113.7\n"]
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith("AWSPriceListService"):
            return self._price(json.loads(body), start_response)
        operation = parse_qs(body.decode()).get("Action", [""])[0]
        self.asked.append(operation)
        refusal = self.refuse.get(operation)
        if isinstance(refusal, tuple):
            status = "401 Unauthorized" if refusal[0] == "OptInRequired" else "400 Bad Request"
            start_response(status, [("Content-Type", "text/xml")])
            return [REFUSAL.format(code=refusal[0], message=refusal[1]).encode()]
        told = []
        answer = list(self._moto(environ, lambda *arguments: told.append(arguments)))
        if operation in self.after:
            self.after[operation]()
        if isinstance(refusal, int):  # carried out, and then the server failed to say so
            start_response(f"{refusal} Failed", [("Content-Type", "text/xml")])
            return [REFUSAL.format(code="InternalError", message="An internal error has occurred").encode()]
        start_response(*told[0])
        return answer

    def _price(self, request: dict, start_response: Callable):
        wanted = {item["Field"]: item["Value"] for item in request["Filters"]}
        dimension = {"unit": "Hrs", "pricePerUnit": {"USD": PRICE}}
        product = {
            "product": {"attributes": wanted},
            "terms": {"OnDemand": {"sku.term": {"priceDimensions": {"sku.term.rate": dimension}}}},
        }
        start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
        found = [json.dumps(product)] if self.prices and wanted["instanceType"] == "g4dn.xlarge" else []
        return [json.dumps({"FormatVersion": "aws_v1", "PriceList": found}).encode()]
