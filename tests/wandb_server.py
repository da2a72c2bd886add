"""A fake of W&B's server on loopback: the real client talks to it over HTTP, and tests read what it received.

It answers the requests of wandb 0.31 for logging runs, media and artifacts, for an agent of a sweep, and for reading
them by the public API. An unknown operation, field or argument is an error to the client and is kept in `problems`, on
which `close` fails: a test never passes because the fake guessed.

    with WandbServer() as server:
        subprocess.run([...], env=os.environ | server.environment(folder))
        run = server.run("name or id")
        assert run.history[-1]["val_wer"] == 0.5

W&B's permissions, quotas, own search methods of a sweep, and the drawing of reports are left out.
"""

import base64
import contextlib
import gzip
import hashlib
import itertools
import json
import math
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

import graphql
import yaml
from graphql import (
    ArgumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    OperationDefinitionNode,
    SelectionNode,
    value_from_ast_untyped,
)

from asr_with_nemo.tracking.kept_runs import read_records

ENTITY = "course"
KEY = "0123456789abcdef" * 2 + "01234567"
HANG = 0
FEATURES = (
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "MARK_RUN_FILES_UPLOADED",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
)


@dataclass
class Run:
    """The received part of one run."""

    id: str
    project: str
    display_name: str = ""
    state: str = "running"
    exit_code: int | None = None
    config: dict[str, Any] = field(default_factory=dict)  # as the user gave it; W&B's own part is in `client`
    client: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # a row a step, with `_step`
    resent: int = 0  # rows of the history that came more than once
    events: list[dict[str, Any]] = field(default_factory=list)  # system metrics
    output: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    logged: list["Artifact"] = field(default_factory=list)
    used: list["Artifact"] = field(default_factory=list)
    group: str | None = None
    job_type: str | None = None
    sweep: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    host: str | None = None
    program: str | None = None
    created: str = field(default_factory=lambda: _now())

    @property
    def storage_id(self) -> str:
        return f"run-{self.project}-{self.id}"


@dataclass
class Artifact:
    """One version of an artifact."""

    id: str
    type: str
    collection: str
    project: str
    digest: str
    version: int
    run: Run | None
    aliases: list[str] = field(default_factory=list)
    asked_aliases: list[str] = field(default_factory=list)  # its own once it is committed
    tags: list[str] = field(default_factory=list)
    state: str = "PENDING"
    description: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # storage path -> what was put there
    created: str = field(default_factory=lambda: _now())

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """The manifest's entries: path -> digest, size and, for one that lies elsewhere, `ref`."""
        return self.manifest.get("contents", {})


@dataclass
class Sweep:
    """A sweep: its config as parsed from YAML, and its trials."""

    id: str
    project: str
    config: dict[str, Any]
    state: str = "PENDING"
    display_name: str | None = None
    trials: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # (run id, parameters)
    agents: list[str] = field(default_factory=list)
    running: dict[str, set[str]] = field(default_factory=dict)  # agent -> runs that it was given and has not ended
    created: str = field(default_factory=lambda: _now())


@dataclass
class Report:
    """A report, which W&B's API calls a view: its blocks are in `spec`."""

    id: str
    project: str
    name: str
    title: str = ""
    description: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: _now())


