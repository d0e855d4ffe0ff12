"""Names of a package that are imported when they are first used, and what an import says if it fails."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from specreason_sgl.errors import NotInstalled


def names_from(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: its name.
        modules: the names that each of its modules gives it.

    `__getattr__` raises `NotInstalled` where a name needs a package that is missing.
    """
    module_of = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with explained():
            return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return get, lambda: sorted({*vars(import_module(package)), *module_of})


@contextmanager
def explained() -> Iterator[None]:
    """Say of a missing package how to install it.

    Raises:
        NotInstalled: an import inside failed because a whole package is missing, not only a module of it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name:
            raise
        raise NotInstalled(
            f"{error.name} is not installed; SGLang and all that runs come with: pip install specreason-sgl",
            name=error.name,
        ) from error
