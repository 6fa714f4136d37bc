"""Any number of definitions are checked and put in force together: the one way to define a task.

    wishes ─► plan_tasks: what is to be written, and all that is wrong ─► carry_out

Whatever the number, the statements are the same few.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

import msgspec

from tidemill.application.pace import paced
from tidemill.application.settle_tasks import settle_tasks
from tidemill.domain.calls import call_problems
from tidemill.domain.circles import find_circles, told_as_a_way
from tidemill.domain.dependency import Condition
from tidemill.domain.mapping import map_problems
from tidemill.domain.task import Task, TaskDefinition, TaskStatus, parse_task_key, schedule_of
from tidemill.domain.trigger_rule import rule_problems
from tidemill.errors import ConcurrentChange, InvalidInput, Problem
from tidemill.foundation.store import TaskEdge, Transaction
from tidemill.foundation.wakeups import Topic

Check = Callable[[TaskDefinition], Sequence[Problem]]
Name = tuple[str, str]  # of a namespace, and of a task in it
Node = int | Name  # a task that is stored already, and a new one

_TIME_FIELDS = ("schedule", "timezone", "dst", "start_at", "end_at")
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)  # whether a schedule is right hangs on no time
_MOST_CIRCLES = 20


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a task is to be. `problems` is all that is wrong with it whatever else there is."""

    definition: TaskDefinition
    before: Task | None = None  # as it was read; None: it is new
    status: TaskStatus = TaskStatus.ACTIVE  # of a new one
    pointer: str = ""  # to where it stands in what was sent
    problems: tuple[Problem, ...] = ()

    @property
    def name(self) -> Name:
        return self.definition.namespace, self.definition.name

    @property
    def node(self) -> Node:
        return self.name if self.before is None else self.before.id

    def told(self, problem: Problem) -> Problem:
        """A problem with it, as it is told of one of several."""
        if not self.pointer:
            return problem
        message = f"task {self.definition.name!r}: {problem.message}"
        return Problem(f"{self.pointer}{problem.pointer}", message)


class Edit(msgspec.Struct, frozen=True):
    """What is to be written for a wish; `first_fire_at` counts where its times are new."""

    wish: Wish
    upstream: dict[Node, Condition]
    called: Node | None
    first_fire_at: datetime | None


class Plan(msgspec.Struct, frozen=True):
    """What is to be written for all wishes, unless something is wrong."""

    edits: list[Edit]
    problems: list[Problem]


def problems_of(definition: TaskDefinition, check: Check) -> tuple[Problem, ...]:
    """All that is wrong with a definition whatever else there is; asks no database."""
    problems = [*check(definition), *map_problems(definition), *call_problems(definition)]
    try:
        schedule_of(definition, _ANY_TIME)
    except InvalidInput as error:
        problems += error.problems or [Problem("/schedule", str(error))]
    return tuple(problems)


def lock_dependencies(transaction: Transaction, wishes: Iterable[Wish]) -> None:
    """Keep others from changing what depends on what where these may; before anything is locked."""
    namespaces: set[str] = set()
    for wish in wishes:
        left = wish.name if wish.before is None else _name_of(wish.before)
        if wish.definition.names_others or left != wish.name:
            namespaces |= {wish.definition.namespace, left[0]}
    transaction.lock_dependencies(namespaces)


def plan_tasks(
    transaction: Transaction,
    wishes: Sequence[Wish],
    *,
    known: Mapping[Name, Task],
    gone: Collection[int] = (),
) -> Plan:
    """What these wishes come to, and all that is wrong with them; changes nothing.

    `known` are tasks that were read already; those that are `gone` are to be deleted. The caller
    holds the lock of the dependencies.
    """
    named = _Named(transaction, wishes, known, gone)
    edits, problems = [], []
    for wish in paced(transaction, wishes):
        edges, wrong = named.upstream_of(wish)
        called, wrong_call = named.call_of(wish)
        wrong = [*wrong, *wrong_call]
        first_fire_at = None
        if not wish.problems and _has_new_times(wish):
            try:
                first_fire_at = _first_fire(wish.definition, transaction.now)
            except InvalidInput as error:
                wrong = [*error.problems, *wrong]
        edits.append(Edit(wish, edges, called, first_fire_at))
        problems += [wish.told(problem) for problem in (*wish.problems, *wrong)]
    return Plan(edits, problems or _circles(transaction, edits))


