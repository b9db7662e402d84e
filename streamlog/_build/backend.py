"""The build backend: setuptools', and a core in C that may be missing.

`streamlog._core` is built where there is a C compiler, and left out where there is none, or where STREAMLOG_PURE=1 asks for
that. setuptools alone would tag the wheel without it for one platform and one Python, and pip would keep it for that one. Here
such a wheel gets the tag py3-none-any.
"""

from __future__ import annotations

import os
from pathlib import Path

import setuptools
from setuptools import build_meta
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

CORE = setuptools.Extension("streamlog._core", ["streamlog/_core.c"], optional=True)
THIS_FILE = "streamlog/_build/backend.py"


class BuildExt(build_ext):
    """Builds the core if it is wanted. Where it cannot be built, that is a warning: it is `optional`."""

    def run(self) -> None:
        if os.environ.get("STREAMLOG_PURE") == "1":
            for each in self.extensions:  # what an earlier build has left, there or in the sources, would be used
                self._built(each).unlink(missing_ok=True)
                Path(self.get_ext_fullpath(each.name)).unlink(missing_ok=True)
            self.extensions = []
        super().run()
        self._leave_out_what_is_not_built()

    def copy_extensions_to_source(self) -> None:
        """For an editable installation."""
        self._leave_out_what_is_not_built()
        super().copy_extensions_to_source()

    def _leave_out_what_is_not_built(self) -> None:
        self.extensions = [each for each in self.extensions if self._built(each).exists()]

    def _built(self, extension: setuptools.Extension) -> Path:
        return Path(self.build_lib, self.get_ext_filename(self.get_ext_fullname(extension.name)))


class BdistWheel(bdist_wheel):
    """Tags a wheel by what is in it."""

    def run(self) -> None:
        self.run_command("build_ext")
        if not self.get_finalized_command("build_ext").extensions:
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()


class Sdist(sdist):
    """Takes this file along, without which the sources cannot be built."""

    def make_distribution(self) -> None:
        self.filelist.append(THIS_FILE)
        super().make_distribution()


class Backend(build_meta._BuildMetaBackend):  # as setuptools' documentation has it for a backend of one's own
    def run_setup(self, setup_script: str = "setup.py") -> None:
        setuptools.setup(ext_modules=[CORE], cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel, "sdist": Sdist})


_backend = Backend()
build_wheel = _backend.build_wheel
build_sdist = _backend.build_sdist
build_editable = _backend.build_editable
get_requires_for_build_wheel = _backend.get_requires_for_build_wheel
get_requires_for_build_sdist = _backend.get_requires_for_build_sdist
get_requires_for_build_editable = _backend.get_requires_for_build_editable
prepare_metadata_for_build_wheel = _backend.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = _backend.prepare_metadata_for_build_editable
