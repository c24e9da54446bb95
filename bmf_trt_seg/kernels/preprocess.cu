// Planes of pictures to a network's input: halve, resize bilinearly, convert colours, normalize, in one pass.

struct PreprocessFrame {
    const uint8* planes[3];
    int strides[3];
    int slot;  // its place in the batch
};

// A plane as it is after halving, and how it is enlarged from there.
struct Halved {
    int width, height, halvings;
    float x_scale, y_scale;
};

struct Preprocess {
    PreprocessFrame frames[FRAMES];
    void* batch;
    Halved luma, chroma;  // of rgb24, luma is the plane
    int width, height;    // of the network's input
    int left, top, fitted_width, fitted_height;
    int format, element, is_nhwc, is_paired, has_same_taps;
    // channel = saturated(weights · codes + bias) * scale + offset; codes are sums of what was halved
    float weights[9], bias[3], scale[3], offset[3], border[3];
};

const int BATCH_TILE_WIDE = 64, BATCH_TILE_HIGH = 8;  // pixels of a block; a thread has two at a time

// The sum of 2^HALVINGS squared pixels; rows have to be aligned to as many bytes.
template <int HALVINGS>
__device__ inline float cell_sum(const uint8* __restrict__ plane, uint32 stride, int x, int y) {
    const uint8* corner = plane + (((uint32)y << HALVINGS) * stride + ((uint32)x << HALVINGS));
    if (HALVINGS == 0) return __ldg(corner);
    uint32 sum = 0;
#pragma unroll
    for (int row = 0; row < 1 << HALVINGS; ++row, corner += stride) {
        uint32 codes = HALVINGS == 1 ? __ldg((const uint16*)corner) : __ldg((const uint32*)corner);
        sum = __dp4a(codes, 0x01010101u, sum);
    }
    return sum;
}

// The same for any plane: of `components` a pixel, without alignment.
__device__ inline float cell_sum(const uint8* plane, int stride, int components, int halvings, int x, int y) {
    int size = 1 << halvings;
    uint32 sum = 0;
    for (int row = y * size; row < (y + 1) * size; ++row)
        for (int column = x * size; column < (x + 1) * size; ++column)
            sum += plane[(int64)row * stride + column * components];
    return sum;
}

// An nv12 picture in aligned rows, of two or more pixels each way after LUMA and CHROMA halvings.
template <int LUMA, int CHROMA>
struct AlignedNv12 {
    static __device__ inline void codes(const Preprocess& p, const PreprocessFrame& frame, int x, int y, float* codes) {
        Taps tx = taps_at(x, p.luma.x_scale, p.luma.width), ty = taps_at(y, p.luma.y_scale, p.luma.height);
        const uint8* luma = frame.planes[0];
        codes[0] = mixed(
            mixed(cell_sum<LUMA>(luma, frame.strides[0], tx.low, ty.low),
                  cell_sum<LUMA>(luma, frame.strides[0], tx.low + 1, ty.low), tx.weight),
            mixed(cell_sum<LUMA>(luma, frame.strides[0], tx.low, ty.low + 1),
                  cell_sum<LUMA>(luma, frame.strides[0], tx.low + 1, ty.low + 1), tx.weight),
            ty.weight);
        if (!p.has_same_taps) {
            tx = taps_at(x, p.chroma.x_scale, p.chroma.width);
            ty = taps_at(y, p.chroma.y_scale, p.chroma.height);
        }
        const uint8* chroma = frame.planes[1];
        uint32 stride = frame.strides[1];
        float sums[2][2][2];
#pragma unroll
        for (int row = 0; row < 2; ++row)
#pragma unroll
            for (int column = 0; column < 2; ++column) {
                const uint8* corner = chroma + (((uint32)(ty.low + row) << CHROMA) * stride +
                                                ((uint32)(tx.low + column) << (CHROMA + 1)));
                uint32 cb = 0, cr = 0;
                if (CHROMA == 0) {
                    uint32 pair = __ldg((const uint16*)corner);
                    cb = pair & 255, cr = pair >> 8;
                } else {
#pragma unroll
                    for (int line = 0; line < 2; ++line, corner += stride) {
                        uint32 pairs = __ldg((const uint32*)corner);
                        cb = __dp4a(pairs, 0x00010001u, cb);
                        cr = __dp4a(pairs, 0x01000100u, cr);
                    }
                }
                sums[0][row][column] = cb;
                sums[1][row][column] = cr;
            }
#pragma unroll
        for (int part = 0; part < 2; ++part)
            codes[1 + part] = mixed(mixed(sums[part][0][0], sums[part][0][1], tx.weight),
                                    mixed(sums[part][1][0], sums[part][1][1], tx.weight), ty.weight);
    }
};

// Any picture.
struct AnyPicture {
    static __device__ inline float sample(const uint8* plane, int stride, int components, const Halved& halved, int x,
                                          int y) {
        Taps tx = taps_at(x, halved.x_scale, halved.width), ty = taps_at(y, halved.y_scale, halved.height);
        float rows[2];
        for (int row = 0; row < 2; ++row) {
            int line = ty.low + row * ty.step;
            rows[row] = mixed(cell_sum(plane, stride, components, halved.halvings, tx.low, line),
                              cell_sum(plane, stride, components, halved.halvings, tx.low + tx.step, line), tx.weight);
        }
        return mixed(rows[0], rows[1], ty.weight);
    }