class WandbServer:
    """W&B's API on 127.0.0.1, over stores that a test reads: `runs`, `artifacts`, `sweeps`, `reports`.

    Args:
        key: the one API key that is let in.
    """

    def __init__(self, key: str = KEY) -> None:
        self.key = key
        self.runs: dict[tuple[str, str], Run] = {}
        self.artifacts: list[Artifact] = []
        self.sweeps: dict[str, Sweep] = {}
        self.reports: dict[str, Report] = {}
        self.requests: list[str] = []  # "viewer", "upsertBucket", "POST /files/...": each request in a few words
        self.problems: list[str] = []
        self.blobs: dict[str, bytes] = {}  # digest -> content, over all artifacts
        self._client_ids: dict[str, str] = {}
        self._faults: list[tuple[str, int]] = []
        self._recovered = threading.Event()
        self._lock = threading.RLock()
        self._count = itertools.count(1)
        self._random = random.Random(0)
        self._http: _Http | None = None
        self._port = 0
        self.revive()

    # What a test does.

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, folder: str | os.PathLike, key: str | None = None) -> dict[str, str]:
        """Return environment variables for a process that uses this server, with its settings in `folder`."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.key if key is None else key,
            "WANDB_ENTITY": ENTITY,
            "WANDB_CONFIG_DIR": str(Path(folder) / "config"),
            "NETRC": str(Path(folder) / "netrc"),
            "WANDB_ERROR_REPORTING": "false",  # no crash reports to elsewhere
        }

    def run(self, name: str) -> Run:
        """Return the only run with that id or display name."""
        found = [run for run in self.runs.values() if name in (run.id, run.display_name)]
        if len(found) != 1:
            raise KeyError(
                f"{name}: {len(found)} of the runs {[(run.id, run.display_name) for run in self.runs.values()]}"
            )
        return found[0]

    def artifact(self, name: str) -> Artifact:
        """Return a committed artifact by `collection:alias` or `collection:vN`."""
        found = self._find_artifact(None, name)
        if not found:
            raise KeyError(f"{name}: not among {[f'{a.collection}:v{a.version} {a.aliases}' for a in self.artifacts]}")
        return found

    def content(self, artifact: Artifact) -> dict[str, bytes]:
        """Return every file of an artifact by its path, each checked against the manifest's digest.

        Raises:
            AssertionError: a file never arrived, or not as the manifest says.
        """
        return {
            path: self._entry_content(artifact, path) for path, entry in artifact.entries.items() if "ref" not in entry
        }

    def fail(self, status: int, on: str = "/") -> None:
        """Answer every request whose path starts with `on` with this HTTP status, until `recover`."""
        self._faults.append((on, status))

    def hang(self, on: str = "/") -> None:
        """Accept requests whose path starts with `on` and don't answer, until `recover`."""
        self._recovered.clear()
        self._faults.append((on, HANG))

    def recover(self) -> None:
        self._faults.clear()
        self._recovered.set()

    def die(self) -> None:
        """Stop listening and cut all connections; received data stays, and `revive` uses the same port."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http.cut()
            self._http = None

    def revive(self) -> None:
        self._http = _Http(("127.0.0.1", self._port), partial(_Handler, self))
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def wait_until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        """Wait until a condition is true.

        Raises:
            TimeoutError: it isn't after `seconds`.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not so after {seconds} s; {self.requests[-20:]}")
            time.sleep(0.02)

    def close(self) -> None:
        self.recover()
        self.die()
        if self.problems:
            raise AssertionError("the client sent unknown requests:\n" + "\n".join(self.problems))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        try:
            self.close()
        except AssertionError as problem:
            if error_type is None:
                raise
            print(problem)  # in addition to the test's own error

    # HTTP.

    def fault(self, path: str) -> int | None:
        """Return the HTTP status that the test set for a path; None for a normal answer."""
        for start, status in self._faults:
            if path.startswith(start):
                if status == HANG:
                    self._recovered.wait()
                    return 503  # the client no longer waits
                return status
        return None

    def handle(self, method: str, path: str, body: bytes, is_allowed: bool) -> tuple[int, bytes]:
        """Answer one request: status and body."""
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        with self._lock:
            match method, parts:
                # Storage has signed addresses at W&B: no key goes there.
                case "PUT", ["storage", kind, *place]:
                    self.requests.append(f"PUT {kind} {place[-1]}")
                    return self._store(kind, place, body)
                case "GET", ["storage", kind, *place]:
                    self.requests.append(f"GET {kind} {place[-1]}")
                    return self._fetch(kind, place)
                case _ if not is_allowed:
                    self.requests.append(f"refused {path}")
                    return 401, b'{"errors": [{"message": "user is not logged in", "path": ["viewer"]}]}'
                case "POST", ["graphql"]:
                    return self._graphql(json.loads(body))
                case "POST", ["files", _, project, run_id, "file_stream"] if (project, run_id) in self.runs:
                    self.requests.append("file_stream")
                    return self._stream(self.runs[project, run_id], json.loads(body))
                case "GET", ["artifactsV2", _, _, _, _, *_, digest, name]:  # one file, by its content
                    self.requests.append(f"GET artifact {name}")
                    content = self.blobs.get(base64.b64encode(bytes.fromhex(digest)).decode())
                    return (404, b"") if content is None else (200, content)
            self.problems.append(f"{method} {path}")
            return 404, b'{"error": "not found"}'

    def _store(self, kind: str, place: list[str], body: bytes) -> tuple[int, bytes]:
        if kind == "run":
            project, run_id, *name = place
            self.runs[project, run_id].files["/".join(name)] = body
        elif kind == "manifest":
            self._artifact_of(place[0]).manifest = json.loads(body)
        else:
            digest = base64.b64encode(hashlib.md5(body).digest()).decode()
            self.blobs[digest] = body
            self._artifact_of(place[0]).uploads["/".join(place[1:])] = body
        return 200, b""

    def _fetch(self, kind: str, place: list[str]) -> tuple[int, bytes]:
        if kind == "run":
            project, run_id, *name = place
            content = self.runs[project, run_id].files.get("/".join(name))
        elif kind == "manifest":
            content = json.dumps(self._artifact_of(place[0]).manifest).encode()
        else:
            content = self._entry_content(self._artifact_of(place[0]), "/".join(place[1:]))
        return (404, b"") if content is None else (200, content)

    def _stream(self, run: Run, chunk: Mapping[str, Any]) -> tuple[int, bytes]:
        kept = {"wandb-events.jsonl": run.events, "output.log": run.output}
        for name, part in (chunk.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
            elif name == "wandb-history.jsonl":
                self._take_history(run, [json.loads(line) for line in part["content"]])
            elif name in kept:
                lines = part["content"] if name == "output.log" else [json.loads(line) for line in part["content"]]
                # A line that comes again, after an answer that was lost, is the same line.
                kept[name][part["offset"] : part["offset"] + len(lines)] = lines
            else:
                self.problems.append(f"file_stream of {name}")
        if chunk.get("complete"):
            run.exit_code = chunk.get("exitcode")
            run.state = "failed" if run.exit_code else "finished"
        elif chunk:
            run.state = "running"
        return 200, b"{}"

    def _take_history(self, run: Run, rows: list[dict[str, Any]]) -> None:
        """A run's history has one row a step. `wandb sync` of a run that arrived in part sends all rows again, at an
        offset behind those that are there: they count in `resent`, and take the place of the same steps.
        """
        known = {row["_step"]: place for place, row in enumerate(run.history)}
        for row in rows:
            if row["_step"] in known:
                run.history[known[row["_step"]]] = row
                run.resent += 1
            else:
                known[row["_step"]] = len(run.history)
                run.history.append(row)

    def _graphql(self, request: Mapping[str, Any]) -> tuple[int, bytes]:
        names, given = [], _without_nulls(request.get("variables") or {})
        try:
            document = _Document(request["query"])
            names += [selection.name.value for selection in document.selections]
            self.requests += names
            root = self._mutations() if document.kind == "mutation" else self._queries()
            data = document.select(root, document.selections, document.defaults | given)
            return 200, json.dumps({"data": data}).encode()
        except _RefusedError as error:
            return error.status, json.dumps({"errors": [{"message": str(error)}], "data": None}).encode()
        except Exception as error:  # what is not known here must not pass as an answer of W&B's
            self.problems.append(f"{names or request.get('query')}: {type(error).__name__}: {error}; {given}")
            return 400, json.dumps({"errors": [{"message": f"{names}: {error}"}]}).encode()

    # GraphQL: a node is a dict of its fields; one that takes arguments, or costs something, is a function.

    def _queries(self) -> dict[str, Any]:
        return {
            "viewer": self._user,
            "serverInfo": {"features": [{"name": name, "isEnabled": True} for name in FEATURES]},
            "project": lambda name, entityName: self._project(name),
            "model": lambda name, entityName: self._project(name, always=True),
            "models": lambda entityName=None, after=None, first=50: _connection(
                [self._project(name) for name in self._projects()], first, after
            ),
            "entity": lambda name: {"name": name, "organization": None, "xxhashDigestsEnabled": False, "user": None},
            "artifact": lambda id: self._artifact_node(self._artifact_of(id)),
            "artifactCollection": lambda id: self._collection(*id.removeprefix("collection-").split("/", 1)),
            "clientIDMapping": lambda clientID: (
                {"serverID": self._client_ids[clientID]} if clientID in self._client_ids else None
            ),
        }

    def _mutations(self) -> dict[str, Any]:
        return {
            "upsertBucket": lambda input: self._upsert_run(**input),
            "upsertModel": lambda input: {
                "project": None,
                "model": self._project(input["name"], True),
                "inserted": True,
            },
            "createRunFiles": lambda input: self._create_run_files(**input),
            "markRunFilesUploaded": lambda input: {"success": True},
            "createArtifact": lambda input: self._create_artifact(**input),
            "createArtifactManifest": lambda input: self._create_manifest(**input),
            "updateArtifactManifest": lambda input: self._create_manifest(input["artifactManifestID"][9:]),
            "createArtifactFiles": lambda input: self._create_artifact_files(**input),
            "commitArtifact": lambda input: self._commit_artifact(**input),
            "updateArtifact": lambda input: self._update_artifact(**input),
            "addAliases": lambda input: self._alias(input, add=True),
            "deleteAliases": lambda input: self._alias(input, add=False),
            "useArtifact": lambda input: self._use_artifact(**input),
            "upsertSweep": lambda input: self._upsert_sweep(**input),
            "createAgent": lambda input: self._create_agent(**input),
            "agentHeartbeat": lambda input: self._heartbeat(**input),
            "upsertView": lambda input: self._upsert_report(**input),
        }

    def _user(self) -> dict[str, Any]:
        user = {"id": "user-1", "name": ENTITY, "username": ENTITY, "email": "course@example.org", "admin": False}
        return user | {
            "entity": ENTITY,
            "flags": "{}",
            "deletedAt": None,
            "teams": _connection([]),
            "apiKeys": _connection([]),
        }

    def _projects(self) -> list[str]:
        names = (
            [name for name, _ in self.runs]
            + [a.project for a in self.artifacts]
            + [s.project for s in self.sweeps.values()]
        )
        return list(dict.fromkeys(names))

    def _project(self, name: str, always: bool = False) -> dict[str, Any] | None:
        if not always and name not in self._projects():
            return None
        runs = [run for (project, _), run in self.runs.items() if project == name]
        sweeps = [sweep for sweep in self.sweeps.values() if sweep.project == name]

        def find_sweep(sweepName: str) -> dict[str, Any] | None:
            return next((self._sweep_node(sweep) for sweep in sweeps if sweep.id == sweepName), None)

        def find_run(name: str, missingOk: bool = True) -> dict[str, Any] | None:
            return next((self._run_node(run) for run in runs if run.id == name), None)

        def find_runs(filters: str = "{}", order: str = "+created_at", **page: Any) -> dict[str, Any]:
            return _connection([self._run_node(run) for run in _sort(_filter(runs, filters), order)], **page)

        def find_type(name: str) -> dict[str, Any] | None:
            return next((node for node in types() if node["name"] == name), None)

        def types() -> list[dict[str, Any]]:
            names = dict.fromkeys(a.type for a in self.artifacts if a.project == name)
            return [self._artifact_type(name, kind) for kind in names]

        def find_artifact(name: str) -> dict[str, Any] | None:
            artifact = self._find_artifact(project_name, name)
            return artifact and self._artifact_node(artifact)

        def membership(name: str) -> dict[str, Any] | None:
            artifact = self._find_artifact(project_name, name)
            return artifact and self._membership(artifact)

        project_name = name
        return {
            "__typename": "Project",
            "id": f"project-{name}",
            "internalId": "1",
            "name": name,
            "entityName": ENTITY,
            "entity": {"id": "entity-1", "name": ENTITY},
            "createdAt": _now(),
            "description": None,
            "access": "PRIVATE",
            "views": "{}",
            "isBenchmark": False,
            "readOnly": False,
            "user": self._user,
            "run": find_run,
            "bucket": find_run,
            "runs": find_runs,
            "runCount": lambda filters="{}": len(_filter(runs, filters)),
            "sweep": find_sweep,
            "totalSweeps": len(sweeps),
            "sweeps": lambda filters="{}", **page: _connection([self._sweep_node(sweep) for sweep in sweeps], **page),
            "allViews": lambda viewType="runs", viewName=None, **page: _connection(
                [self._report_node(report) for report in self.reports.values() if report.project == project_name],
                **page,
            ),
            "artifact": find_artifact,
            "artifactType": find_type,
            "artifactTypes": lambda **page: _connection(types(), **page),
            "artifactCollection": lambda name: self._collection(project_name, name),
            "artifactCollections": lambda filters="{}", order="", **page: _connection(
                self._collections(project_name), **page
            ),
            "artifactCollectionMembership": membership,
        }

    # Runs.

    def _run_node(self, run: Run) -> dict[str, Any]:
        def sampled(specs: list[str]) -> list[list[dict[str, Any]]]:
            found = []
            for spec in map(json.loads, specs):
                keys = spec.get("keys") or list(dict.fromkeys(key for row in run.history for key in row))
                rows = [{key: row[key] for key in keys} for row in run.history if all(key in row for key in keys)]
                found.append(rows[:: math.ceil(len(rows) / spec.get("samples", 500)) or 1])
            return found

        def history(samples: int = 500, minStep: int = 0, maxStep: int | None = None) -> list[str]:
            rows = [r for r in run.history if r["_step"] >= minStep and (maxStep is None or r["_step"] < maxStep)]
            return [json.dumps(row) for row in rows[:: math.ceil(len(rows) / samples) or 1]]

        def parquet(liveKeys: list[str]) -> dict[str, Any]:
            rows = [{k: v for k, v in row.items() if not liveKeys or k in liveKeys} for row in run.history]
            return {"parquetUrls": [], "liveData": rows}

        def files(names: Iterable[str] = (), pattern: str | None = None, **page: Any) -> dict[str, Any]:
            like = pattern and re.compile(re.escape(pattern).replace("%", ".*"))
            found = [n for n in run.files if (not names or n in names) and (not like or like.fullmatch(n))]
            place = f"{self.url}/storage/run/{quote(run.project)}/{run.id}"
            return _connection([_file_node(f"{place}/{quote(name)}", name, run.files[name]) for name in found], **page)

        keys = {
            key: {"monotonic": False, "typeCounts": [{"type": _kind(row[key]), "count": 1}]}
            for row in run.history
            for key in row
        }
        config = {key: {"value": value, "desc": None} for key, value in run.config.items()}
        if run.client:
            config["_wandb"] = {"value": run.client, "desc": None}
        return {
            "__typename": "Run",
            "id": run.storage_id,
            "name": run.id,
            "displayName": run.display_name,
            "description": None,
            "notes": run.notes,
            "tags": run.tags,
            "state": run.state,
            "group": run.group,
            "jobType": run.job_type,
            "sweepName": run.sweep,
            "commit": None,
            "readOnly": False,
            "createdAt": run.created,
            "heartbeatAt": _now(),
            "config": json.dumps(config),
            "wandbConfig": lambda keys: json.dumps({key: run.client.get(key) for key in keys}),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": json.dumps(run.events[-1] if run.events else {}),
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "logLineCount": len(run.output),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
            "historyKeys": {"keys": keys, "sets": [], "lastStep": run.history[-1]["_step"] if run.history else -1},
            "history": history,
            "events": lambda samples=500: [json.dumps(row) for row in run.events],
            "sampledHistory": sampled,
            "parquetHistory": parquet,
            "projectId": "1",
            "project": lambda: self._project(run.project),
            "user": self._user,
            "files": files,
            "fileCount": len(run.files),
            "outputArtifacts": lambda **page: _connection(
                [self._artifact_node(a) for a in run.logged if a.state == "COMMITTED"], **page
            ),
            "inputArtifacts": lambda **page: _connection([self._artifact_node(a) for a in run.used], **page),
            "exitcode": run.exit_code,
            "shouldStop": False,
            "failed": run.state == "failed",
            "stopped": False,
            "running": run.state == "running",
        }

    def _upsert_run(
        self,
        name: str | None = None,
        id: str | None = None,
        modelName: str | None = None,
        config: str | None = None,
        summaryMetrics: str | None = None,
        entityName: str | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        if id:
            run = next(run for run in self.runs.values() if run.storage_id == id)
            is_new = False
        else:
            place = modelName or "uncategorized", name or f"run{next(self._count)}"
            is_new = place not in self.runs
            run = self.runs.setdefault(place, Run(id=place[1], project=place[0], display_name=place[1]))
        if config is not None:
            values = {key: entry["value"] for key, entry in json.loads(config).items()}
            run.client = values.pop("_wandb", run.client)
            run.config = values
        if summaryMetrics is not None:
            run.summary = json.loads(summaryMetrics)
        attributes = {
            "displayName": "display_name",
            "groupName": "group",
            "jobType": "job_type",
            "jobProgram": "program",
        }
        for key, value in given.items():
            if key not in ("commit", "debug", "description", "jobRepo"):  # of the machine and its checkout
                setattr(run, _known(run, attributes.get(key, key)), value)
        return {"bucket": self._run_node(run), "inserted": is_new}

    def _create_run_files(
        self, projectName: str, runName: str, files: list[str], entityName: str = ""
    ) -> dict[str, Any]:
        run = self.runs[projectName, runName]
        place = f"{self.url}/storage/run/{quote(projectName)}/{runName}"
        uploads = [{"name": name, "uploadUrl": f"{place}/{quote(name)}"} for name in files]
        return {"runID": run.storage_id, "uploadHeaders": [], "files": uploads}

    # Artifacts.

    def _artifact_of(self, id: str) -> Artifact:
        for artifact in self.artifacts:
            if artifact.id == id:
                return artifact
        raise _RefusedError(f"no artifact {id}", status=404)

    def _find_artifact(self, project: str | None, name: str) -> Artifact | None:
        collection, _, alias = name.partition(":")
        alias = alias or "latest"
        for artifact in self.artifacts:
            is_there = artifact.collection == collection and project in (None, artifact.project)
            if (
                is_there
                and artifact.state == "COMMITTED"
                and alias in (*artifact.aliases, f"v{artifact.version}", artifact.digest)
            ):
                return artifact
        return None

    def _entry_content(self, artifact: Artifact, path: str) -> bytes:
        digest = artifact.entries[path]["digest"]
        content = artifact.uploads.get(path, self.blobs.get(digest))
        assert content is not None, f"{artifact.collection}:v{artifact.version}: {path} never arrived"
        arrived = base64.b64encode(hashlib.md5(content).digest()).decode()
        assert arrived == digest, f"{artifact.collection}:v{artifact.version}: {path} is not what its digest says"
        return content

    def _create_artifact(
        self,
        artifactTypeName: str,
        projectName: str,
        digest: str,
        artifactCollectionName: str | None = None,
        artifactCollectionNames: list[str] = (),
        entityName: str = "",
        runName: str | None = None,
        aliases: list[dict[str, str]] = (),
        metadata: str | None = None,
        description: str | None = None,
        clientID: str | None = None,
        sequenceClientID: str | None = None,
        tags: list[dict[str, str]] = (),
        digestAlgorithm: str = "MANIFEST_MD5",
        enableDigestDeduplication: bool = True,
        historyStep: int | None = None,
        distributedID: str | None = None,
        ttlDurationSeconds: int | None = None,
        storageRegion: str | None = None,
    ) -> dict[str, Any]:
        collection = artifactCollectionName or artifactCollectionNames[0]
        versions = [a for a in self.artifacts if (a.project, a.collection) == (projectName, collection)]
        for earlier in versions:
            if earlier.type != artifactTypeName:
                raise _RefusedError(f"{collection} is of type {earlier.type}", status=409)
        run = self.runs[projectName, runName] if runName else None
        same = [a for a in versions if a.digest == digest and a.state == "COMMITTED"]
        previous = [a for a in versions if a.state == "COMMITTED"]
        if same and enableDigestDeduplication:
            artifact = same[0]
        else:
            name = f"artifact-{next(self._count)}"
            artifact = Artifact(name, artifactTypeName, collection, projectName, digest, len(versions), run)
            artifact.description, artifact.metadata = description, json.loads(metadata or "{}")
            artifact.tags = [tag["tagName"] for tag in tags]
            self.artifacts.append(artifact)
        artifact.asked_aliases = [alias["alias"] for alias in aliases]
        if artifact.state == "COMMITTED":
            self._set_aliases(artifact, artifact.asked_aliases)
        if clientID:
            self._client_ids[clientID] = artifact.id
        if run and artifact not in run.logged:
            run.logged.append(artifact)
        node = self._artifact_node(artifact)
        latest = self._artifact_node(previous[-1]) if previous else None
        return {
            "artifact": node
            | {"artifactSequence": self._collection(projectName, collection) | {"latestArtifact": latest}}
        }

    def _set_aliases(self, artifact: Artifact, aliases: list[str]) -> None:
        """Set aliases; each belongs to one version of a collection and is removed from the others."""
        for other in self.artifacts:
            if (other.project, other.collection) == (artifact.project, artifact.collection):
                other.aliases = [alias for alias in other.aliases if alias not in aliases]
        artifact.aliases += aliases

    def _create_manifest(self, artifactID: str, **_: Any) -> dict[str, Any]:
        file = {
            "id": f"file-{artifactID}",
            "uploadUrl": f"{self.url}/storage/manifest/{artifactID}",
            "uploadHeaders": [],
        }
        return {"artifactManifest": {"id": f"manifest-{artifactID}", "file": file}}

    def _create_artifact_files(self, artifactFiles: list[dict[str, Any]], storageLayout: str = "V2") -> dict[str, Any]:
        nodes = []
        for spec in artifactFiles:
            place = f"{spec['artifactID']}/{quote(spec['name'])}"
            nodes.append(
                {
                    "storagePath": f"wandb_artifacts/{place}",
                    "uploadUrl": f"{self.url}/storage/artifact/{place}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": spec["artifactID"]},
                }
            )
        return {"files": _connection(nodes, first=len(nodes))}

    def _commit_artifact(self, artifactID: str) -> dict[str, Any]:
        artifact = self._artifact_of(artifactID)
        self.content(artifact)  # W&B refuses what is not whole
        artifact.state = "COMMITTED"
        self._set_aliases(artifact, artifact.asked_aliases)
        return {"artifact": self._artifact_node(artifact)}

    def _update_artifact(
        self,
        artifactID: str,
        metadata: str | None = None,
        description: str | None = None,
        aliases: list[dict[str, str]] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        artifact = self._artifact_of(artifactID)
        if metadata is not None:
            artifact.metadata = json.loads(metadata)
        if description is not None:
            artifact.description = description
        if aliases is not None:
            artifact.aliases = []
            self._set_aliases(artifact, [alias["alias"] for alias in aliases])
        return {"artifact": self._artifact_node(artifact)}

    def _alias(self, given: Mapping[str, Any], add: bool) -> dict[str, Any]:
        artifact = self._artifact_of(given["artifactID"])
        names = [alias["alias"] for alias in given["aliases"]]
        if add:
            self._set_aliases(artifact, names)
        else:
            artifact.aliases = [alias for alias in artifact.aliases if alias not in names]
        return {"success": True}

    def _use_artifact(self, artifactID: str, runName: str, projectName: str, **_: Any) -> dict[str, Any]:
        artifact, run = self._artifact_of(artifactID), self.runs[projectName, runName]
        if artifact not in run.used:
            run.used.append(artifact)
        return {"artifact": self._artifact_node(artifact)}

    def _artifact_node(self, artifact: Artifact) -> dict[str, Any]:
        def created_by() -> dict[str, Any] | None:
            return artifact.run and self._run_node(artifact.run)

        def used_by() -> dict[str, Any]:
            return _connection([self._run_node(run) for run in self.runs.values() if artifact in run.used])

        entries = artifact.entries
        collection = {
            "__typename": "ArtifactSequence",
            "id": f"collection-{artifact.project}/{artifact.collection}",
            "name": artifact.collection,
            "project": lambda: self._project(artifact.project),
        }
        aliases = [
            {
                "__typename": "ArtifactAlias",
                "id": f"{artifact.id}-{alias}",
                "alias": alias,
                "artifactCollection": collection,
            }
            for alias in artifact.aliases
        ]
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": collection,
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": artifact.description,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [{"__typename": "Tag", "id": tag, "name": tag} for tag in artifact.tags],
            "historyStep": None,
            "state": artifact.state,
            "size": sum(entry.get("size", 0) for entry in entries.values()),
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": artifact.id,
            "fileCount": len(entries),
            "createdAt": artifact.created,
            "updatedAt": artifact.created,
            "aliases": aliases,
            "currentManifest": {"file": {"directUrl": f"{self.url}/storage/manifest/{artifact.id}"}},
            "createdBy": created_by,
            "usedBy": used_by,
            "files": lambda names=(), **page: self._artifact_files(artifact, names, **page),
            "filesByManifestEntries": lambda **_: self._artifact_files(artifact, (), first=len(entries)),
        }

    def _artifact_files(self, artifact: Artifact, names: Iterable[str] = (), **page: Any) -> dict[str, Any]:
        place = f"{self.url}/storage/artifact/{artifact.id}"
        nodes = []
        for path, entry in artifact.entries.items():
            if "ref" not in entry and (not names or path in names):
                node = _file_node(f"{place}/{quote(path)}", path, self._entry_content(artifact, path))
                nodes.append(node | {"digest": entry["digest"]})
        return _connection(nodes, **page)

    def _membership(self, artifact: Artifact) -> dict[str, Any]:
        node = self._artifact_node(artifact)
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership-{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": artifact.created,
            "aliases": node["aliases"],
            "artifactCollection": node["artifactSequence"],
            "artifact": node,
            "files": node["files"],
        }

    def _versions(self, project: str, name: str) -> list[Artifact]:
        return [a for a in self.artifacts if (a.project, a.collection) == (project, name) and a.state == "COMMITTED"][
            ::-1
        ]

    def _collection(self, project: str, name: str) -> dict[str, Any] | None:
        members = [a for a in self.artifacts if (a.project, a.collection) == (project, name)]
        if not members:
            return None

        def artifacts(order: str | None = None, filters: str = "{}", **page: Any) -> dict[str, Any]:
            page_of = _connection([self._artifact_node(artifact) for artifact in self._versions(project, name)], **page)
            for edge in page_of["edges"]:
                edge["version"] = f"v{edge['node']['versionIndex']}"
            return page_of

        def membership(aliasName: str) -> dict[str, Any] | None:
            artifact = self._find_artifact(project, f"{name}:{aliasName}")
            return artifact and self._membership(artifact)

        node = self._artifact_node(members[0])
        return node["artifactSequence"] | {
            "description": None,
            "createdAt": members[0].created,
            "updatedAt": members[-1].created,
            "defaultArtifactType": node["artifactType"],
            "tags": _connection([]),
            "digestAlgorithm": "MANIFEST_MD5",
            "aliases": lambda **page: _connection(
                [alias for artifact in members for alias in self._artifact_node(artifact)["aliases"]], **page
            ),
            "artifacts": artifacts,
            "artifactMembership": membership,
        }

    def _collections(self, project: str, kind: str | None = None) -> list[dict[str, Any]]:
        names = dict.fromkeys(a.collection for a in self.artifacts if a.project == project and kind in (None, a.type))
        return [self._collection(project, name) for name in names]

    def _artifact_type(self, project: str, kind: str) -> dict[str, Any]:
        names = {node["name"]: node for node in self._collections(project, kind)}
        return {
            "__typename": "ArtifactType",
            "id": f"type-{kind}",
            "name": kind,
            "description": None,
            "createdAt": _now(),
            "artifactCollection": lambda name: names.get(name),
            "artifactCollections": lambda filters="{}", order="", **page: _connection(list(names.values()), **page),
        }

    # Sweeps.

    def _upsert_sweep(
        self,
        id: str | None = None,
        config: str | None = None,
        projectName: str | None = None,
        state: str | None = None,
        displayName: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        known = {f"sweep-{sweep.id}": sweep for sweep in self.sweeps.values()} | self.sweeps
        if id:
            sweep = known[id]
        else:
            name = f"sweep{next(self._count):03d}"
            sweep = self.sweeps[name] = Sweep(name, projectName or "uncategorized", yaml.safe_load(config))
            sweep.display_name = displayName or sweep.config.get("name")
        if id and config and config != "null\n":
            sweep.config = yaml.safe_load(config)
        sweep.state = state or sweep.state
        return {"sweep": self._sweep_node(sweep), "configValidationWarnings": []}

    def _sweep_node(self, sweep: Sweep) -> dict[str, Any]:
        runs = [run for run in self.runs.values() if run.sweep == sweep.id]
        metric = sweep.config.get("metric", {})
        values = [run.summary[metric["name"]] for run in runs if metric.get("name") in run.summary]
        best = max if metric.get("goal") == "maximize" else min
        return {
            "__typename": "Sweep",
            "id": f"sweep-{sweep.id}",
            "name": sweep.id,
            "displayName": sweep.display_name,
            "method": sweep.config.get("method"),
            "state": sweep.state,
            "description": sweep.config.get("description"),
            "config": yaml.safe_dump(sweep.config),
            "bestLoss": best(values) if values else None,
            "createdAt": sweep.created,
            "updatedAt": sweep.created,
            "heartbeatAt": _now(),
            "earlyStopJobRunning": False,
            "controller": None,
            "scheduler": None,
            "controllerRunName": None,
            "runCount": len(runs),
            "runCountExpected": sweep.config.get("run_cap"),
            "project": lambda: self._project(sweep.project),
            "runs": lambda **page: _connection([self._run_node(run) for run in runs], **page),
            "agents": lambda: _connection([self._agent_node(agent) for agent in sweep.agents]),
            "agent": lambda agentName: self._agent_node(agentName),
        }

    def _agent_node(self, agent: str) -> dict[str, Any]:
        return {"id": agent, "name": agent, "host": socket.gethostname(), "state": "RUNNING", "totalRuns": 0} | {
            "createdAt": _now(),
            "heartbeatAt": _now(),
        }

    def _create_agent(self, sweep: str, host: str, **_: Any) -> dict[str, Any]:
        if sweep not in self.sweeps:
            raise _RefusedError(f"no sweep {sweep}", status=404)
        agent = f"agent-{sweep}-{len(self.sweeps[sweep].agents)}"
        self.sweeps[sweep].agents.append(agent)
        return {"agent": self._agent_node(agent)}

    def _heartbeat(self, id: str, runState: str = "{}", metrics: str = "{}") -> dict[str, Any]:
        sweep = self.sweeps[id.split("-")[1]]
        given = sweep.running.setdefault(id, set())
        running = {run for run, is_running in json.loads(runState).items() if is_running}
        ended = {run for run in given if (sweep.project, run) in self.runs and run not in running}
        given -= ended
        commands = []
        if sweep.state in ("CANCELED", "FINISHED", "STOPPED"):
            commands = [{"type": "exit"}]
        elif sweep.state != "PAUSED" and not given and not running:
            parameters = self._sample(sweep)
            if parameters is None:
                sweep.state = "FINISHED"
                commands = [{"type": "exit"}]
            else:
                sweep.state = "RUNNING"
                run_id = f"{sweep.id}t{len(sweep.trials)}"
                sweep.trials.append((run_id, parameters))
                given.add(run_id)
                args = {key: {"value": value} for key, value in parameters.items()}
                commands = [{"type": "run", "run_id": run_id, "args": args, "logs": [], "program": None}]
        return {"agent": self._agent_node(id), "commands": json.dumps(commands)}

    def _sample(self, sweep: Sweep) -> dict[str, Any] | None:
        """Return the next trial: in the grid's order, else random (also for bayes)."""
        if len(sweep.trials) >= sweep.config.get("run_cap", math.inf):
            return None
        if sweep.config["method"] == "grid":
            grid = _grid(sweep.config["parameters"])
            return grid[len(sweep.trials)] if len(sweep.trials) < len(grid) else None
        return {name: self._draw(spec) for name, spec in sweep.config["parameters"].items()}

    def _draw(self, spec: Mapping[str, Any]) -> Any:
        if "value" in spec:
            return spec["value"]
        if "values" in spec:
            return self._random.choices(spec["values"], spec.get("probabilities"))[0]
        if "parameters" in spec:
            return {name: self._draw(inner) for name, inner in spec["parameters"].items()}
        kind = spec.get("distribution") or "uniform"
        name = kind.removeprefix("q_").removeprefix("inv_")
        if name in ("normal", "log_normal"):
            value = self._random.gauss(spec.get("mu", 0), spec.get("sigma", 1))
            value = math.exp(value) if name == "log_normal" else value
        elif name == "log_uniform":
            value = math.exp(self._random.uniform(spec["min"], spec["max"]))
        elif name == "log_uniform_values":
            value = math.exp(self._random.uniform(math.log(spec["min"]), math.log(spec["max"])))
        elif name == "int_uniform":
            return self._random.randint(spec["min"], spec["max"])
        elif name == "uniform":
            value = self._random.uniform(spec["min"], spec["max"])
        else:
            raise _RefusedError(f"distribution {kind}", status=400)
        step = spec.get("q", 1)
        return round(value / step) * step if kind.startswith("q_") else value

    # Reports.

    def _upsert_report(
        self,
        projectName: str,
        spec: str,
        entityName: str,
        type: str,
        createdUsing: str,
        id: str | None = None,
        name: str = "",
        displayName: str = "",
        description: str = "",
    ) -> dict[str, Any]:
        if id and id not in self.reports:
            raise _RefusedError(f"no view {id}", status=404)
        is_new = not id
        id = id or f"view{next(self._count)}"
        report = self.reports.setdefault(id, Report(id, projectName, name))
        report.title, report.description, report.spec = displayName, description, json.loads(spec)
        return {"view": self._report_node(report), "inserted": is_new}

    def _report_node(self, report: Report) -> dict[str, Any]:
        return {
            "__typename": "View",
            "id": report.id,
            "type": "runs",
            "name": report.name,
            "displayName": report.title,
            "description": report.description,
            "project": lambda: self._project(report.project),
            "spec": json.dumps(report.spec),
            "user": self._user() | {"photoUrl": None},
            "createdAt": report.created,
            "updatedAt": _now(),
        }


def read_back(folder: Path) -> list[dict[str, Any]]:
    """Read all records of the one run in a project's folder from its `.wandb` file.

    Raises:
        AssertionError: something of it can't be read.
    """
    (file,) = folder.glob("wandb/*run-2*/*.wandb")
    records, damage = read_records(file)
    assert damage is None, damage
    return records


class _RefusedError(Exception):
    """W&B's server would refuse the request."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _known(run: Run, name: str) -> str:
    if not hasattr(run, name):
        raise KeyError(f"upsertBucket(input: {{{name}}})")
    return name


def _kind(value: Any) -> str:
    return {str: "string", dict: "map", list: "list", bool: "boolean"}.get(type(value), "number")


def _file_node(url: str, name: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.md5(content).digest()
    return {
        "__typename": "File",
        "id": url,
        "name": name,
        "displayName": name,
        "url": lambda upload=False: url,
        "directUrl": url,
        "sizeBytes": len(content),
        "storagePath": name,
        "mimetype": "application/octet-stream",
        "updatedAt": _now(),
        "digest": base64.b64encode(digest).decode(),
        "md5": digest.hex(),
    }


def _connection(nodes: list[Any], first: int | None = 50, after: str | None = None) -> dict[str, Any]:
    start = int(after) if after else 0
    end = start + (first or 50)
    edges = [{"node": node, "cursor": str(start + place)} for place, node in enumerate(nodes[start:end], 1)]
    last = edges[-1]["cursor"] if edges else None
    page = {"__typename": "PageInfo", "endCursor": last, "hasNextPage": end < len(nodes)}
    return {"edges": edges, "pageInfo": page, "totalCount": len(nodes)}


def _grid(parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = []
    for spec in parameters.values():
        if "parameters" in spec:
            choices.append(_grid(spec["parameters"]))
        else:
            choices.append(spec["values"] if "values" in spec else [spec["value"]])
    return [dict(zip(parameters, chosen, strict=True)) for chosen in itertools.product(*choices)]


def _field_of(run: Run, name: str) -> Any:
    """Return a run's value by its name in W&B's filters and orders."""
    first, _, rest = name.partition(".")
    if first in ("config", "summary_metrics"):
        value = run.config if first == "config" else run.summary
        for part in rest.removesuffix(".value").split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value
    names = {"name": "id", "displayName": "display_name", "jobType": "job_type", "createdAt": "created"}
    names |= {"created_at": "created", "heartbeat_at": "created"}
    return getattr(run, names.get(name, name))


def _filter(runs: Iterable[Run], filters: str | None) -> list[Run]:
    """Return the runs that match a filter in MongoDB's query language."""
    compare = {
        "$eq": lambda a, b: a == b,
        "$ne": lambda a, b: a != b,
        "$gt": lambda a, b: a is not None and a > b,
        "$gte": lambda a, b: a is not None and a >= b,
        "$lt": lambda a, b: a is not None and a < b,
        "$lte": lambda a, b: a is not None and a <= b,
        "$in": lambda a, b: bool(set(a) & set(b)) if isinstance(a, list) else a in b,
        "$nin": lambda a, b: a not in b,
        "$exists": lambda a, b: (a is not None) == b,
        "$regex": lambda a, b: bool(re.search(b, a or "")),
    }

    def passes(run: Run, rule: Mapping[str, Any]) -> bool:
        results = []
        for key, wanted in rule.items():
            if key in ("$and", "$or"):
                parts = [passes(run, part) for part in wanted]
                results.append(all(parts) if key == "$and" else any(parts))
            else:
                tests = wanted if isinstance(wanted, dict) else {"$eq": wanted}
                results += [compare[test](_field_of(run, key), value) for test, value in tests.items()]
        return all(results)

    return [run for run in runs if passes(run, json.loads(filters or "{}"))]


def _sort(runs: list[Run], order: str | None) -> list[Run]:
    order = order or "+created_at"
    name = order.lstrip("+-")
    with_value = [run for run in runs if _field_of(run, name) is not None]
    with_value.sort(key=lambda run: _field_of(run, name), reverse=order.startswith("-"))
    return with_value + [run for run in runs if _field_of(run, name) is None]


class _Document:
    """A GraphQL document: its one operation, and its fragments by name.

    Raises:
        graphql.GraphQLSyntaxError: it is not GraphQL.
    """

    def __init__(self, text: str) -> None:
        definitions = graphql.parse(text, no_location=True).definitions
        (operation,) = (node for node in definitions if isinstance(node, OperationDefinitionNode))
        self.kind = operation.operation.value
        self.selections = operation.selection_set.selections
        self.fragments = {node.name.value: node for node in definitions if isinstance(node, FragmentDefinitionNode)}
        self.defaults = {
            node.variable.name.value: value_from_ast_untyped(node.default_value)
            for node in operation.variable_definitions or ()
            if node.default_value
        }

    def select(self, node: Any, selections: Iterable[SelectionNode], variables: Mapping[str, Any]) -> Any:
        """Return the selected fields of a node: a dict of fields, or a list of nodes.

        Raises:
            KeyError: a field that the node doesn't have.
            TypeError: an argument that a field doesn't take.
        """
        if isinstance(node, list):
            return [self.select(item, selections, variables) for item in node]
        if node is None:
            return None
        found = {}
        for selection in selections:
            if not _arguments(selection, "include", variables).get("if", True):
                continue
            if isinstance(selection, FieldNode):
                name = selection.name.value
                if name not in node:
                    raise KeyError(f"no field {name} of {node.get('__typename', sorted(node))}")
                value = node[name]
                if callable(value):
                    value = value(**_values(selection.arguments, variables))
                if selection.selection_set:
                    value = self.select(value, selection.selection_set.selections, variables)
                found[(selection.alias or selection.name).value] = value
                continue
            if isinstance(selection, FragmentSpreadNode):
                selection = self.fragments[selection.name.value]
            elif selection.type_condition.name.value not in (node.get("__typename"), "CreateArtifactPayload"):
                continue
            found |= self.select(node, selection.selection_set.selections, variables)
        return found


def _arguments(selection: SelectionNode, directive: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for node in selection.directives or ()
        if node.name.value == directive
        for name, value in _values(node.arguments, variables).items()
    }


def _values(arguments: Iterable[ArgumentNode], variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with variables filled in; one without a value is left out, as GraphQL specifies."""
    values = {node.name.value: value_from_ast_untyped(node.value, variables) for node in arguments or ()}
    return _without_nulls(values)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item not in (None, graphql.Undefined)}
    return value


class _Http(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        """Ignore a client that disconnected."""

    def cut(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as W&B's are

    def __init__(self, server: WandbServer, *arguments: Any) -> None:
        self._server = server
        super().__init__(*arguments)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        fault = self._server.fault(self.path)
        credentials = base64.b64encode(f"api:{self._server.key}".encode()).decode()
        is_allowed = self.headers.get("Authorization") == f"Basic {credentials}"
        status, answer = (fault, b"") if fault else self._server.handle(self.command, self.path, body, is_allowed)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        """Do nothing: requests are kept in `WandbServer.requests`."""
