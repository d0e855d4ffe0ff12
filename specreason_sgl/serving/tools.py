"""Tools and JSON in the final answer, by SGLang's constrained decoding and its parser of tool calls.

The tools are described in the system message, in the format of Hermes and Qwen, whatever the model: its own
template need not know of tools. A call that is required is constrained to SGLang's JSON schema of calls.
"""

import json
import uuid
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from specreason_sgl.errors import ConfigError
from specreason_sgl.lang.answers import one_line
from specreason_sgl.serving.parameters import Strict, Text

MOST_SCHEMA = 32_768  # characters
MOST_DEPTH = 32  # the grammar's compiler takes seconds for 200
SYSTEM = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

To call functions, let the final answer be a JSON object with function name and arguments for each call, \
within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def _check_depth(schema: dict[str, Any]) -> dict[str, Any]:
    if _is_deeper(schema, MOST_DEPTH):
        raise ValueError(f"must have at most {MOST_DEPTH} levels, got more")
    return schema


def _is_deeper(value: Any, levels: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_is_deeper(part, levels - 1) for part in parts)


Schema = Annotated[dict[str, Any], AfterValidator(_check_depth)]


class Function(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: Text | None = None
    parameters: Schema | None = None
    strict: bool | None = Field(None, description="Accepted; a required call follows its schema anyway.")


class Tool(Strict):
    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    name: str


class NamedTool(Strict):
    type: Literal["function"]
    function: FunctionName


class CalledFunction(Strict):
    name: Text
    arguments: Text


class ToolCall(Strict):
    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction

    def as_text(self) -> str:
        """The call as the system message asks for it."""
        try:
            arguments = json.loads(self.function.arguments)
        except ValueError:
            arguments = self.function.arguments
        call = {"name": self.function.name, "arguments": arguments}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"


class JsonSchema(Strict):
    name: Text = ""
    description: Text | None = None
    schema_: Schema = Field(alias="schema", default={"type": "object"})
    strict: bool | None = Field(None, description="Accepted; the answer follows the schema anyway.")


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def schema_text(self) -> str | None:
        """The JSON schema of the answer; None if it is plain text.

        Raises:
            ConfigError: the schema is missing, or cannot be used.
        """
        if self.type == "text":
            return None
        if self.type == "json_object":
            return json.dumps({"type": "object"})
        if self.json_schema is None:
            raise ConfigError("answer_schema must have a json_schema with type json_schema", "answer_schema")
        return checked(self.json_schema.schema_, "answer_schema")


class Toolbox:
    """The tools of a request, and which of them may, or must, be called.

    Args:
        tools: the tools.
        choice: OpenAI's `tool_choice`.
        parallel: whether a required answer may have several calls.

    Raises:
        ConfigError: the choice names no tool, or a schema cannot be used.
    """

    def __init__(self, tools: list[Tool], choice: str | NamedTool, parallel: bool):
        self.tools = [] if choice == "none" else tools
        names = [tool.function.name for tool in tools]
        name = choice.function.name if isinstance(choice, NamedTool) else None
        is_required = choice == "required" or name is not None
        if is_required and (not names or name not in (None, *names)):
            raise ConfigError(
                f"tool_choice must be one of the tools {names}, got {name or choice}", "tool_choice"
            )
        self.schema: str | None = None
        if is_required:
            self.schema = checked(self._constraint(choice, parallel), "tools")

    def _constraint(self, choice: str | NamedTool, parallel: bool) -> dict[str, Any]:
        from sglang.srt.entrypoints.openai.protocol import ToolChoice
        from sglang.srt.function_call.utils import get_json_schema_constraint

        if isinstance(choice, NamedTool):
            choice = ToolChoice.model_validate(choice.model_dump())
        return get_json_schema_constraint(self._sglangs(), choice, parallel) or {}

    def _sglangs(self) -> list[Any]:
        from sglang.srt.entrypoints.openai.protocol import Tool

        return [Tool.model_validate(tool.model_dump(exclude_none=True)) for tool in self.tools]

    @property
    def system(self) -> str:
        """The text for the system message; empty without tools."""
        if not self.tools:
            return ""
        tools = (json.dumps(tool.model_dump(exclude_none=True, exclude={"strict"})) for tool in self.tools)
        return SYSTEM.format(tools="\n".join(tools))

    def read(self, answer: str) -> tuple[str, list[dict[str, Any]]]:
        """Split a final answer into its text and the calls in it, in OpenAI's format."""
        if not self.tools:
            return answer, []
        text, calls = self._read_required(answer) if self.schema else self._read_free(answer)
        return text, [
            {
                "index": index,
                "id": f"call_{uuid.uuid4().hex[:24]}",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for index, (name, arguments) in enumerate(calls)
        ]

    def _read_required(self, answer: str) -> tuple[str, list[tuple[str, str]]]:
        try:
            calls = json.loads(answer)
        except ValueError:  # it was cut
            return answer, []
        return "", [(call["name"], json.dumps(call["parameters"])) for call in calls]

    def _read_free(self, answer: str) -> tuple[str, list[tuple[str, str]]]:
        from sglang.srt.function_call.hermes_detector import HermesDetector

        parsed = HermesDetector().detect_and_parse(answer, self._sglangs())
        calls = [(call.name or "", call.parameters) for call in parsed.calls]
        return (parsed.normal_text, calls) if calls else (answer, [])


def checked(schema: dict[str, Any], knob: str) -> str:
    """A JSON schema as a text, if the runtimes' grammar compiler (xgrammar) takes it.

    Raises:
        ConfigError: it does not, or the schema is too long.
    """
    import xgrammar
    from sglang.srt.constrained import json_schema_validation as sglangs

    text = json.dumps(schema)
    if len(text) > MOST_SCHEMA:
        raise ConfigError(
            f"{knob} must have a JSON schema of at most {MOST_SCHEMA} characters, got {len(text)}", knob
        )
    try:
        sglangs.validate_xgrammar_json_schema(schema)
        xgrammar.Grammar.from_json_schema(text)
    except (RuntimeError, sglangs.UnsupportedJSONSchemaFeature) as error:
        why = one_line(str(error).rpartition(": ")[2])
        raise ConfigError(f"{knob} must have a usable JSON schema: {why}", knob) from None
    return text
