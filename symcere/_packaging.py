"""Building a wheel: the declarations beside the package travel in it (setuptools calls this; nothing else does).

``datasets/`` and ``tune/`` are folders of the checkout. They cannot be packages of their own, since an installed
top-level ``datasets`` would shadow Hugging Face's; so a wheel holds copies, as ``symcere/_datasets`` and
``symcere/_tune``.
"""

from pathlib import Path

from setuptools.command.build_py import build_py

FOLDERS = ("datasets", "tune")
PATTERNS = ("*.yaml", "schema.json")


def declarations() -> list[Path]:
    """Files to pack, relative to the project's root, which is the current directory of a build."""
    return [file for folder in FOLDERS for pattern in PATTERNS for file in sorted(Path(folder).glob(pattern))]


class BuildPy(build_py):
    def run(self):
        super().run()
        if not getattr(self, "editable_mode", False):  # an editable install sees the checkout's own folders
            for file in declarations():
                target = Path(self.build_lib, "symcere", f"_{file.parent}", file.name)
                self.mkpath(str(target.parent))
                self.copy_file(str(file), str(target))

    def get_source_files(self):
        """What an sdist must hold so that a wheel can be built from it."""
        return [*super().get_source_files(), *map(str, declarations())]
