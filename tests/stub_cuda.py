"""CUDA's libraries as stubs, so that ONNX Runtime's CUDA provider loads where there is no GPU.

What a session decides as it opens is then real: which provider gets which operator, and whether a
tower may become a CUDA graph. Device memory is the host's. Nothing is computed: a launch does
nothing, so what a run returns means nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

LIBRARIES = (
    "libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10",
    "libcudnn.so.9",
)  # fmt: skip

SOURCE = """
#include <stdlib.h>
#include <string.h>
#define OUT(name) int name(void **p) { *p = malloc(64); return 0; }
#define ONE(name) int name(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaMalloc(void **p, size_t n) { *p = aligned_alloc(256, (n + 256) / 256 * 256); return 0; }
int cudaMallocHost(void **p, size_t n) { return cudaMalloc(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return cudaMalloc(p, n); }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaMemcpy(void *to, const void *from, size_t n, int k) { memcpy(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int k, void *s)
{ memcpy(to, from, n); return 0; }
int cudaMemset(void *p, int v, size_t n) { memset(p, v, n); return 0; }
int cudaMemsetAsync(void *p, int v, size_t n, void *s) { memset(p, v, n); return 0; }
int cudaMemGetInfo(size_t *a, size_t *b) { *a = *b = (size_t)80 << 30; return 0; }
int cudaGetDeviceProperties(char *p, int d) { memset(p, 0, 1008); return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaDeviceGetAttribute(int *v, int name, int d)
{ *v = name == 75 ? 9 : name == 76 ? 0 : 1; return 0; }  /* compute capability 9.0 */
ONE(cudaGetDeviceCount)
OUT(cudaStreamCreate) OUT(cudaEventCreate) OUT(cublasCreate_v2) OUT(cublasLtCreate) OUT(cudnnCreate)
OUT(cudnnCreateTensorDescriptor)
int cudaStreamCreateWithFlags(void **p, unsigned f) { return cudaStreamCreate(p); }
int cudaEventCreateWithFlags(void **p, unsigned f) { return cudaEventCreate(p); }
void **__cudaRegisterFatBinary(void *p) { static void *one; return &one; }
size_t cudnnGetVersion(void) { return 91900; }
int cudnnSetStream(void *h, void *s) { return 0; }
const char *cudnnGetErrorString(int e) { return "stub"; }
const char *cudaGetErrorString(int e) { return "stub"; }
const char *cudaGetErrorName(int e) { return "stub"; }
"""


def missing_tool() -> str | None:
    """What these need and this machine lacks, or None."""
    return next((tool for tool in ("gcc", "nm", "readelf") if shutil.which(tool) is None), None)


def build_named(folder: Path, library: Path) -> dict[str, str]:
    """Stubs of all that a library names as needed from TensorRT; the environment to find them."""
    told = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    )
    wanted = re.findall(r"\[(lib(?:nv|tensorrt)\w+\.so[.\d]*)\]", told.stdout)
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r" U ((?:create|get|init)[A-Z]\w+)", listed)
    source = folder / "stub.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in names))
    for name in wanted:
        words = ["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*words, str(source)], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def build(folder: Path, provider: Path) -> dict[str, str]:
    """Build the stubs that a provider's library needs; the environment in which it finds them."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(provider)], capture_output=True, text=True, check=True
    ).stdout
    wanted = set(re.findall(r" U ((?:__cuda|cu[a-z]*)\w+)", listed))
    made = set(re.findall(r"(?:\*|\b)(?:OUT|ONE)?\(?(__cuda\w+|cu\w+)[(),]", SOURCE))
    plain = [f"int {name}(void) {{ return 0; }}" for name in sorted(wanted - made)]
    source = folder / "stub.c"
    source.write_text(SOURCE + "\n".join(plain) + "\n")
    for name in LIBRARIES:
        words = ["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*words, str(source)], check=True)
    # First, so that they win over real ones, which packages of NVIDIA's may have brought.
    first = ":".join(str(folder / name) for name in LIBRARIES)
    return {**os.environ, "LD_PRELOAD": first, "LD_LIBRARY_PATH": str(folder)}
