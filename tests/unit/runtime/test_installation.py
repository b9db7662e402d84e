"""Another distribution that ships the package `streamlog`: it is found, named, and the way out is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import streamlog
from streamlog.runtime.installation import other_distribution

PACKAGE = Path(streamlog.__file__).parent
OTHER = "from streamlog.streamlog import StreamLogger\n"


def python(*arguments: str, site: Path) -> subprocess.CompletedProcess[str]:
    """Python with `site` before every other directory of packages."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PYTHONPATH": str(site), "PATH": ""},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of packages in which this package is installed."""
    package = tmp_path / "streamlog"
    package.mkdir()
    for each in PACKAGE.iterdir():
        (package / each.name).symlink_to(each)
    (tmp_path / "streamlog_py-0.1.0.dist-info").mkdir()
    return tmp_path


@pytest.mark.parametrize("metadata", ["streamlog-3.0.0.dist-info", "streamlog-3.0.0-py3.11.egg-info"])
def test_the_other_distribution_is_found_beside_this_one(site: Path, metadata: str) -> None:
    assert other_distribution(str(site)) is None
    (site / "streamlog-notes.txt").touch()
    assert other_distribution(str(site)) is None
    (site / metadata).mkdir()
    assert other_distribution(str(site)) == metadata


def test_a_package_in_an_archive_has_nothing_beside_it(tmp_path: Path) -> None:
    assert other_distribution(str(tmp_path / "packages.zip")) is None


def test_an_import_beside_the_other_distribution_warns_and_says_what_to_do(site: Path) -> None:
    quiet = python("-c", "import streamlog", site=site)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    (site / "streamlog-3.0.0.dist-info").mkdir()
    (site / "program.py").write_text("import streamlog\nstreamlog.open().close()\n")
    warned = python("program.py", site=site)
    assert warned.returncode == 0
    assert "program.py:1: RuntimeWarning: streamlog-3.0.0.dist-info is installed beside" in warned.stderr
    assert "pip uninstall streamlog streamlog-py" in warned.stderr


@pytest.mark.parametrize("left", [OTHER, ""], ids=["overwritten", "emptied"])
def test_the_command_says_that_another_project_overwrote_the_package(site: Path, left: str) -> None:
    (site / "streamlog" / "__init__.py").unlink()
    (site / "streamlog" / "__init__.py").write_text(left)
    (site / "streamlog" / "streamlog.py").write_text("class StreamLogger: ...\n")
    refused = python("-c", "import sys; from streamlog.cli import main; sys.exit(main())", site=site)
    assert (refused.returncode, refused.stdout) == (1, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("streamlog: streamlog/__init__.py is missing or another project's.")
    assert "pip install streamlog-py" in line


def test_the_command_says_that_the_package_was_removed_with_the_other_project(site: Path) -> None:
    (site / "streamlog" / "__init__.py").unlink()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from streamlog.cli import main; sys.exit(main())"
    refused = python("-S", "-c", code, str(site), site=site)
    assert refused.returncode == 1
    assert "is missing or another project's" in refused.stderr and "Traceback" not in refused.stderr


def test_looking_for_the_other_distribution_does_not_load_the_metadata_of_all_of_them(site: Path) -> None:
    code = "import sys, streamlog; print('importlib.metadata' in sys.modules)"
    assert python("-c", code, site=site).stdout == "False\n"
