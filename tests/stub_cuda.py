"""CUDA's libraries as stubs, so that ONNX Runtime's providers load where there is no GPU.

What a session decides as it opens is then real: which provider gets which operator, and whether a
tower may become a CUDA graph. Device memory is the host's. Nothing is computed: a launch does
nothing, so what a run returns means nothing. Copies are real, and `stub_pageable` counts those
that had a side in memory of the host that is not pinned.
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

PLUGIN_LIBRARIES = ("libcuda.so.1", "libcudart.so.13", "libnvidia-ml.so.1")

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define OUT(name) int name(void **p) { *p = malloc(64); return 0; }
#define ONE(name) int name(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaMalloc(void **p, size_t n) { *p = aligned_alloc(256, (n + 256) / 256 * 256); return 0; }
static char *pinned[64], *pinned_end[64]; static int pins, pageable;
int cudaMallocHost(void **p, size_t n)
{ cudaMalloc(p, n); pinned[pins % 64] = *p; pinned_end[pins++ % 64] = (char *)*p + n; return 0; }
int cudaHostAlloc(void **p, size_t n, unsigned f) { return cudaMallocHost(p, n); }
int stub_pageable(void) { return pageable; }
static void seen(const void *to, const void *from, int k)
{ const char *host = k == 1 ? from : to; int found = 0;
  for (int i = 0; i < 64; i++) found |= pinned[i] && host >= pinned[i] && host < pinned_end[i];
  if (k == 1 || k == 2) pageable += !found; }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaMemcpy(void *to, const void *from, size_t n, int k)
{ seen(to, from, k); memcpy(to, from, n); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int k, void *s)
{ return cudaMemcpy(to, from, n, k); }
int cudaMemset(void *p, int v, size_t n) { memset(p, v, n); return 0; }
int cudaMemsetAsync(void *p, int v, size_t n, void *s) { memset(p, v, n); return 0; }
int cudaMemGetInfo(size_t *a, size_t *b) { *a = *b = (size_t)80 << 30; return 0; }
int cudaGetDeviceProperties(char *p, int d)
{ memset(p, 0, 1008); ((int *)p)[90] = MAJOR; ((int *)p)[91] = MINOR; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaDeviceGetAttribute(int *v, int name, int d)
{ *v = name == 75 ? MAJOR : name == 76 ? MINOR : 1; return 0; }  /* compute capability */
int cudaPointerGetAttributes(void *a, const void *p) { memset(a, 0, 32); return 0; }
int cudaDeviceGetByPCIBusId(int *d, const char *id) { *d = 0; return 0; }
int cudaMemPoolGetAttribute(void *pool, int a, size_t *v) { *v = 0; return 0; }
int cudaMallocFromPoolAsync(void **p, size_t n, void *pool, void *s) { return cudaMalloc(p, n); }
int cudaFreeAsync(void *p, void *s) { return cudaFree(p); }
int cuCtxGetCurrent(void **p) { *p = (void *)1; return 0; }
int nvmlSystemGetDriverVersion(char *p, unsigned n) { snprintf(p, n, "610.00"); return 0; }
const char *nvmlErrorString(int e) { return "stub"; }
ONE(cudaGetDeviceCount) OUT(cudaMemPoolCreate)
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
    return _built(folder, provider, LIBRARIES, (9, 0))


def build_plugin(folder: Path, plugin: Path) -> dict[str, str]:
    """As `build`, for the plugin of TensorRT for RTX, and a GPU that ONNX Runtime finds by itself.

    It looks for GPUs in the system's tree of devices, whose paths a library leads into `folder`.
    """
    device = folder / "devices" / "0000:01:00.0"
    device.mkdir(parents=True)
    for name, value in (("vendor", "0x10de"), ("device", "0x2684"), ("class", "0x030000")):
        (device / name).write_text(value + "\n")
    (folder / "sys" / "class" / "drm" / "card0").mkdir(parents=True)
    (folder / "sys" / "class" / "drm" / "card0" / "device").symlink_to(device)
    (folder / "sys" / "bus" / "pci" / "devices").mkdir(parents=True)
    (folder / "sys" / "bus" / "pci" / "devices" / device.name).symlink_to(device)
    (folder / "led.c").write_text(LED)
    led = folder / "libled.so"
    words = ["gcc", "-w", "-shared", "-fPIC", f'-DROOT="{folder}"', "-o", str(led)]
    subprocess.run([*words, str(folder / "led.c"), "-ldl"], check=True)
    env = _built(folder, plugin, PLUGIN_LIBRARIES, (8, 9))
    return env | {"LD_PRELOAD": f"{led}:{env['LD_PRELOAD']}"}


LED = """
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
static const char *led(const char *p, char *to)
{ if (!p || (strncmp(p, "/sys/class/drm", 14) && strncmp(p, "/sys/bus/pci", 12))) return p;
  snprintf(to, 4096, "%s%s", ROOT, p); return to; }
#define REAL(name) char to[4096]; \\
  __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
DIR *opendir(const char *p) { REAL(opendir); return real(led(p, to)); }
#define OPEN(name) int name(const char *p, int f, ...) \\
{ REAL(name); va_list a; va_start(a, f); return real(led(p, to), f, va_arg(a, int)); }
OPEN(open) OPEN(open64)
int openat(int at, const char *p, int f, ...)
{ REAL(openat); va_list a; va_start(a, f); return real(at, led(p, to), f, va_arg(a, int)); }
FILE *fopen(const char *p, const char *m) { REAL(fopen); return real(led(p, to), m); }
FILE *fopen64(const char *p, const char *m) { REAL(fopen64); return real(led(p, to), m); }
int stat(const char *p, struct stat *s) { REAL(stat); return real(led(p, to), s); }
int lstat(const char *p, struct stat *s) { REAL(lstat); return real(led(p, to), s); }
int __xstat(int v, const char *p, struct stat *s) { return stat(p, s); }
int __lxstat(int v, const char *p, struct stat *s) { return lstat(p, s); }
char *realpath(const char *p, char *r) { REAL(realpath); return real(led(p, to), r); }
"""


def _built(
    folder: Path, provider: Path, libraries: tuple[str, ...], capability: tuple[int, int]
) -> dict[str, str]:
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(provider)], capture_output=True, text=True, check=True
    ).stdout
    wanted = set(re.findall(r" U ((?:__cuda|cu[a-z]*|nvml)\w+)", listed))
    made = set(re.findall(r"(?:\*|\b)(?:OUT|ONE)?\(?(__cuda\w+|(?:cu|nvml)\w+)[(),]", SOURCE))
    plain = [f"int {name}(void) {{ return 0; }}" for name in sorted(wanted - made)]
    source = folder / "stub.c"
    source.write_text(SOURCE + "\n".join(plain) + "\n")
    major, minor = capability
    for name in libraries:
        words = ["gcc", "-w", "-shared", "-fPIC", f"-DMAJOR={major}", f"-DMINOR={minor}"]
        words += [f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(words, check=True)
    # First, so that they win over real ones, which packages of NVIDIA's may have brought.
    first = ":".join(str(folder / name) for name in libraries)
    return {**os.environ, "LD_PRELOAD": first, "LD_LIBRARY_PATH": str(folder)}
