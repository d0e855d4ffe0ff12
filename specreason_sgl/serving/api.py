"""What clients may ask of `/v1/chat/completions`: OpenAI's parameters, and `specreason` as an extension."""

import dataclasses
from typing import Any, Literal

from pydantic import Field

from specreason_sgl.errors import ConfigError
from specreason_sgl.reasoning.config import Message, SpecReasonConfig
from specreason_sgl.reasoning.plain import config_of
from specreason_sgl.serving.messages import ChatMessage, conversation
from specreason_sgl.serving.parameters import (
    EFFORT_HELP,
    Choices,
    Effort,
    Request,
    Stops,
    StreamOptions,
    Tokens,
    budgets,
)
from specreason_sgl.serving.tools import NamedTool, ResponseFormat, Tool, Toolbox

MOST_MESSAGES = 1000
MOST_STOPS = 4
MOST_TOOLS = 128


class ChatRequest(Request):
    messages: list[ChatMessage] = Field(
        max_length=MOST_MESSAGES,
        description="Texts only; the last is of the user, or a tool's result.",
        json_schema_extra={"minItems": 1},
    )
    stream_options: StreamOptions = Field(StreamOptions(), description="`include_usage`; others are ignored.")
    max_tokens: Tokens | None = Field(None, description="Of the thinking and the answer together, from 1.")
    max_completion_tokens: Tokens | None = Field(None, description="The same as `max_tokens`.")
    stop: Stops = Field([])
    n: Choices = Field(1, description="Answers; each counts as a request in the queue.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="For both models' chat templates.")
    reasoning_effort: Effort | None = Field(None, description=EFFORT_HELP)
    separate_reasoning: bool = Field(True, description="False: put the thinking into the content.")
    response_format: ResponseFormat = Field(
        ResponseFormat(type="text"), description="JSON, by constrained decoding of the final answer."
    )
    tools: list[Tool] = Field([], max_length=MOST_TOOLS, description="Functions that the answer may call.")
    tool_choice: Literal["none", "auto", "required"] | NamedTool = Field(
        "auto", description="A required call is made by constrained decoding."
    )
    parallel_tool_calls: bool = Field(True, description="Whether a required answer may have several calls.")

    def toolbox(self) -> Toolbox:
        """The tools, and which must be called.

        Raises:
            ConfigError: as of `Toolbox`.
        """
        return Toolbox(self.tools, self.tool_choice, self.parallel_tool_calls)

    def conversation(self, tools: Toolbox) -> list[Message]:
        """The messages as the models get them, without the instruction."""
        return conversation(self.messages, tools.system)

    def config(
        self, defaults: SpecReasonConfig, pair: str | None = None, tools: Toolbox | None = None
    ) -> SpecReasonConfig:
        """The server's settings, with what the client asked for in their place.

        Args:
            defaults: the server's settings.
            pair: the named pair that is served, whose calibration judges where steps are to be rewritten and
                neither the server nor the client says how.
            tools: what `toolbox` made.

        Raises:
            ConfigError: they cannot be.
        """
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stops) > MOST_STOPS:
            raise ConfigError(f"stop must be at most {MOST_STOPS} texts, got {len(stops)}", "stop")
        schema = self.response_format.schema_text()
        tools = tools or self.toolbox()
        if schema and tools.tools:
            raise ConfigError(
                "response_format must come without tools, or with tool_choice none", "answer_schema"
            )
        asked = self.asked()
        config = config_of(asked, defaults=defaults, pair=pair)
        template = config.template if self.chat_template_kwargs is None else self.chat_template_kwargs
        limits = (self.max_tokens, self.max_completion_tokens)
        return dataclasses.replace(
            config,
            template=template,
            answer_stop=tuple(filter(None, stops)),
            answer_schema=tools.schema or schema,
            **budgets(config, asked, self.reasoning_effort, limits),
        )
