"""Imports one module right after another, whichever order a program imports them in. Standard library only."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def import_after(package: str, module: str) -> None:
    """Import `module` as soon as `package` is imported: now, if it is already, else at the end of its import.

    A program that never imports the package pays nothing. Where the module cannot be imported there is one warning,
    then or now, and the package works without it.
    """
    if sys.modules.get(package) is not None:
        _follow(package, module)
    elif not any(isinstance(finder, _Follower) and finder.package == package for finder in sys.meta_path):
        sys.meta_path.insert(0, _Follower(package, module))


def _follow(package: str, module: str) -> None:
    """Import the module after the package, or warn that it is missing there."""
    try:
        import_module(module)
    except Exception as error:  # whatever the module raises: the package is not to blame
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"'{package}' goes without '{module}', which could not be imported ({reason})", stacklevel=3)


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
        finders = [getattr(finder, "find_spec", None) for finder in sys.meta_path if finder is not self]
        spec = next((found for find in finders if find and (found := find(name, path, target))), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            wrapped: Any = _Loader(spec.loader, self)  # its own loader may be shared, as that of a zip file is
            spec.loader = wrapped
        return spec


class _Loader:
    """Stands for a package's loader until the package is executed, and then has the module imported after it."""

    loader: Any = None  # for copies, which ask before there is one
    follower: Any = None

    def __init__(self, loader: Any, follower: _Follower) -> None:
        self.loader, self.follower = loader, follower

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def exec_module(self, package: ModuleType) -> None:
        """Execute the package with its own loader, which is also put back in place."""
        for holder, name in ((package, "__loader__"), (package.__spec__, "loader")):
            if getattr(holder, name, None) is self:
                setattr(holder, name, self.loader)
        self.loader.exec_module(package)
        if self.follower in sys.meta_path:
            sys.meta_path.remove(self.follower)  # a reload is the package's own affair
            _follow(self.follower.package, self.follower.module)
