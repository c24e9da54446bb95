// P010 to NV12: samples of 16 bits, ten of them in the high bits, rounded to 8.

struct NarrowPlane {
    const uint16* source;
    uint8* target;
    int source_stride, target_stride;  // in samples
    int samples, rows;                 // of a row; of the plane
    int is_aligned;                    // rows start at whole groups of eight samples, in both
};

struct Narrow {
    NarrowPlane planes[3];
};

const int NARROW_TILE_WIDE = 1024, NARROW_TILE_HIGH = 4;  // samples of a block; a thread has eight at a time

__device__ inline uint32 narrowed(uint32 sample) {
    return min((sample + 128) >> 8, 255u);
}

__device__ inline uint32 narrowed_pairs(uint32 first, uint32 second) {
    return narrowed(first & 0xffff) | narrowed(first >> 16) << 8 | narrowed(second & 0xffff) << 16 |
           narrowed(second >> 16) << 24;
}

extern "C" __global__ void narrow(const __grid_constant__ Narrow p) {
    const NarrowPlane& plane = p.planes[blockIdx.z];
    int left = blockIdx.x * NARROW_TILE_WIDE, top = blockIdx.y * NARROW_TILE_HIGH;
    int right = min(left + NARROW_TILE_WIDE, plane.samples), bottom = min(top + NARROW_TILE_HIGH, plane.rows);
    for (int y = top + threadIdx.y; y < bottom; y += blockDim.y) {
        const uint16* source = plane.source + (int64)y * plane.source_stride;
        uint8* target = plane.target + (int64)y * plane.target_stride;
        for (int x = left + 8 * threadIdx.x; x < right; x += 8 * blockDim.x) {
            if (plane.is_aligned && x + 8 <= right) {
                uint4 samples = __ldg((const uint4*)(source + x));
                *(uint2*)(target + x) =
                    make_uint2(narrowed_pairs(samples.x, samples.y), narrowed_pairs(samples.z, samples.w));
                continue;
            }
            for (int i = x; i < min(x + 8, right); ++i) target[i] = narrowed(source[i]);
        }
    }
}
