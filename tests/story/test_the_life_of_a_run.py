"""Read these first: what a person sees when their commands run."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidemill.client.client import Client, ServerError

_numbers = itertools.count(1)


def define(client: Client, **fields: Any) -> dict[str, Any]:
    """A task of a name of its own."""
    body = {"name": f"story-{next(_numbers)}", "executor": "shell", "command": "true", **fields}
    found: dict[str, Any] = client.call("POST", "/tasks", body=body)
    return found


def run_to_its_end(client: Client, **fields: Any) -> dict[str, Any]:
    """Define a task, trigger it, and return the run once it is final."""
    task = define(client, **fields)
    run = client.trigger(str(task["id"]))
    return client.wait(run["id"], timeout_seconds=60)


def lines_of(client: Client, run: dict[str, Any], stream: str = "stdout") -> list[str]:
    found = client.call("GET", f"/runs/{run['id']}/logs")["items"]
    return [line["text"] for line in found if line["stream"] == stream]


def test_a_command_runs_and_its_output_and_result_can_be_read(client: Client) -> None:
    run = run_to_its_end(client, command="echo one; echo two >&2; echo '::result:: {\"n\": 1}'")

    assert run["status"] == "succeeded"
    assert run["result"] == {"n": 1}
    assert lines_of(client, run)[0] == "one"
    assert lines_of(client, run, "stderr") == ["two"]


def test_a_program_with_arguments_gets_them_without_a_shell(client: Client) -> None:
    run = run_to_its_end(client, command="printf", arguments=["%s|", "a b", "$HOME", ";id"])

    assert lines_of(client, run) == ["a b|$HOME|;id|"]


def test_a_task_knows_which_run_it_is(client: Client) -> None:
    task = define(client, command='echo "$TIDEMILL_RUN_ID $TIDEMILL_ATTEMPT $TIDEMILL_PARAMETERS"')
    run = client.trigger(str(task["id"]), parameters={"day": "monday"})
    client.wait(run["id"], timeout_seconds=60)

    assert lines_of(client, run) == [f'{run["id"]} 1 {{"day":"monday"}}']


def test_a_scheduled_task_fires_by_itself(client: Client) -> None:
    task = define(client, command="echo fired", schedule="@every 1s")

    for name, event in client.stream("/events"):
        if name == "RunFinished":
            run = client.run(event["run_id"])
            if run["task_id"] == task["id"]:
                break
    client.call("DELETE", f"/tasks/{task['id']}")

    assert run["trigger"] == "schedule"
    assert run["status"] == "succeeded"


def test_a_command_that_fails_is_tried_again_and_says_why_it_failed(client: Client) -> None:
    run = run_to_its_end(
        client,
        command='[ "$TIDEMILL_ATTEMPT" -ge 3 ]',
        retry={"max_retries": 3, "delay_seconds": 0.01},
    )

    assert (run["status"], run["attempt"]) == ("succeeded", 3)
    attempts = client.call("GET", f"/runs/{run['id']}/attempts")["items"]
    assert [attempt["outcome"] for attempt in attempts] == ["failed", "failed", "succeeded"]
    assert [attempt["exit_code"] for attempt in attempts] == [1, 1, 0]


def test_a_command_that_takes_too_long_is_ended(client: Client) -> None:
    run = run_to_its_end(client, command="sleep 600", timeout_seconds=0.2)

    assert (run["status"], run["reason"]) == ("timed_out", "execution_timeout")


def test_a_running_command_can_be_cancelled(client: Client) -> None:
    task = define(client, command="echo started; sleep 600")
    run = client.trigger(str(task["id"]))
    for name, _ in client.stream(f"/runs/{run['id']}/logs?follow=1"):
        if name == "log":
            break
    client.call("POST", f"/runs/{run['id']}/cancel")

    assert client.wait(run["id"], timeout_seconds=60)["status"] == "cancelled"


def test_a_run_that_waits_for_its_time_can_be_cancelled_and_never_starts(client: Client) -> None:
    task = define(client)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    run = client.trigger(str(task["id"]), run_at=later)
    cancelled = client.call("POST", f"/runs/{run['id']}/cancel")

    assert cancelled["status"] == "cancelled"
    assert client.call("GET", f"/runs/{run['id']}/attempts")["items"] == []
    explained = client.call("GET", f"/runs/{run['id']}/explain")
    assert explained["blocking"] == "status"


def test_a_python_function_gets_its_arguments_and_its_result_is_kept(client: Client) -> None:
    run = run_to_its_end(
        client, executor="python", command="sample_tasks:greet", arguments={"name": "tide"}
    )

    assert run["result"] == {"greeted": "tide"}
    assert lines_of(client, run) == ["hello tide"]
    assert lines_of(client, run, "log") == ["INFO sample: greeted"]


def test_an_async_function_runs_as_well(client: Client) -> None:
    task = define(client, executor="python", command="sample_tasks:greet_async")
    for _ in range(2):  # the first call finds out that it is one
        run = client.trigger(str(task["id"]))
        ended = client.wait(run["id"], timeout_seconds=60)
        assert ended["result"] == "world"
        assert lines_of(client, ended) == ["hello world"]


def test_a_python_task_goes_on_from_its_checkpoint(client: Client) -> None:
    run = run_to_its_end(
        client,
        executor="python",
        command="sample_tasks:resume",
        retry={"max_retries": 1, "delay_seconds": 0.01},
    )

    assert (run["status"], run["result"]) == ("succeeded", {"done": 3})


def test_an_exception_is_the_error_of_its_run(client: Client) -> None:
    run = run_to_its_end(client, executor="python", command="sample_tasks:fail")

    assert (run["status"], run["reason"]) == ("failed", "exception")
    assert run["error_message"] == "ValueError: this was to be expected"


@pytest.mark.parametrize("function", ["sleep", "refuse_to_end", "sleep_async"])
def test_a_python_task_that_takes_too_long_is_ended(client: Client, function: str) -> None:
    run = run_to_its_end(
        client, executor="python", command=f"sample_tasks:{function}", timeout_seconds=0.2
    )

    assert (run["status"], run["reason"]) == ("timed_out", "execution_timeout")


def test_an_http_task_is_judged_by_its_status(client: Client) -> None:
    good = run_to_its_end(client, executor="http", command=f"{client.server}/health")
    bad = run_to_its_end(client, executor="http", command=f"{client.server}/nosuch")

    assert good["result"] == {"status": 200, "body": {"status": "up"}}
    assert (bad["status"], bad["reason"]) == ("failed", "http_status")


def test_an_http_task_does_not_reach_metadata_addresses(client: Client) -> None:
    run = run_to_its_end(client, executor="http", command="http://169.254.169.254/latest")

    assert (run["status"], run["reason"]) == ("failed", "address_refused")


def test_a_finished_run_can_be_tried_again(client: Client) -> None:
    run = run_to_its_end(client, command="false")
    again = client.call("POST", f"/runs/{run['id']}/retry")

    assert again["trigger"] == "retry"
    assert again["retry_of"] == run["id"]
    assert client.wait(again["id"], timeout_seconds=60)["status"] == "failed"


def test_a_paused_task_fires_nothing_but_runs_by_hand(client: Client) -> None:
    task = define(client, schedule="@every 1s", status="paused")
    run = client.trigger(str(task["id"]))

    assert client.wait(run["id"], timeout_seconds=60)["status"] == "succeeded"
    runs = client.call("GET", f"/tasks/{task['id']}/runs")["items"]
    assert [each["trigger"] for each in runs] == ["manual"]


def test_what_was_due_in_the_past_can_be_made_up_for(client: Client) -> None:
    task = define(client, schedule="0 0 * * *", status="paused")
    span = {"from": "2026-01-01T00:00:00Z", "to": "2026-01-04T00:00:00Z"}
    tried = client.call("POST", f"/tasks/{task['id']}/backfill", body=span | {"dry_run": True})
    made = client.call("POST", f"/tasks/{task['id']}/backfill", body=span | {"max_parallel": 1})

    days = [f"2026-01-0{day}T00:00:00.000Z" for day in (1, 2, 3)]
    assert tried == {"fire_times": days, "run_ids": [], "dry_run": True}
    ended = [client.wait(run_id, timeout_seconds=60) for run_id in made["run_ids"]]
    assert [run["scheduled_for"] for run in ended] == days
    assert {run["status"] for run in ended} == {"succeeded"}


def test_the_same_idempotency_key_gives_the_same_run(client: Client) -> None:
    task = define(client)
    path, headers = f"/tasks/{task['id']}/trigger", {"Idempotency-Key": f"key-{task['id']}"}
    first = client.call("POST", path, body={}, headers=headers)
    second = client.call("POST", path, body={}, headers=headers)
    with pytest.raises(ServerError) as refused:
        client.call("POST", path, body={"priority": "high"}, headers=headers)

    assert first == second
    assert (refused.value.status, refused.value.code) == (422, "idempotency_key_reused")


def test_many_runs_are_asked_for_in_one_call(client: Client) -> None:
    task = define(client, executor="python", command="sample_tasks:nothing")
    item = {"task": f"name:{task['name']}"}
    ids = client.call("POST", "/runs", body={"items": [item] * 100})["ids"]

    assert len(set(ids)) == 100
    assert {client.wait(run_id, timeout_seconds=60)["status"] for run_id in ids} == {"succeeded"}


def test_a_change_of_a_task_is_a_version_and_the_old_one_is_kept(client: Client) -> None:
    task = define(client, command="echo old")
    path = f"/tasks/{task['id']}"
    changed = client.call("PATCH", path, body={"command": "echo new"})
    with pytest.raises(ServerError) as refused:
        client.call("PATCH", path, body={"command": "x"}, headers={"If-Match": '"1"'})

    assert (changed["version"], changed["command"]) == (2, "echo new")
    assert refused.value.status == 412
    versions = client.call("GET", f"{path}/versions")["items"]
    assert [each["definition"]["command"] for each in versions] == ["echo new", "echo old"]
