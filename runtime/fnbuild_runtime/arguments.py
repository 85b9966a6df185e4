"""From a JSON object to a call: which of the function's parameters its members fill.

The check is made on the parameters before the call, so that a TypeError inside the function is never mistaken for one.
"""

import inspect

from .errors import CallError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters:
    """The parameters of one callable."""

    def __init__(self, function):
        self.name = getattr(function, "__name__", "the function")
        try:
            # A decorator's wrapper is what is called: its own signature counts, not the one that it wraps.
            signature = inspect.signature(function, follow_wrapped=False)
        except (TypeError, ValueError):
            # Some built-in callables do not tell. They are given everything.
            signature = inspect.Signature([inspect.Parameter("rest", inspect.Parameter.VAR_KEYWORD)])
        parameters = signature.parameters.values()
        self.positional_only = [p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_ONLY]
        named = [p for p in parameters if p.kind in _NAMED] + self.positional_only
        self.names = {p.name for p in named}
        self.required = {p.name for p in named if p.default is inspect.Parameter.empty}
        self.takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self.order = [p.name for p in parameters]

    @property
    def is_raw(self):
        """Whether the function asks for the HTTP request itself: `request` is its one parameter."""
        return self.order == ["request"]

    def bind(self, members):
        """The positional and the named arguments of the call. Raises a 400 that names what is wrong."""
        if problem := self.problem(members):
            raise CallError(400, "InvalidArguments", problem)
        if not self.positional_only:
            return (), members
        members = dict(members)
        positional = []
        # A gap before a later one that is given is filled with its default; after the last one nothing is passed.
        given = [p.name in members for p in self.positional_only]
        last = max((i for i, there in enumerate(given) if there), default=-1)
        for parameter in self.positional_only[: last + 1]:
            positional.append(members.pop(parameter.name, parameter.default))
        return positional, members

    def problem(self, members):
        """What is missing or too much, as text, or None."""
        missing = self.required - members.keys()
        unknown = () if self.takes_any else members.keys() - self.names
        if not missing and not unknown:
            return None
        parts = []
        if missing:
            parts.append(f"missing {_listed(missing, self.order)}")
        if unknown:
            parts.append(f"unexpected {_listed(unknown, list(members))}")
        return f"{self.name}(): {', '.join(parts)}"


def _listed(names, order):
    names = sorted(names, key=lambda name: order.index(name))
    noun = "argument" if len(names) == 1 else "arguments"
    return f"{noun} {', '.join(repr(name) for name in names)}"
