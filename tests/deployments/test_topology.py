"""The services of ``compose.yaml`` as processes: a server on PostgreSQL, deploy and a worker.

Everything that they are given is read from that file; secrets are given as files.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.fernet import Fernet

from deployments.stack import free_port
from faceid.emulator import Emulator
from tests.deployments.compose import Topology
from tests.deployments.postgres_server import POSTGRES, execute
from tests.deployments.test_registration import ALL
from tests.deployments.triggered_runs import final_state, trigger
from tests.waiting import until

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

USER = "admin"


@pytest.fixture
def topology(
    database: str, emulator: Emulator, samples: Path, tmp_path: Path
) -> Iterator[Topology]:
    """The services, which are not started yet."""
    port, health = free_port(), free_port()
    user, _, rest = POSTGRES.partition("@")
    host, _, database_port = rest.partition(":")
    for folder in ("prefect", "faceid", "faceid/prefect", "faceid/saved"):
        (tmp_path / folder).mkdir()
    topology = Topology(
        tmp_path,
        secrets={
            # Contains characters that would need quoting in a URL, but not here.
            "postgres_password": "p@ss/w:rd%41 #1",
            "api_auth_string": f"{USER}:{Fernet.generate_key().decode()}",
            "prefect_encryption_key": Fernet.generate_key().decode(),
            "faceid_data_key": Fernet.generate_key().decode(),
            "tencent_secret_id": emulator.secret_id,
            "tencent_secret_key": emulator.secret_key,
        },
        places={
            "/var/lib/prefect": str(tmp_path / "prefect"),
            "/var/lib/faceid": str(tmp_path / "faceid"),
            "/srv/faceid": str(samples),
            "/tmp/ui": str(tmp_path / "ui"),
            "http://server:4200": f"http://127.0.0.1:{port}",
            "http://127.0.0.1:4200": f"http://127.0.0.1:{port}",
            "http://127.0.0.1:8080": f"http://127.0.0.1:{health}",
        },
        variables={
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_WORKER_WEBSERVER_PORT": str(health),
            "PREFECT_SERVER_DATABASE_HOST": host,
            "PREFECT_SERVER_DATABASE_PORT": database_port,
            "PREFECT_SERVER_DATABASE_USER": user,
            "PREFECT_SERVER_DATABASE_NAME": database.rpartition("/")[2],
        },
        extra={"FACEID_ENDPOINT": emulator.url},
    )
    yield topology
    topology.stop()


def test_a_delivery_in_the_topology_of_compose(topology: Topology, database: str):
    server = topology.start_healthy("server")
    root = topology.here("http://server:4200")
    # Without the auth string, the API refuses all calls.
    assert httpx.post(f"{root}/api/flows/filter", json={}).status_code == 401
    assert "rejected our credentials: set PREFECT_API_AUTH_STRING" in refused(topology)
    dashboard = httpx.get(f"{root}/ui-settings").json()
    # The dashboard is served from a writable folder, and calls the host that served it.
    assert (dashboard["default_ui"], dashboard["auth"], dashboard["api_url"]) == (
        "v2",
        "BASIC",
        "/api",
    )
    assert (topology.folder / "ui" / "v2" / "index.html").exists()

    assert topology.run("deploy").splitlines() == ALL
    assert topology.run("deploy") == "nothing to change\n"

    worker = topology.start_healthy("worker")
    auth = (USER, topology.secrets["api_auth_string"].partition(":")[2])
    with httpx.Client(base_url=f"{root}/api", auth=auth, timeout=30) as api:
        resources = {
            "ImageUrl": topology.here("/srv/faceid/alder.jpg"),
            "VideoUrl": topology.here("/srv/faceid/alder.mp4"),
        }
        run = trigger(api, resources=resources)
        state = final_state(api, run)
        assert state["message"] == "verdict: passed, Success [emulator]"
        # The record is stored in the volume, encrypted with the key from the secret.
        assert list((topology.folder / "faceid" / "storage").rglob("*"))
        (taken,) = api.post("/work_pools/faceid/workers/filter", json={}).json()
        assert (taken["name"], taken["status"]) == ("worker-1", "ONLINE")
        assert_no_secret_shows(topology, server.pid, worker.pid, database)

        # The worker survives a restart of the server, which deletes runs that ended long ago.
        old = trigger(api, request_id="r-2", resources=resources)
        final_state(api, old)
        age(database, old, timedelta(days=91))
        server.terminate()
        server.wait(30)
        topology.start_healthy("server")
        until(lambda: api.get(f"/flow_runs/{old}").status_code == 404, "the deletion of the run")
        assert api.get(f"/flow_runs/{run}").status_code == 200
        again = trigger(api, request_id="r-3", resources=resources)
        assert final_state(api, again)["type"] == "COMPLETED"
    worker.terminate()
    assert worker.wait(60) == 0


def refused(topology: Topology) -> str:
    """Return what ``deploy`` prints if the auth string is not the server's."""
    right = topology.secrets
    topology.secrets = {**right, "api_auth_string": f"{USER}:wrong"}
    ended = topology.call("deploy")
    topology.secrets = right
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def assert_no_secret_shows(topology: Topology, server: int, worker: int, database: str) -> None:
    """Check that no secret appears in the command lines, the logs or the database."""
    processes = [psutil.Process(pid) for pid in (server, worker)]
    processes += [child for process in processes for child in process.children(recursive=True)]
    written = [" ".join(process.cmdline()) for process in processes]
    written += [topology.log(name).read_text() for name in ("server", "worker")]
    dump = ["pg_dump", database.replace("+asyncpg", "")]
    written.append(subprocess.run(dump, capture_output=True, text=True, check=True).stdout)
    assert "deliver r-1" in written[-1]
    for secret in topology.secrets.values():
        assert not [text for text in written if secret in text]


def age(database: str, flow_run_id: str, by: timedelta) -> None:
    ended = datetime.now(UTC) - by
    statement = "UPDATE flow_run SET end_time = $1 WHERE id = $2"
    asyncio.run(execute(statement, ended, flow_run_id, database=database.rpartition("/")[2]))
