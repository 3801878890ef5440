"""Asking hosts: politely, within bounds, and believing nothing unchecked."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from loopback import Query, Services, serving

from gzsurvey.cutouts.remote.budget import HostBudget, Hosts
from gzsurvey.cutouts.remote.cache import ReplyCache
from gzsurvey.cutouts.remote.client import LOST_IN_A_ROW, Client
from gzsurvey.cutouts.remote.decode import FitsImage, fits_image
from gzsurvey.cutouts.remote.token import token, use_token_file
from gzsurvey.errors import CutoutUnavailable, SourceError, SourceFault
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

QUICK = Politeness(
    requests_per_s=500, connections=4, tries=3, backoff_s=0.01, timeout_s=5, max_mb=1, cache_mb=10
)  # fmt: skip
IMPATIENT = QUICK.model_copy(update={"timeout_s": 0.2, "deadline_s": 0.3})


@pytest.fixture
def client(services: Services, tmp_path: Path) -> Client:
    return Client("hips2fits:a/P/b", [f"{services.url}/hips2fits"], QUICK, tmp_path)


def get(client: Client, key: str = "one", **changes: object) -> FitsImage:
    params = {
        "hips": "a/P/g", "width": 32, "height": 32, "ra": 150, "dec": 2, "fov": 0.002, "format": "fits", **changes,
    }  # fmt: skip
    return client.fetch(lambda server: client.session.get(server, params=params), fits_image, key)


def fail_first(fault: str, times: int = 1) -> object:
    return lambda number, path, query: fault if number < times else ""


@pytest.mark.parametrize("fault", ["500", "html", "cut", "corrupt", "huge", "redirect"])
def test_faults_that_pass_are_got_over(services: Services, client: Client, fault: str) -> None:
    services.fault = fail_first(fault)  # type: ignore[assignment]
    assert get(client).pixels.shape == (32, 32)
    assert len(services.log) == 2


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        ("500", Status.SOURCE_FAILED, r"500 Internal Server Error \(3 tries\)"),
        ("html", Status.UNREADABLE, "no FITS file but an HTML page"),
        ("corrupt", Status.UNREADABLE, "damaged FITS"),
        ("cut", Status.SOURCE_FAILED, "cut short after 14"),
        ("drip", Status.SOURCE_FAILED, "not whole after 0.3 s|silence after"),
        ("huge", Status.SOURCE_FAILED, "a reply of 10,000,000,000 bytes, 1,000,000 are allowed"),
        ("drip_headers", Status.SOURCE_FAILED, "silence instead of a reply"),
        ("hang", Status.SOURCE_FAILED, "silence instead of a reply"),
    ],
)
def test_faults_that_stay_are_misses_with_a_reason(
    services: Services, tmp_path: Path, fault: str, status: Status, says: str
) -> None:
    services.fault = fail_first(fault, 3)  # type: ignore[assignment]
    client = Client(
        "x", [f"{services.url}/hips2fits"], IMPATIENT if fault in {"drip", "drip_headers", "hang"} else QUICK, tmp_path
    )
    with pytest.raises(CutoutUnavailable, match=says) as caught:
        get(client)
    assert caught.value.status == status
    assert len(services.log) == 3


def test_what_is_not_there_is_asked_for_once(services: Services, client: Client) -> None:
    services.fault = fail_first("404")  # type: ignore[assignment]
    with pytest.raises(CutoutUnavailable) as caught:
        get(client)
    assert caught.value.status == Status.NO_IMAGE
    assert len(services.log) == 1


def test_a_mistake_of_ours_is_not_repeated(services: Services, client: Client) -> None:
    with pytest.raises(CutoutUnavailable, match="400 Bad Request: Bad request: No HiPS matches a/P/q"):
        get(client, hips="a/P/q")
    assert len(services.log) == 1


def test_a_refusal_stops_the_run(services: Services, client: Client) -> None:
    services.fault = fail_first("401")  # type: ignore[assignment]
    with pytest.raises(SourceError, match="refuses us"):
        get(client)


def test_retry_after_holds_all_requests_to_the_host(services: Services, client: Client, tmp_path: Path) -> None:
    services.fault = fail_first("429")  # type: ignore[assignment]
    hasty = Client("x", client.servers, QUICK.model_copy(update={"tries": 1}), tmp_path)
    with pytest.raises(CutoutUnavailable, match="429 Too Many Requests: slow down"):
        get(hasty)
    get(client)
    assert services.log[1].time - services.log[0].time > 0.95


def test_a_host_that_asks_for_an_hour_is_left_alone(services: Services, client: Client) -> None:
    services.fault = fail_first("wait3600")  # type: ignore[assignment]
    with pytest.raises(CutoutUnavailable, match="asks to wait 3600 s"):
        get(client)
    assert len(services.log) == 1


def test_a_host_that_gives_nothing_is_down(services: Services, client: Client) -> None:
    services.fault = fail_first("500", 10_000)  # type: ignore[assignment]
    once = Client("hips2fits:a/P/b", client.servers, QUICK.model_copy(update={"tries": 1}), Path("unused"))
    for _ in range(LOST_IN_A_ROW - 1):
        with pytest.raises(CutoutUnavailable):
            get(once)
    with pytest.raises(SourceFault, match=f"did not give {LOST_IN_A_ROW} things in a row, the last: 500"):
        get(once)


def test_a_mirror_is_asked_only_after_a_failure(services: Services, tmp_path: Path) -> None:
    mirrored = Client("x", [f"{services.url}/hips2fits", f"{services.url}/hips2fits?mirror=1"], QUICK, tmp_path)
    services.fault = lambda number, path, query: "" if "mirror" in query or number == 0 else "500"
    get(mirrored, "one")
    get(mirrored, "two")
    assert ["mirror" in seen.query for seen in services.log] == [False, False, True]


def test_a_host_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    nobody = Client("x", ["http://127.0.0.1:9/"], QUICK, tmp_path)
    with pytest.raises(CutoutUnavailable, match=r"^the host cannot be reached \(3 tries\)$"):
        get(nobody)


def test_connections_are_few_and_kept(services: Services, client: Client) -> None:
    services.latency_s = 0.005
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: get(client, str(key)), range(24)))
    services.latency_s = 0.0
    assert 2 <= len(services.open_connections) <= QUICK.connections
    assert all(seen.headers["User-Agent"].startswith("gzsurvey/") for seen in services.log)


def test_the_rate_holds_for_all_sources_on_a_host() -> None:
    hosts = Hosts()
    slow = hosts.budget("http://h/a", 50)
    assert hosts.budget("http://user@H/b", 200) is slow
    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: slow.wait(), range(26)))
    assert time.monotonic() - started > 25 / 50 - 0.01


def test_workers_share_the_rate() -> None:
    hosts = Hosts()
    budget = hosts.budget("http://h/", 100)
    hosts.share(4)
    started = time.monotonic()
    for _ in range(6):
        budget.wait()
    assert time.monotonic() - started > 5 * 4 / 100 - 0.01
    assert hosts.budget("http://other/", 100).workers == 4


def test_a_pause_holds_those_who_wait_already() -> None:
    budget = HostBudget(10)
    budget.wait()
    waiting = threading.Thread(target=budget.wait)
    waiting.start()
    budget.pause(0.4)
    waiting.join(0.3)
    assert waiting.is_alive()
    waiting.join()


def test_replies_are_kept_only_if_they_were_good(services: Services, client: Client) -> None:
    services.fault = fail_first("html")  # type: ignore[assignment]
    get(client)
    get(client)
    assert len(services.log) == 2


def test_a_damaged_reply_on_disk_is_fetched_anew(services: Services, client: Client, tmp_path: Path) -> None:
    get(client)
    (file,) = tmp_path.glob("??/*")
    file.write_bytes(b"junk")
    assert get(client).pixels.shape == (32, 32)
    assert len(services.log) == 2


def test_the_cache_keeps_its_budget_and_what_was_used_last(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path, 1000)
    for number in range(30):
        cache.put(str(number), bytes(100))
        time.sleep(0.002)
        assert cache.get("0") is not None
    held = sum(file.stat().st_size for file in tmp_path.glob("??/*"))
    assert held <= 1000
    assert cache.get("29") is not None
    assert cache.get("1") is None
    assert ReplyCache(tmp_path, 1000).get("29") is not None


def test_a_token_stays_with_its_host(services: Services, tmp_path: Path) -> None:
    with serving(Services(services.sky)) as elsewhere:
        client = Client("x", [f"{services.url}/hips2fits"], QUICK, tmp_path, token="secret")
        get(client)
        assert services.log[-1].headers["Authorization"] == "Bearer secret"
        services.fault = lambda number, path, query: f"{elsewhere.url}/viewer/cutout.fits?ra=150&dec=2"
        get(client, "redirected")
        client.session.get(f"{elsewhere.url}/linked")
    assert len(elsewhere.log) == 2
    assert not any("Authorization" in seen.headers for seen in elsewhere.log)


def test_no_credentials_over_plain_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Query] = []

    def send(self: object, request: requests.PreparedRequest, **_: object) -> requests.Response:
        sent.append(dict(request.headers))
        raise requests.ConnectionError("stop")

    monkeypatch.setattr("requests.adapters.HTTPAdapter.send", send)
    for server in ("http://survey.example/", "https://survey.example/"):
        client = Client("x", [server], QUICK.model_copy(update={"tries": 1}), tmp_path, token="secret")
        with pytest.raises(CutoutUnavailable):
            get(client, server)
    assert [("Authorization" in headers) for headers in sent] == [False, True]


def test_a_token_file_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GZSURVEY_TOKEN", "")
    file = tmp_path / "token"
    file.write_text("secret\n")
    file.chmod(0o640)
    with pytest.raises(SourceError, match="others may read it; 'chmod 600 token'") as caught:
        use_token_file(None, None, file)
    assert "secret" not in str(caught.value)
    file.chmod(0o600)
    use_token_file(None, None, file)
    assert token() == "secret"
    use_token_file(None, None, None)
    assert token() == "secret"