def carry_out(transaction: Transaction, plan: Plan) -> list[Task]:
    """Write what was planned; the tasks as they are then, in the order of the wishes.

    What was due before fires under the old definitions. Raises Conflict where a name is taken.
    """
    new = [each for each in plan.edits if each.wish.before is None]
    changed = [each for each in plan.edits if each.wish.before is not None]
    before = {task.id: task for each in changed if (task := each.wish.before) is not None}
    settled = settle_tasks(transaction, locked_as_read(transaction, before))
    created = transaction.insert_tasks(
        [_new_task(each, transaction.now) for each in paced(transaction, new)]
    )
    replaced = [
        (settled[task_id], _redefined(settled[task_id], edit, transaction.now))
        for task_id, edit in paced(transaction, zip(before, changed, strict=True))
    ]
    transaction.replace_tasks(replaced)
    by_node: dict[Node, Task] = {_name_of(task): task for task in created}
    by_node |= {after.id: after for _, after in replaced}
    _store_edges(transaction, plan.edits, by_node)
    _store_calls(transaction, plan.edits, by_node)
    if plan.edits:
        transaction.announce(Topic.SCHEDULES)
    return [by_node[each.wish.node] for each in plan.edits]


class _Named:
    """Whom the wishes name, as their upstream or to call them."""

    def __init__(
        self,
        transaction: Transaction,
        wishes: Sequence[Wish],
        known: Mapping[Name, Task],
        gone: Collection[int],
    ) -> None:
        self._nodes: dict[tuple[str, int | str], Node] = {}
        self._names: dict[int, str] = {}
        for name, task in known.items():
            self._add(name, task)
        names: dict[str, set[str]] = {}
        ids: set[int] = set()
        there = {wish.name for wish in wishes} | known.keys()
        for wish in paced(transaction, wishes):
            for said in _said_by(wish.definition):
                key = parse_task_key(said)
                namespace = wish.definition.namespace
                if isinstance(key, int):
                    ids.add(key)
                elif key is not None and (namespace, key) not in there:
                    names.setdefault(namespace, set()).add(key)
        for namespace, wanted in names.items():
            for task in transaction.tasks_in_force_named(namespace, wanted).values():
                self._add(_name_of(task), task)
        for task in transaction.tasks_in_force(ids).values() if ids else ():
            self._add(_name_of(task), task)
        self._nodes |= {wish.name: wish.node for wish in wishes}
        self._gone = gone

    def _add(self, name: Name, task: Task) -> None:
        self._nodes[name] = task.id
        self._nodes[name[0], task.id] = task.id
        self._names[task.id] = name[1]

    def upstream_of(self, wish: Wish) -> tuple[dict[Node, Condition], list[Problem]]:
        """Its edges, and what is wrong with what it names."""
        edges: dict[Node, Condition] = {}
        names: set[str] = set()
        problems: list[Problem] = []
        for index, dependency in enumerate(wish.definition.dependencies):
            key = parse_task_key(dependency.task)
            node = None if key is None else self._nodes.get((wish.definition.namespace, key))
            pointer = f"/dependencies/{index}/task"
            if key is None or node is None:
                problems.append(Problem(pointer, f"no task {dependency.task!r}"))
            elif node == wish.node:
                problems.append(Problem(pointer, "a task cannot depend on itself"))
            elif node in self._gone:
                problems.append(Problem(pointer, f"the task {dependency.task!r} is to be deleted"))
            else:
                edges[node] = dependency.condition
                names.add(key if isinstance(key, str) else self._names[key])
        return edges, [*problems, *rule_problems(wish.definition, names)]

    def call_of(self, wish: Wish) -> tuple[Node | None, list[Problem]]:
        """The task that it calls, and what is wrong with that."""
        said = wish.definition.called_task
        key = None if said is None else parse_task_key(said)
        if key is None:
            return None, []  # it calls none, or what it says is told as wrong already
        node = self._nodes.get((wish.definition.namespace, key))
        if node is None:
            return None, [Problem("/command", f"no task {said!r}")]
        if node == wish.node:
            return None, [Problem("/command", "a task cannot call itself")]
        if node in self._gone:
            return None, [Problem("/command", f"the task {said!r} is to be deleted")]
        return node, []


