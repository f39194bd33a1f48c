"""What pyproject.toml installs: every module, and the packages that the requirements files name."""

import re
import tomllib

import pytest
from conftest import own, tracked

from config import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def required(name):
    """The requirements that a file names, an extra's file that it includes as the extra; not requirements.txt,
    which comes with every extra."""
    lines = (ROOT / name).read_text(encoding="utf-8").replace("-r requirements.txt\n", "").splitlines()
    lines = [re.sub(r"\s+#.*", "", line) for line in lines if line and line[0] != "#"]
    return sorted(re.sub(r"-r requirements-(\w+)\.txt", r"gradient-noise[\1]", line) for line in lines)


def test_the_dependencies_are_those_of_the_requirements():
    assert sorted(PROJECT["project"]["dependencies"]) == required("requirements.txt")
    files = {path.name for path in own("requirements-*.txt")}
    assert files == {f"requirements-{extra}.txt" for extra in EXTRAS}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_its_requirements(extra):
    assert sorted(EXTRAS[extra]) == required(f"requirements-{extra}.txt")


@pytest.mark.skipif(not tracked(), reason="only git knows which files are the repository's")
def test_every_module_and_what_it_reads_is_installed():
    assert sorted(SETUPTOOLS["py-modules"]) == [path.stem for path in own("*.py")]
    files = [path.relative_to(ROOT) for path in own("*/**/*") if path.is_file()]
    rooms = {path.parts[0] for path in files if path.suffix == ".py"} - {"tests"}
    assert sorted(SETUPTOOLS["packages"]["find"]["include"]) == sorted(f"{room}*" for room in rooms)
    given = [(room, pattern) for room, patterns in SETUPTOOLS["package-data"].items() for pattern in patterns]
    data = {path.relative_to(ROOT) for room, pattern in given for path in (ROOT / room).glob(pattern)}
    assert data == {path for path in files if path.parts[0] in rooms and path.suffix != ".py"}
