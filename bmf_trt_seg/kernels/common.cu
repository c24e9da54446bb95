// What all kernels share. The files of this folder are compiled as one source, by NVRTC and without headers.
//
// Every kernel takes one structure by value, and is right for blocks of any size: threads stride over their block's
// tile, and meet at __syncthreads() between its phases. So a test can run the same source on a CPU.

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;

enum Format { YUV420P, NV12, RGB24 };
enum Element { FLOAT32, FLOAT16, BFLOAT16, INT32, INT64, UINT8 };

const int FRAMES = 32;  // of a launch: their structures have to fit into the 4 KB of parameters

#ifdef __CUDACC__
__device__ inline float from_half(uint16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ inline uint16 to_half(float value) {
    uint16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ inline void prefetch(const void* address) {
    asm volatile("prefetch.global.L2 [%0];" : : "l"(address));
}
#endif

__device__ inline int thread_index() {
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

__device__ inline int thread_count() {
    return blockDim.x * blockDim.y * blockDim.z;
}

__device__ inline int clamped(int value, int low, int high) {
    return min(max(value, low), high);
}

__device__ inline uint8 to_code(float value) {
    return (uint8)clamped(__float2int_rn(value), 0, 255);
}

// The lowest bytes of four words as one.
__device__ inline uint32 packed(uint32 first, uint32 second, uint32 third, uint32 fourth) {
    return __byte_perm(__byte_perm(first, second, 0x0040), __byte_perm(third, fourth, 0x0040), 0x5410);
}

// The two samples that a resized row's sample lies between, and how far it is from the first; centres are at halves.
struct Taps {
    int low;
    int step;  // 0 if there is one sample only
    float weight;
};

__device__ inline Taps taps_at(int index, float scale, int size) {
    float position = fminf(fmaxf((index + 0.5f) * scale - 0.5f, 0.0f), size - 1.0f);
    Taps taps;
    taps.low = max(min((int)position, size - 2), 0);
    taps.step = size > 1;
    taps.weight = position - taps.low;
    return taps;
}

__device__ inline float mixed(float first, float second, float weight) {
    return first * (1.0f - weight) + second * weight;
}