    static __device__ inline void codes(const Preprocess& p, const PreprocessFrame& frame, int x, int y, float* codes) {
        for (int part = 0; part < 3; ++part) {
            if (p.format == RGB24)
                codes[part] = sample(frame.planes[0] + part, frame.strides[0], 3, p.luma, x, y);
            else if (part == 0)
                codes[0] = sample(frame.planes[0], frame.strides[0], 1, p.luma, x, y);
            else if (p.format == NV12)
                codes[part] = sample(frame.planes[1] + part - 1, frame.strides[1], 2, p.chroma, x, y);
            else
                codes[part] = sample(frame.planes[part], frame.strides[part], 1, p.chroma, x, y);
        }
    }
};

// Two neighbouring elements of the batch; the second is left out beyond the end of a row.
__device__ inline void store_pair(const Preprocess& p, int64 index, float first, float second, bool has_second) {
    if (p.element == FLOAT16) {
        uint16* batch = (uint16*)p.batch + index;
        if (p.is_paired) {
            *(uint32*)batch = to_half(first) | (uint32)to_half(second) << 16;
            return;
        }
        batch[0] = to_half(first);
        if (has_second) batch[1] = to_half(second);
    } else if (p.element == FLOAT32) {
        float* batch = (float*)p.batch + index;
        if (p.is_paired) {
            *(float2*)batch = make_float2(first, second);
            return;
        }
        batch[0] = first;
        if (has_second) batch[1] = second;
    } else {
        uint8* batch = (uint8*)p.batch + index;
        batch[0] = to_code(first);
        if (has_second) batch[1] = to_code(second);
    }
}

__device__ inline void store_pixels(const Preprocess& p, int slot, int x, int y, const float pixels[2][3]) {
    bool has_second = x + 1 < p.width;
    int64 area = (int64)p.width * p.height, pixel = (int64)y * p.width + x;
    if (!p.is_nhwc) {
#pragma unroll
        for (int channel = 0; channel < 3; ++channel)
            store_pair(p, (slot * 3 + channel) * area + pixel, pixels[0][channel], pixels[1][channel], has_second);
        return;
    }
    int64 index = (slot * area + pixel) * 3;
    store_pair(p, index, pixels[0][0], pixels[0][1], true);
    store_pair(p, index + 2, pixels[0][2], pixels[1][0], has_second);
    if (has_second) store_pair(p, index + 4, pixels[1][1], pixels[1][2], true);
}

template <class Picture>
__device__ inline void fill_batch(const Preprocess& p) {
    const PreprocessFrame& frame = p.frames[blockIdx.z];
    int top = blockIdx.y * BATCH_TILE_HIGH, left = blockIdx.x * BATCH_TILE_WIDE;
    int right = min(left + BATCH_TILE_WIDE, p.width), bottom = min(top + BATCH_TILE_HIGH, p.height);
    for (int y = top + threadIdx.y; y < bottom; y += blockDim.y)
        for (int x = left + 2 * threadIdx.x; x < right; x += 2 * blockDim.x) {
            float pixels[2][3];
            int row = y - p.top, column = x - p.left;
            bool is_row_inside = row >= 0 && row < p.fitted_height;
            bool has_picture = is_row_inside && column > -2 && column < p.fitted_width;
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int channel = 0; channel < 3; ++channel) pixels[i][channel] = p.border[channel];
            if (has_picture) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {  // both, wherever they lie: their loads are to be under way together
                    float codes[3];
                    Picture::codes(p, frame, clamped(column + i, 0, p.fitted_width - 1), row, codes);
                    bool is_inside = column + i >= 0 && column + i < p.fitted_width;
#pragma unroll
                    for (int channel = 0; channel < 3; ++channel) {
                        const float* weights = p.weights + 3 * channel;
                        float value = weights[0] * codes[0] + weights[1] * codes[1] + weights[2] * codes[2];
                        value = __saturatef(value + p.bias[channel]) * p.scale[channel] + p.offset[channel];
                        if (is_inside) pixels[i][channel] = value;
                    }
                }
            }
            store_pixels(p, frame.slot, x, y, pixels);
        }
}

extern "C" __global__ void preprocess_any(const __grid_constant__ Preprocess p) {
    fill_batch<AnyPicture>(p);
}

extern "C" __global__ void preprocess_nv12_0_0(const __grid_constant__ Preprocess p) {
    fill_batch<AlignedNv12<0, 0>>(p);
}

extern "C" __global__ void preprocess_nv12_1_0(const __grid_constant__ Preprocess p) {
    fill_batch<AlignedNv12<1, 0>>(p);
}

extern "C" __global__ void preprocess_nv12_2_1(const __grid_constant__ Preprocess p) {
    fill_batch<AlignedNv12<2, 1>>(p);
}