def _said_by(definition: TaskDefinition) -> Iterator[str]:
    """All tasks that a definition names, as it does."""
    yield from (dependency.task for dependency in definition.dependencies)
    if definition.called_task is not None:
        yield definition.called_task


def _circles(transaction: Transaction, edits: Sequence[Edit]) -> list[Problem]:
    """A problem for each circle that these would close: each leads through a new edge of theirs.

    A task is started by its upstream tasks, and by those that call it.
    """
    new = {each.wish.node for each in edits if each.wish.before is None}
    edged = [
        each.wish
        for each in edits
        if (each.upstream and _has_other_upstream(each.wish))
        or (each.called is not None and _calls_another(each.wish))
    ]
    if not edged and not any(node in new for each in edits for node in each.upstream):
        return []
    namespaces = {wish.definition.namespace for wish in edged}
    graph: dict[Node, Collection[Node]] = {
        task_id: upstream
        for namespace in namespaces
        for task_id, upstream in transaction.upstream_edges(namespace).items()
    }
    graph |= {each.wish.node: each.upstream for each in edits}
    calls = _calls(transaction, namespaces, edits)
    for caller, called in calls.items():
        graph[called] = dict.fromkeys([*graph.get(called, ()), caller])
    circles = find_circles(graph, _MOST_CIRCLES, transaction.give_way)
    if not circles:
        return []
    names = _names_of(transaction, {node for circle in circles for node in circle})
    by_node = {each.wish.node: each for each in edits}
    problems = []
    for circle in circles:
        way = told_as_a_way([names.get(node, str(node)) for node in circle])
        first = next(by_node[node] for node in circle if node in by_node)
        if any(calls.get(caller) == node for node, caller in pairwise(circle)):
            pointer = "/dependencies" if first.called is None else "/command"
            said = f"these tasks would start one another without end: {way}"
        else:
            pointer = "/dependencies"
            said = f"these tasks would wait for each other: {way}"
        problems.append(Problem(f"{first.wish.pointer}{pointer}", said))
    return problems


def _calls(
    transaction: Transaction, namespaces: Collection[str], edits: Sequence[Edit]
) -> dict[Node, Node]:
    """Who calls whom there, once these edits are made."""
    stored: dict[Node, Node] = {
        caller: called
        for namespace in namespaces
        for caller, called in transaction.task_calls(namespace).items()
    }
    for each in edits:
        stored.pop(each.wish.node, None)
    return stored | {each.wish.node: each.called for each in edits if each.called is not None}


def _calls_another(wish: Wish) -> bool:
    """Than before, or for the first time."""
    before = wish.before
    return before is None or wish.definition.called_task != before.definition.called_task


def _has_other_upstream(wish: Wish) -> bool:
    """Of a stored task; nobody depends on a new one but by an edge that is new as well."""
    before = wish.before
    return before is not None and wish.definition.dependencies != before.definition.dependencies


def _names_of(transaction: Transaction, nodes: Iterable[Node]) -> dict[Node, str]:
    names: dict[Node, str] = {node: node[1] for node in nodes if isinstance(node, tuple)}
    stored = transaction.tasks_in_force([node for node in nodes if isinstance(node, int)])
    return names | {task.id: task.definition.name for task in stored.values()}


