"""What operators, health checks and Prometheus are told."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import replace

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families as plain

from incomingd import admin
from incomingd.admin.paths import PATHS
from incomingd.config import Problem
from incomingd.config.changes import Change, Changes
from incomingd.core.status import Status
from incomingd.engine import ending
from incomingd.engine.events import PARK_REASONS, PULL_REASONS, RECALL_RESULTS, Told
from incomingd.engine.state import Phase
from incomingd.frontends.uploads import PREFIX
from tests.backend_api.conftest import MakeApi
from tests.backend_api.service import SECRET, ApiService
from tests.support.machine import wait_until


def metrics(api: ApiService) -> dict[tuple[str, ...], float]:
    """Scrape; return each sample by its name and the values of its labels, in the order of their names."""
    answer = api.admin_call("GET", "/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in plain(answer.text)
        for sample in family.samples
    }


def give_up(api: ApiService, upload_id: str) -> None:
    api.do(f"{PREFIX}/{upload_id}", lambda upload: ending.handover_failed(upload, error="down", next_attempt_at=None))


# -- health and status


def test_health_follows_the_state(api: ApiService) -> None:
    for phase, status in ((Phase.STARTING, 503), (Phase.READY, 200), (Phase.STOPPING, 503)):
        api.engine.state._phase = phase
        answer = api.admin_call("GET", "/health")
        assert (answer.status_code, answer.json()) == (status, {"state": phase.value})
        assert api.admin_call("HEAD", "/health").status_code == status


def test_the_status_tells_the_instance_at_a_glance(api: ApiService) -> None:
    upload = api.created(length=10)
    api.open_append(upload["upload_url"], 0, b"0123", 10)
    stuck = api.upload_in(Status.HANDING_OVER)
    give_up(api, stuck)
    status = api.admin_call("GET", "/status").json()
    assert (status["state"], status["version"], status["instance"]) == ("ready", "1.2.3", "test")
    assert status["pid"] == os.getpid()
    assert status["uptime_s"] >= 0
    assert (status["volume"]["id"], status["volume"]["path"]) == (api.volume.id, str(api.folder))
    assert status["volume"]["free_bytes"] > 0
    assert status["uploads"] == {s.value: 0 for s in Status} | {"open": 1, "complete": 1}
    assert (status["handovers_stuck"], status["uploads_counted"]) == (1, True)
    assert status["uploads_in_memory"] == 2
    assert status["connections"]["backend"] >= 1


def test_a_volume_that_is_gone_does_not_take_the_status_with_it(api: ApiService) -> None:
    api.admin.instance = replace(api.admin.instance, volume_path=api.folder / "nowhere")
    assert api.admin_call("GET", "/status").json()["volume"]["free_bytes"] is None
    assert ("incomingd_volume_free_bytes", api.volume.id) not in metrics(api)


# -- the instance among others


def test_a_drain_is_begun_watched_and_undone(api: ApiService) -> None:
    """The answer comes at once; the status tells how far it is; a repeat changes nothing."""
    for _ in range(3):
        api.upload_in(Status.COMPLETE)
    assert api.admin_call("GET", "/status").json()["drain"] is None
    answer = api.admin_call("POST", "/drain")
    assert (answer.status_code, answer.json()["state"], answer.json()["drain"]["uploads"]) == (202, "draining", 3)
    wait_until(lambda: api.admin_call("GET", "/status").json()["state"] == "drained", "the end of the drain")
    drain = api.admin_call("GET", "/status").json()["drain"]
    assert (drain["uploads"], drain["left"], drain["parked"], drain["appends_open"]) == (3, 0, 3, 0)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", drain["began_at"])
    again = api.admin_call("POST", "/drain", {})
    assert (again.status_code, again.json()) == (202, {"state": "drained", "drain": drain})
    assert api.admin_call("POST", "/undrain", {}).json() == {"state": "ready"}
    assert api.admin_call("GET", "/status").json()["drain"] is None


def test_who_does_not_drain_has_nothing_to_undo(api: ApiService) -> None:
    answer = api.admin_call("POST", "/undrain")
    assert (answer.status_code, answer.json()) == (200, {"state": "ready"})


@pytest.mark.parametrize("path", ["/drain", "/undrain"])
def test_a_call_with_a_field_that_means_nothing_does_nothing(path: str, api: ApiService) -> None:
    """A wish that is not understood is not half obeyed."""
    answer = api.admin_call("POST", path, {"wait": True})
    assert (answer.status_code, answer.json()["code"]) == (400, "field_invalid")
    assert api.engine.state.phase is Phase.READY


def test_the_ring_of_one(api: ApiService) -> None:
    ring = api.admin_call("GET", "/ring").json()
    (instance,) = ring["instances"]
    assert (ring["registry_available"], ring["settled"]) == (True, True)
    assert (instance["name"], instance["self"], instance["draining"]) == (
        api.engine.services.identity.name, True, False,
    )  # fmt: skip
    assert ring == api.admin_call("GET", "/status").json()["ring"]


# -- who may

OPERATIONS = [
    (method, path)
    for path, handler in PATHS.items()
    for method in ("GET", "POST")
    if method.lower() in vars(handler) and path != "/health"
]


@pytest.mark.parametrize("method,path", OPERATIONS)
def test_beside_web_apps_operators_need_a_token(method: str, path: str, make_api: MakeApi) -> None:
    api = make_api({"backend": {"tokens": ["t"]}})
    path = path.replace("{id}", "x")
    assert api.admin_call("GET", "/health").status_code == 200
    for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 403)):
        assert api.admin_call(method, path, headers=headers).status_code == status
    answer = api.admin_call(method, path, headers={"Authorization": "Bearer t"})
    assert answer.status_code in (200, 202, 404)


@pytest.mark.parametrize("method,path", [case for case in OPERATIONS if case[0] == "POST"])
def test_a_page_cannot_command_the_daemon(method: str, path: str, api: ApiService) -> None:
    """A browser near the daemon sends Origin with every POST that a page makes it send, be it a page of ours."""
    upload_id = api.upload_in(Status.COMPLETE)
    for origin in ("https://evil.example", "null", api.api_url):
        answer = api.admin_call(method, path.replace("{id}", upload_id), headers={"Origin": origin})
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")
    assert api.record(f"{PREFIX}/{upload_id}").status is Status.COMPLETE


@pytest.mark.parametrize("path", ["/", "/drain/x", "/rings", "/uploads/x/finish", "/healthy"])
def test_there_is_no_more_than_there_is(path: str, api: ApiService) -> None:
    assert api.admin_call("GET", path).json()["code"] == "path_unknown"


# -- uploads


def test_operators_see_uploads_and_their_callbacks(api: ApiService) -> None:
    """Without the secret that a web app needs for its own."""
    upload_id = api.upload_in(Status.HANDING_OVER, secret=SECRET.removeprefix("whsec_"), secret_given=True)
    give_up(api, upload_id)
    found = api.admin_call("GET", f"/uploads/{upload_id}").json()
    assert (found["id"], found["status"]) == (upload_id, "complete")
    assert found["path"] == str(api.volume.path_of(api.record(f"{PREFIX}/{upload_id}")))
    (callback,) = found["callbacks"]
    assert callback["webhook_id"].startswith("msg_")
    assert (callback["type"], callback["attempts"]) == ("upload.complete", 1)
    assert (callback["given_up"], callback["delivered"], callback["last_error"]) == (True, False, "down")
    assert SECRET.removeprefix("whsec_") not in json.dumps(found)
    token = api.record(f"{PREFIX}/{upload_id}").handover.download_token
    assert token is not None
    assert token not in json.dumps(found)
    assert api.admin_call("GET", "/uploads/x").json()["code"] == "upload_unknown"


def test_operators_list_uploads_as_web_apps_do(api: ApiService) -> None:
    stuck = api.upload_in(Status.HANDING_OVER)
    give_up(api, stuck)
    api.created(labels=["x"])
    for query in ("", "?status=open", "?label=x", "?handover=stuck"):
        assert api.admin_call("GET", f"/uploads{query}").json() == api.call("GET", f"/uploads{query}").json()
    assert [u["id"] for u in api.admin_call("GET", "/uploads?handover=stuck").json()["uploads"]] == [stuck]
    assert api.admin_call("GET", "/uploads?status=x").json()["code"] == "field_invalid"


def test_operators_cancel_and_redeliver(api: ApiService) -> None:
    stuck = api.upload_in(Status.HANDING_OVER, secret=SECRET.removeprefix("whsec_"), secret_given=True)
    give_up(api, stuck)
    due: list[str] = []
    api.engine.services.events.subscribe(Told.DUE, lambda record: due.append(record.upload_id))
    answer = api.admin_call("POST", f"/uploads/{stuck}/redeliver")
    assert (answer.status_code, answer.json()["callbacks"][0]["given_up"], due) == (200, False, [stuck])
    answer = api.admin_call("POST", f"/uploads/{stuck}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["error"]["message"] == "Cancelled by an operator."
    answer = api.admin_call("POST", f"/uploads/{api.created()['id']}/cancel", {"reason": "why not"})
    assert answer.json()["error"]["message"] == "why not"


# -- reload


def test_a_reload_says_what_has_changed(api: ApiService) -> None:
    api.reload_changes = Changes((Change("hold_s", "10", "5"),), (Change("data_dir", "a", "b"),))
    answer = api.admin_call("POST", "/reload")
    assert answer.status_code == 200
    assert answer.json() == {
        "applied": [{"key": "hold_s", "old": "10", "new": "5"}],
        "needs_restart": [{"key": "data_dir", "old": "a", "new": "b"}],
    }


def test_a_reload_that_fails_says_why(api: ApiService) -> None:
    api.reload_problems = [Problem("unknown_key", "conf.yaml:3", "hold", "there is no key `hold`", nearest="hold_s")]
    answer = api.admin_call("POST", "/reload")
    assert (answer.status_code, answer.json()["code"]) == (400, "field_invalid")
    assert "conf.yaml:3: there is no key `hold`" in answer.json()["detail"]
    (error,) = answer.json()["errors"]
    assert (error["field"], error["source"], error["nearest"]) == ("hold", "conf.yaml:3", "hold_s")


# -- metrics


def test_uploads_and_their_ends_are_counted(api: ApiService) -> None:
    for status in (Status.OPEN, Status.FINISHED, Status.FINISHED, Status.CANCELLED, Status.EXPIRED, Status.FAILED):
        api.upload_in(status)
    give_up(api, api.upload_in(Status.HANDING_OVER))
    found = metrics(api)
    assert found["incomingd_tickets_created_total",] == 7
    ended = {status.value: found["incomingd_uploads_ended_total", status.value] for status in Status if status.final}
    assert ended == {"finished": 2, "cancelled": 1, "expired": 1, "failed": 1, "lost": 0}
    assert [found["incomingd_uploads", status] for status in ("open", "complete", "finished")] == [1, 1, 2]
    assert found["incomingd_handovers_stuck",] == 1
    assert found["incomingd_volume_free_bytes", api.volume.id] > 0
    assert found["incomingd_state", "ready"] == 1
    assert found["incomingd_state", "stopping"] == 0
    assert found["incomingd_build_info", "test", "1.2.3"] == 1
    assert found["process_resident_memory_bytes",] > 0


def test_refusals_are_counted_by_listener_and_code(api: ApiService) -> None:
    api.call("GET", "/uploads/x")
    api.call("GET", "/uploads/y")
    api.admin_call("GET", "/uploads/x")
    found = metrics(api)
    assert found["incomingd_refusals_total", "upload_unknown", "backend"] == 2
    assert found["incomingd_refusals_total", "upload_unknown", "admin"] == 1


def test_moves_of_uploads_are_counted(api: ApiService) -> None:
    """Each word of a closed list, from 0 on, so that a rate sees the first time too."""
    found = metrics(api)
    for name, words in (
        ("incomingd_uploads_pulled_total", PULL_REASONS),
        ("incomingd_uploads_parked_total", PARK_REASONS),
        ("incomingd_recalls_total", RECALL_RESULTS),
    ):
        assert {labels[0]: value for (family, *labels), value in found.items() if family == name} == dict.fromkeys(
            words, 0
        )
    for _ in range(2):
        api.upload_in(Status.COMPLETE)
    api.admin_call("POST", "/drain")
    wait_until(lambda: api.admin_call("GET", "/status").json()["state"] == "drained", "the end of the drain")
    found = metrics(api)
    assert found["incomingd_uploads_pulled_total", "parked"] == 2
    assert found["incomingd_uploads_parked_total", "shutdown"] == 2


def test_the_ring_is_measured(api: ApiService) -> None:
    found = metrics(api)
    names = ("incomingd_instances", "incomingd_registry_available", "incomingd_lease_holds")
    assert [found[name,] for name in names] == [1, 1, 1]
    assert found["incomingd_retirement_inherited_records",] == found["incomingd_retirement_left_records",] == 0


def test_each_scraper_gets_its_format(api: ApiService) -> None:
    url = f"{api.api_url}/incoming/1.0/admin/metrics"
    accept = "application/openmetrics-text; version=1.0.0"
    answer = requests.get(url, headers={"Accept": accept}, timeout=30)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")
    assert requests.get(url, timeout=30).headers["Content-Type"].startswith("text/plain")


def test_names_are_as_prometheus_has_them(api: ApiService) -> None:
    """Our own begin with `incomingd_` and end in their unit; no label can take values without end."""
    api.upload_in(Status.COMPLETE)
    for family in plain(api.admin_call("GET", "/metrics").text):
        assert family.name.startswith(("incomingd_", "process_", "python_")), family.name
        assert family.documentation
        assert not family.name.endswith("_created") or family.name == "incomingd_tickets_created", family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        assert not re.search(r"_(s|ms|kb|mb|mib|count)$", family.name)
        names = {name for sample in family.samples for name in sample.labels}
        assert names <= {
            "code", "ended_by", "instance", "le", "listener", "protocol", "reason", "result", "state", "status", "type",
            "version", "volume",
        }  # fmt: skip


def test_the_loop_is_watched(api: ApiService) -> None:
    async def watch() -> asyncio.Task[None]:
        return api.clock.spawn(admin.watch_loop(api.clock, api.metrics), name="loop watch")

    task = api.run(watch())
    wait_until(lambda: metrics(api)["incomingd_loop_lag_seconds_count",] >= 2, "two measurements", timeout_s=10)
    api._loop.call_soon_threadsafe(task.cancel)
