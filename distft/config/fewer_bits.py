"""The names of the formats that weights have in fewer bits. Nothing heavy: parsers of options read them, too."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

QuantizationMethod: TypeAlias = Literal["nf4", "fp4", "int8"]  # of a base that is read, and trained beside
METHODS: Final[tuple[QuantizationMethod, ...]] = get_args(QuantizationMethod)

# Of an export, and compressed-tensors' names of them. Weights in four bits (groups of 128) or eight (rows), what they
# are multiplied with in the model's dtype; or both in eight bits (whole numbers or floats), what they are multiplied
# with rounded by the engine as it comes, a scale for each token.
SCHEMES: Final = {"w4a16": "W4A16", "w8a16": "W8A16", "int8": "INT8", "fp8": "FP8_DYNAMIC"}
