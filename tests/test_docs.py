"""The documentation: its examples run, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "bench").rglob("*.md"))]
ADDING = (ROOT / "bench" / "docs" / "adding.md").read_text()
EXAMPLES = re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```", ADDING, re.M | re.S)
COMMANDS = re.findall(r"^```bash\n(python -m bench .*?)\n```", ADDING, re.M | re.S)
DRIVER = """
import shlex
import sys
from pathlib import Path
import datasets, solvers
here = Path(sys.argv[1])
for package in (datasets, solvers):
    package.__path__.append(str(here / package.__name__))
import bench.plugins
bench.plugins.CONF = here / "conf"
from bench.__main__ import main
for line in sys.argv[2:]:
    print("RUN", line, flush=True)
    status = main(shlex.split(line))
    if status:
        sys.exit(status)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the examples' files, each where the page says, and the rest of conf/."""
    here = tmp_path / "adding"
    for path in (ROOT / "conf").rglob("*.yaml"):
        copy = here / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    for name, text in EXAMPLES:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    return here


def test_the_page_has_an_example_of_each_kind() -> None:
    assert [name.split("/")[0] for name, _ in EXAMPLES] == [
        *("solvers", "conf", "solvers", "conf", "solvers", "conf", "datasets", "conf", "conf"),
    ]
    assert len(COMMANDS) == 5


@pytest.mark.parametrize(
    "commands", [COMMANDS[:1], pytest.param(COMMANDS, marks=pytest.mark.slow)], ids=["rule", "all"]
)
def test_each_example_runs(place: Path, commands: list[str]) -> None:
    """All of them in one process: its imports take longer than the examples."""
    quick = ["tracking=off", "reference.seconds=5", f"cache={place}/cache", f"runs={place}/runs"]
    lines = [shlex.join([*shlex.split(command)[3:], *quick]) for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(place), *lines],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *shown = done.stdout.split("RUN ")
    for line, output in zip(lines, shown, strict=True):
        name = line.split()[0].partition("=")[2]
        assert re.search(rf"→ +{name} .* 100%", output), output
        assert re.search(r"^ +shortest_pair ", output, re.M) or name == "shortest_pair"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    outside = [link for link in links if not link.startswith(("http:", "https:"))]
    assert [link for link in outside if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "changelog.md"],  # that one names what was renamed
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"python -m (bench(?:\.\w+)*)", text))
    files = {name: ROOT / name.replace(".", "/") for name in named}
    assert [
        name
        for name, path in files.items()
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists())
    ] == []


def test_the_console_script_is_the_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"dl-bench": "bench.__main__:main"}


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110
