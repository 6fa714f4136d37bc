"""Pages point at what is there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.__main__ import BENCHMARKS, SEVERAL

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
DECISIONS = sorted(REPOSITORY.glob("docs/adr/*.md"))


def links(page: Path) -> Iterator[Path]:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            yield page.parent / target


def test_no_link_leads_nowhere() -> None:
    broken = [
        f"{page.relative_to(REPOSITORY)}: {target}"
        for page in PAGES
        for target in links(page)
        if not target.exists()
    ]

    assert len(PAGES) > 10
    assert broken == []


def test_the_story_names_files_that_are_there() -> None:
    story = (REPOSITORY / "docs" / "explanation" / "story.md").read_text()
    named = set(re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", story))

    assert len(named) > 20
    assert [name for name in named if not (REPOSITORY / "src" / "tidemill" / name).exists()] == []


def test_the_code_points_at_decisions_that_are_there() -> None:
    numbers = {page.name[:4] for page in DECISIONS}
    files = [*REPOSITORY.glob("src/**/*.py"), REPOSITORY / "pyproject.toml"]
    cited = {each for file in files for each in re.findall(r"docs/adr/(\d{4})", file.read_text())}

    assert "0005" in cited
    assert cited <= numbers


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_says_how_one_sees_that_it_is_broken(page: Path) -> None:
    last = page.read_text().strip().split("\n\n")[-1]

    assert last.startswith("**Violated when** ")


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]

    assert numbers == list(range(1, len(numbers) + 1))


def test_pages_name_benchmarks_and_make_targets_that_are_there() -> None:
    text = "".join(page.read_text() for page in PAGES)
    makefile = (REPOSITORY / "Makefile").read_text()
    benchmarks = set(re.findall(r"python -m benchmarks ([a-z_]+)", text))
    targets = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))

    assert {"idle", "python_firings"} <= benchmarks <= {*BENCHMARKS, *SEVERAL}
    assert {"setup", "test"} <= targets <= set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
