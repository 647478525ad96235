"""MLflow's client, imported once and without the libraries for data that it takes up where it finds them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# What MLflow imports for its data sets, models and notebooks where it is installed, and does without where not, as
# with mlflow-skinny. Curves, tags and artifacts need none of it, and it is half of the memory: 75 of 155 MB.
_UNNEEDED = frozenset(
    {
        *("pandas", "pyarrow", "scipy", "polars", "sklearn", "matplotlib", "IPython"),
        *("torch", "tensorflow", "keras", "datasets", "pyspark", "transformers"),
    }
)
_lock = threading.Lock()


def load_mlflow() -> None:
    """Import mlflow where nobody has. Raises ImportError where it cannot be imported."""
    if _is_there():
        return
    with _lock:
        if _is_there():
            return
        # Read when mlflow is imported. Its usage reports would run two threads and leave the user's network.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        # Its log lines go where the program's go, in their form, instead of to a handler of its own.
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
        try:
            with lean():
                import mlflow
        except ImportError:
            # A version that cannot do without them.
            import mlflow  # noqa: F401


@contextmanager
def lean() -> Iterator[None]:
    """Have this thread's imports not find the libraries for data. Modules that are there stay, and can be imported.

    What is imported meanwhile goes without them for as long as the process lives; other threads notice nothing.
    """
    finder = _Blind(threading.get_ident())
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Blind(MetaPathFinder):
    """Finds nothing, and for one thread says that there is nothing to be found."""

    def __init__(self, thread: int) -> None:
        self._thread = thread

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the base's signature
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if threading.get_ident() == self._thread and fullname.partition(".")[0] in _UNNEEDED:
            raise ModuleNotFoundError(f"{fullname} is not wanted here", name=fullname)
        return None


def _is_there() -> bool:
    """True when mlflow is imported to its end, by whomever."""
    module = sys.modules.get("mlflow")
    return module is not None and not getattr(module.__spec__, "_initializing", False)
