"""Instruction sets of a few kinds of processors, as Linux names them."""

from __future__ import annotations

AVX2 = ("avx2",)
VNNI = ("avx2", "avx512f", "avx512_vnni")
BF16 = (*VNNI, "avx512_bf16")
AMX = (*BF16, "amx_tile", "amx_int8", "amx_bf16")