def locked_as_read(transaction: Transaction, before: Mapping[int, Task]) -> list[Task]:
    """These tasks, locked. Raises ConcurrentChange where one is not as it was read."""
    locked = transaction.tasks(before) if before else {}
    for task_id, task in before.items():
        if task_id not in locked or locked[task_id].edition != task.edition:
            raise ConcurrentChange("a task was changed since it was read")
    return list(locked.values())


def _new_task(edit: Edit, now: datetime) -> Task:
    wish = edit.wish
    return Task(
        id=0,
        version=1,
        status=wish.status,
        definition=wish.definition,
        anchor_at=wish.definition.start_at or now,
        next_run_at=edit.first_fire_at,
        paused_at=now if wish.status is TaskStatus.PAUSED else None,
        created_at=now,
        updated_at=now,
    )


def _redefined(before: Task, edit: Edit, now: datetime) -> Task:
    """The next version; only another schedule moves the anchor and must have a time left."""
    definition = edit.wish.definition
    after = msgspec.structs.replace(
        before, version=before.version + 1, definition=definition, updated_at=now
    )
    if _has_new_times(edit.wish):
        return msgspec.structs.replace(
            after, anchor_at=definition.start_at or now, next_run_at=edit.first_fire_at
        )
    if after.key == before.key or after.schedule is None:
        return after
    # Hash-spread times hang on the name.
    return msgspec.structs.replace(after, next_run_at=after.schedule.next_after(now))


def _has_new_times(wish: Wish) -> bool:
    if wish.before is None:
        return wish.definition.schedule is not None
    before = wish.before.definition
    return any(getattr(wish.definition, f) != getattr(before, f) for f in _TIME_FIELDS)


def _first_fire(definition: TaskDefinition, now: datetime) -> datetime | None:
    schedule = schedule_of(definition, definition.start_at or now)
    if schedule is None:
        return None
    first = schedule.next_after(now)
    if first is None:
        message = (
            f"the schedule {definition.schedule!r} never fires after now: no fire time is left; "
            "give one that lies in the future"
        )
        raise InvalidInput(message, [Problem("/schedule", message)])
    return first


def _store_edges(
    transaction: Transaction, edits: Sequence[Edit], by_node: Mapping[Node, Task]
) -> None:
    edges: dict[str, list[TaskEdge]] = {}
    stale: dict[str, list[int]] = {}
    for edit in paced(transaction, edits):
        task = by_node[edit.wish.node]
        namespace = edit.wish.definition.namespace
        before = edit.wish.before
        if before is not None and before.definition.dependencies:
            stale.setdefault(namespace, []).append(task.id)
        edges.setdefault(namespace, []).extend(
            TaskEdge(task.id, node if isinstance(node, int) else by_node[node].id, condition)
            for node, condition in edit.upstream.items()
        )
    for namespace, found in edges.items():
        transaction.replace_dependencies(namespace, stale.get(namespace, ()), found)


def _store_calls(
    transaction: Transaction, edits: Sequence[Edit], by_node: Mapping[Node, Task]
) -> None:
    calls: dict[str, dict[int, int]] = {}
    stale: list[int] = []
    for edit in edits:
        task, called = by_node[edit.wish.node], edit.called
        if edit.wish.before is not None and edit.wish.before.definition.called_task is not None:
            stale.append(task.id)
        if called is not None:
            in_namespace = calls.setdefault(edit.wish.definition.namespace, {})
            in_namespace[task.id] = called if isinstance(called, int) else by_node[called].id
    if stale:
        transaction.forget_task_calls(stale)
    for namespace, found in calls.items():
        transaction.add_task_calls(namespace, found)


def _name_of(task: Task) -> Name:
    return task.definition.namespace, task.definition.name
