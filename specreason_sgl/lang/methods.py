"""How an expression of this package asks a model: a choices method that knows `Endpoint`."""

from typing import Any

from sglang.lang.choices import ChoicesDecision, ChoicesSamplingMethod
from sglang.lang.interpreter import StreamExecutor


class EndpointMethod(ChoicesSamplingMethod):
    """A choices method that asks an `Endpoint` in its own way, instead of by SGLang's `select`."""

    def ask(self, endpoint: Any, s: StreamExecutor, choices: list[str]) -> ChoicesDecision:
        """The decision, and in its `meta_info` what the expression reports.

        Raises:
            SpecReasonError: there is none.
        """
        raise NotImplementedError
