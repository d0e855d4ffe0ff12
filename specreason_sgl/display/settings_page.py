"""docs/reference/settings.md, made from the declarations of the settings."""

from specreason_sgl.display.markdown import markdown_table
from specreason_sgl.reasoning.knobs import Knob, knobs_of
from specreason_sgl.reasoning.plain import KNOBS
from specreason_sgl.reasoning.repair import Correct

TITLES = ("Python", "command line", "API", "default", "value", "what it is for")


def settings_page() -> str:
    """The text of the page."""
    names = ", ".join(f"`{name}`" for name in knobs_of(Correct))
    return f"""# Settings

Every setting of a run is declared once, in `specreason_sgl/reasoning`; `make docs-tables` writes this page
from the declarations. {names} are arguments of `Correct`, the others of
`SpecReasonConfig`; `keep` and `calibration` take the place of a threshold on the command line and in the API.
In the API a setting is a field of `specreason`; `temperature`, `top_p`, `top_k`, `min_p`,
`repetition_penalty` and `seed` are parameters of the request itself, as of OpenAI and SGLang.

{markdown_table(TITLES, map(_cells, KNOBS.values()))}
"""


def _cells(knob: Knob) -> list[str]:
    option = f"`{knob.option}`" if "cli" in knob.places else ""
    field = f"`{knob.name}`" if "api" in knob.places else ""
    default = "" if knob.default is None else f"`{knob.default!r}`"
    unit = f" ({knob.unit})" if knob.unit else ""
    return [f"`{knob.name}`", option, field, default, knob.expected + unit, knob.help]
