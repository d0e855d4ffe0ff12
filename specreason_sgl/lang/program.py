"""`program`: `sgl.function`, with the signature and documentation of the function that it decorates."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, TypeVar

from sglang.lang.interpreter import ProgramState
from sglang.lang.ir import SglFunction

Parameters = ParamSpec("Parameters")
Body = TypeVar("Body", bound=Callable[..., None])
BodyT = TypeVar("BodyT", bound=Callable[..., None], covariant=True)


class Program(SglFunction, Generic[BodyT]):
    """An SGLang program that shows its arguments to `inspect.signature`, `help`, type checkers and editors.

    The state `s`, which SGLang passes, is not among them. In all else it is an `SglFunction`.
    """

    def __init__(self, body: BodyT):
        super().__init__(body)
        functools.update_wrapper(self, body)
        signature = inspect.signature(body)
        _, *parameters = signature.parameters.values()
        self.__signature__ = signature.replace(parameters=parameters, return_annotation="ProgramState")
        # `help` shows an object's docstring, but not its signature.
        self.__doc__ = f"{body.__name__}{self.__signature__}\n\n{inspect.getdoc(body)}"

    def __call__(
        self: "Program[Callable[Concatenate[ProgramState, Parameters], None]]",
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> ProgramState:
        """Run it on SGLang's default backend; `run` takes another one as `backend`."""
        return super().__call__(*args, **kwargs)

    if not TYPE_CHECKING:
        __call__: BodyT  # jedi (Jupyter, IPython) reads this; it does not know ParamSpec


def program(body: Body) -> Program[Body]:
    """Make a program of a function of the state `s` and the program's arguments; for use as a decorator."""
    return Program(body)
