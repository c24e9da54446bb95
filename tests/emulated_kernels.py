"""The CUDA kernels' own source, compiled by g++ and run on the CPU.

A block has one thread, unless a test asks for more: those are real threads that meet at __syncthreads().
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from bmf_trt_seg.cuda_kernels import Dimensions, kernel_names, kernel_source

_SHIM = r"""
#include <pthread.h>
#include <cmath>
#include <cstring>
#include <algorithm>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __grid_constant__
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

struct Dimensions { unsigned x, y, z; };
static thread_local Dimensions threadIdx{0, 0, 0}, blockIdx{0, 0, 0};
static Dimensions blockDim{1, 1, 1};
static pthread_barrier_t block_barrier;
static inline void __syncthreads() { if (blockDim.x > 1) pthread_barrier_wait(&block_barrier); }

#define VECTOR2(type, name) struct name { type x, y; }; \
    static inline name make_##name(type x, type y) { return {x, y}; }
#define VECTOR4(type, name) struct name { type x, y, z, w; }; \
    static inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
VECTOR2(float, float2) VECTOR2(unsigned, uint2)
VECTOR4(float, float4) VECTOR4(unsigned, uint4) VECTOR4(int, int4) VECTOR4(unsigned char, uchar4)

using std::min;
using std::max;
template <class T> static inline T __ldg(const T* address) {
    if ((size_t)address % sizeof(T)) std::abort();  // a GPU would refuse it as well
    return *address;
}
template <class T> static inline T atomicAdd(T* address, T value) { return __atomic_fetch_add(address, value, 5); }
static inline unsigned atomicOr(unsigned* address, unsigned value) { return __atomic_fetch_or(address, value, 5); }
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int shift = 0; shift < 32; shift += 8) c += (a >> shift & 255) * (b >> shift & 255);
    return c;
}
static inline int __float2int_rn(float value) { return (int)std::nearbyintf(value); }
static inline float __saturatef(float value) { return std::fmin(std::fmax(value, 0.0f), 1.0f); }
static inline float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }

static inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
static inline float __fmul_rn(float first, float second) { return first * second; }
static inline float __fmaf_rn(float first, float second, float third) { return std::fma(first, second, third); }
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    unsigned long long bytes = low | (unsigned long long)high << 32;
    unsigned taken = 0;
    for (int i = 0; i < 4; ++i) taken |= (unsigned)(bytes >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return taken;
}

static inline void prefetch(const void* address) { (void)*(volatile const char*)address; }

static inline float from_half(unsigned short bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp((float)fraction, -24);
    return bits >> 15 ? -value : value;
}
static inline unsigned short to_half(float value) {
    unsigned sign = std::signbit(value) ? 0x8000 : 0;
    float size = std::fabs(value);
    if (!(size < 65520.0f)) return sign | (std::isnan(value) ? 0x7e00 : 0x7c00);
    if (size == 0.0f) return sign;
    int exponent;
    std::frexp(size, &exponent);
    exponent = std::max(exponent, -13);  // below, halves lie as far apart as at 2^-14
    int units = (int)std::nearbyintf(std::ldexp(size, 11 - exponent));
    return sign | (((exponent + 13) << 10) + units);  // a carry goes into the exponent; units hold the leading one
}
"""

_RUNNER = r"""
template <class Parameters>
static void run(void (*kernel)(Parameters), const void* parameters, const unsigned* grid, unsigned threads) {
    Parameters p;
    std::memcpy(&p, parameters, sizeof p);
    blockDim = {threads, 1, 1};
    auto one_thread = [&](unsigned index) {
        threadIdx = {index, 0, 0};
        for (unsigned z = 0; z < grid[2]; ++z)
            for (unsigned y = 0; y < grid[1]; ++y)
                for (unsigned x = 0; x < grid[0]; ++x) {
                    blockIdx = {x, y, z};
                    kernel(p);
                    __syncthreads();  // what is shared belongs to the next block
                }
    };
    if (threads == 1) return one_thread(0);
    pthread_barrier_init(&block_barrier, nullptr, threads);
    std::vector<std::thread> others;
    for (unsigned index = 0; index < threads; ++index) others.emplace_back(one_thread, index);
    for (auto& other : others) other.join();
    pthread_barrier_destroy(&block_barrier);
}
extern "C" unsigned short half_of(float value) { return to_half(value); }
extern "C" float float_of(unsigned short bits) { return from_half(bits); }
extern "C" unsigned size_of(const char* name) { return std::strcmp(name, "Preprocess") ? std::strcmp(name, "Overlay")
    ? sizeof(Narrow) : sizeof(Overlay) : sizeof(Preprocess); }
"""


class EmulatedKernels:
    """Runs launches at once, in the calling thread; `launched` lists their names, `parameters` are the last one's."""

    def __init__(self, threads: int = 1) -> None:
        self.library = ctypes.CDLL(str(_library()))
        self._threads = threads
        self.launched: list[str] = []
        self.parameters: ctypes.Structure | None = None

    def launch(self, name: str, grid: Dimensions, block: Dimensions, parameters: ctypes.Structure, stream: int) -> None:
        assert min(grid) > 0
        assert 0 < block[0] * block[1] * block[2] <= 1024
        assert ctypes.sizeof(parameters) <= 4096
        self.launched.append(name)
        self.parameters = parameters
        run = getattr(self.library, f"run_{name}")
        run(ctypes.byref(parameters), (ctypes.c_uint * 3)(*grid), ctypes.c_uint(self._threads))

    def size_of(self, name: str) -> int:
        """The size of a parameter structure, as the compiler has it."""
        return self.library.size_of(name.encode())


def _library() -> Path:
    """The kernels as a shared library; made once for each source."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the CUDA kernels run on the CPU once g++ has compiled them, and there is no g++")
    runs = (
        f'extern "C" void run_{name}(const void* p, const unsigned* grid, unsigned threads) '
        f"{{ run({name}, p, grid, threads); }}"
        for name in kernel_names()
    )
    source = "\n".join([_SHIM, kernel_source(), _RUNNER, *runs])
    folder = Path(tempfile.gettempdir()) / f"bmf-trt-seg-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}.part")
        command = [compiler, "-std=c++17", "-O2", "-fno-strict-aliasing", "-fPIC", "-shared", "-pthread", "-x", "c++"]
        command += ["-ffp-contract=off", "-Wno-attributes", "-", "-o", str(part)]
        done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        part.replace(library)
    return library
