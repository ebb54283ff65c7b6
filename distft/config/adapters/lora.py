"""Low-rank adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distft.config.adapters.adapter import LayerAdapter, Layers
from distft.config.section import Items, Usual


class Lora(LayerAdapter):
    """Low-rank adapters (Hu et al. 2022): the model's own weights stay frozen, W + scale * B A is what computes."""

    method: Literal["lora"] = Field(default="lora", description="kind of adapter")
    r: Annotated[int, Usual(8, 64)] = Field(
        default=16, ge=1, le=4096, description="rank of the update of one matrix; 8 to 64 is usual"
    )
    alpha: float = Field(default=32.0, gt=0, description="the update's scale is alpha / r")
    rslora: bool = Field(default=False, description="scale alpha / sqrt(r) instead (Kalajdzievski 2023)")
    dora: bool = Field(
        default=False,
        description="the length of each row of W is learned apart from its direction (DoRA, Liu et al. 2024): every "
        "adapted matrix is gathered twice, and W + scale * B A computed, in each pass",
    )
    init: Literal["kaiming", "pissa", "olora"] = Field(
        default="kaiming",
        description="what A and B begin as: kaiming: A drawn, B zero; pissa: the r largest singular values and vectors "
        "of W (Meng et al. 2024); olora: the first r columns and rows of its QR decomposition (Büyükakyüz 2024). Of "
        "both W + scale * (B A - B0 A0) is what computes, where B0 A0 is what they began as; it is kept beside them",
    )
    svd_rounds: int = Field(
        default=0,
        ge=0,
        le=128,
        description="with init: pissa, rounds of a randomized decomposition, which takes seconds where the exact one "
        "takes minutes (Halko et al. 2011; 16 in the paper of PiSSA); 0: the exact one",
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="on the adapters' input; pre-training and SFT only")
    target_modules: Literal["all-linear"] | Items[str] = Field(
        default="all-linear", description="linear layers with an adapter, by the last part of their names"
    )

    loraplus_ratio: float = Field(
        default=1.0, ge=1, le=1000, description="learning rate of B as a multiple of A's, which is the optimizer's "
        "(LoRA+, Hayou et al. 2024, who take 16); 1: the same"
    )  # fmt: skip

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / (self.r**0.5 if self.rslora else self.r)

    def rate_ratio(self, name: str) -> float:
        """``loraplus_ratio`` of B, 1 of A and of a head that is trained whole."""
        return self.loraplus_ratio if ".lora_B." in name else 1.0

    def layers(self, model_type: str) -> Layers:  # noqa: ARG002 - the same of every model
        """Those that are named, or all."""
        return Layers(None if self.target_modules == "all-linear" else self.target_modules)

    def parameters(self, rows: int, columns: int, *, of_input: bool) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """``A [r, columns]`` and ``B [rows, r]``: r (rows + columns) in place of rows x columns. And lengths ``[rows]``
        with ``dora``."""
        lengths: dict[str, tuple[int, ...]] = {"lora_magnitude_vector": (rows,)} if self.dora else {}
        return {"lora_A": (self.r, columns), "lora_B": (rows, self.r), **lengths}

    def why_not(self, rows: int, columns: int, hidden: int) -> tuple[str, str, str] | None:  # noqa: ARG002
        """Where it is to begin as more parts of W than W has."""
        least = min(rows, columns)
        if self.init == "kaiming" or self.r <= least:
            return None
        return (
            "r",
            f"{self.init} finds no {self.r} parts in a matrix of {least} rows or columns",
            f"r: {least}, or init: kaiming",
        )

    def held(self, rows: int, columns: int) -> int:
        """What A and B began as, where that is a part of W."""
        return 0 if self.init == "kaiming" else self.r * (rows + columns)

    def kept(self, rows: int, columns: int, *, of_input: bool) -> tuple[int, int]:  # noqa: ARG002
        """What A makes, and with dropout its input and where that is zero. With ``dora`` what W gives and what B does,
        which lengths multiply."""
        thinned = columns if self.dropout > 0 else 0
        return self.r + thinned + (2 * rows if self.dora else 0), thinned

    def passing(self, rows: int, columns: int) -> int:
        """With ``dora``: the unit matrix that goes through A and B, what becomes of it, that scaled, and W with it."""
        return columns * columns + 3 * rows * columns if self.dora else 0
