"""What workers say of themselves, as others see it."""

import httpx2
from in_process import InProcess

from tidemill.foundation.store import Transaction
from tidemill.testing import builders


def _seed(transaction: Transaction) -> None:
    transaction.save_worker(builders.worker("w-1", at=transaction.now))


async def test_a_worker_is_known_by_the_address_that_it_calls_from(
    api: httpx2.AsyncClient,
) -> None:
    calling = (await api.post("/workers", json={"name": "w"})).json()
    saying = (await api.post("/workers", json={"name": "v", "ip_address": "10.0.0.7"})).json()

    assert calling["ip_address"] == "127.0.0.1"
    assert saying["ip_address"] == "10.0.0.7"


async def test_a_heartbeat_says_how_much_a_worker_has_to_do(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    process.store.transact_now(_seed)
    beat = await api.post("/workers/w-1/heartbeat", json={"current_task_count": 5})

    assert (beat.json()["current_task_count"], beat.json()["runs"]) == (5, [])
    assert (await api.get("/workers/w-1")).json()["current_task_count"] == 5


async def test_who_is_unknown_is_told_so_whatever_they_ask(api: httpx2.AsyncClient) -> None:
    for verb, body in (
        ("claim", {"number": 1}), ("report", {}), ("heartbeat", {}), ("drain", {}),
        ("sign-off", {}),
    ):  # fmt: skip
        answer = await api.post(f"/workers/nobody/{verb}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), verb


async def test_a_report_that_is_wrong_is_refused_where_it_is(
    api: httpx2.AsyncClient, process: InProcess
) -> None:
    process.store.transact_now(_seed)
    ending = {"run_id": 1, "fence": 0, "cause": "boredom", "log_seq": 0, "outcome": {}}
    answer = await api.post("/workers/w-1/report", json={"endings": [ending]})

    assert answer.status_code == 422
    assert {each["pointer"] for each in answer.json()["errors"]} == {
        "/endings/0/fence", "/endings/0/cause", "/endings/0/outcome/succeeded",
    }  # fmt: skip
