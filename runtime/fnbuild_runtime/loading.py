"""Imports the user's code and finds its function. What goes wrong here is the function's own error, with file and line."""

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback

from .arguments import Parameters
from .errors import CallError, log, message_of

CODE = os.environ.get("FNBUILD_CODE", "/function")


class Function:
    """A callable of the user's, with what there is to know about it."""

    def __init__(self, target):
        self.target = target
        self.parameters = Parameters(target)
        self.raw = self.parameters.is_raw
        wrapped = inspect.unwrap(target)
        self.wrapped = None if wrapped is target else Parameters(wrapped)
        self.wrapped_code = getattr(wrapped, "__code__", None)

    def refused_by_wrapper(self, error, members):
        """What was wrong with the arguments, when a wrapper that takes anything could not pass them on."""
        if self.wrapped is None or not isinstance(error, TypeError):
            return None
        frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
        if any(frame.f_code is self.wrapped_code for frame in frames):
            return None
        return self.wrapped.problem(members)


class LoadError(CallError):
    """The user's code cannot be imported. Each call is answered with it."""

    def __init__(self, error_type, message):
        super().__init__(500, error_type, message)


def load(entry, code=CODE):
    """`module:function` → Function. Raises LoadError, and logs the traceback."""
    module_name, _, function_name = entry.partition(":")
    for folder in (os.path.join(code, ".fnbuild", "packages"), code):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = _import(module_name, code)
        target = getattr(module, function_name, None)
    except BaseException as error:
        log(error, f"{entry} cannot be imported")
        raise LoadError(type(error).__name__, _with_place(error, code)) from None
    if target is None:
        raise LoadError("EntryNotFound", f"{module_name} has no function {function_name!r}")
    if not callable(target):
        raise LoadError("EntryNotFound", f"{entry} is no function but of type {type(target).__name__}")
    return Function(target)


def _import(name, code):
    if name not in sys.modules:
        return importlib.import_module(name)
    # The user's file has the name of a module that the runtime itself has loaded (`json.py`, say). It is executed under
    # its name, but the other one stays where everybody else looks for it.
    spec = importlib.machinery.PathFinder.find_spec(name, [code])
    if spec is None or spec.loader is None:
        return importlib.import_module(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _with_place(error, code):
    """The message of an exception and where in the user's code it came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.msg} ({_short(error.filename, code)}, line {error.lineno})"
    places = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith(code + os.sep)
    ]
    if not places:
        return message_of(error)
    filename, line = places[-1]
    return f"{message_of(error)} ({_short(filename, code)}, line {line})"


def _short(filename, code):
    return os.path.relpath(filename, code) if filename.startswith(code + os.sep) else filename
