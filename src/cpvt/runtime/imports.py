"""Imports one module right after another, whichever order a program imports them in. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_after(package: str, module: str) -> None:
    """Import `module` as soon as `package` is imported: now, if it is already, else at the end of its import.

    A program that never imports the package pays nothing. Raises, then or now, what importing the module raises.
    """
    if sys.modules.get(package) is not None:
        import_module(module)
    elif not any(isinstance(finder, _Follower) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.insert(0, _Follower(package, module))


class _Follower:
    """An entry of sys.meta_path that finds the package as the other entries do, and has the module imported after it.

    Whoever asks only whether the package is there gets its true spec, and nothing is imported.
    """

    def __init__(self, package: str, module: str) -> None:
        self.package, self.module = package, module

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.package:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        loader: Any = spec.loader if spec else None
        if loader is not None:
            run = loader.exec_module

            def run_both(package: ModuleType) -> None:
                run(package)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)  # a reload is the package's own affair
                import_module(self.module)

            loader.exec_module = run_both  # of this loader alone: each spec has its own
        return spec
