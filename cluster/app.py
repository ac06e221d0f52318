"""Loading an app: the module, or ``path.py``, in which a user defines Actor subclasses."""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from actors.actor import Actor
from actors.runtime import actor_types


class AppError(Exception):
    """The app is there but is not usable. The cause, if there is one, is what its import raised."""


def load_actors(apps: Iterable[str]) -> list[type[Actor]]:
    """The actor classes of all apps, each a module name or a path that ends in ``.py``.

    Raises ``AppError``: with a cause where the import raised, without one where there is nothing to import.
    """
    actors: dict[type[Actor], None] = {}
    for app in apps:
        module = _load(app)
        found = [value for value in vars(module).values() if _is_actor(value)]
        if not found:
            raise AppError(f"the app {app!r} defines no Actor subclass")
        actors.update(dict.fromkeys(found))
    try:
        actor_types(actors)
    except (TypeError, ValueError) as error:
        raise AppError(str(error)) from None
    return list(actors)


def _is_actor(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Actor) and value is not Actor


def _load(app: str) -> ModuleType:
    if app.endswith(".py"):
        return _load_path(app)
    if not all(part.isidentifier() for part in app.split(".")):
        raise AppError(f"{app!r} is not a module name, as in my_package.my_app; a file ends in .py")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the app may lie in the working directory
    try:
        if importlib.util.find_spec(app) is None:
            raise AppError(f"there is no module {app!r} here or among the installed ones; for a file give its path.py")
        return importlib.import_module(app)
    except AppError:
        raise
    except BaseException as error:
        raise AppError(f"the app {app!r} does not import") from error


def _load_path(app: str) -> ModuleType:
    path = Path(app).resolve()
    if not path.is_file():
        raise AppError(f"there is no file {app}")
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    if loaded is not None or name in sys.builtin_module_names:
        raise AppError(f"{app}: a module named {name!r} is loaded already; rename the file")
    sys.path.insert(0, str(path.parent))
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as the import system does: dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise AppError(f"the app {app} does not import") from error
    return module
