// Drawing classes on the planes of pictures: every block decides and draws its tile.

// Of a block of 4x2 pixels: which class each pixel counts as, and its ink, `0x01zzyyxx` with the codes of the colour,
// or 0 where nothing is to be drawn.
struct Unit {
    int keys[2][4];
    uint32 inks[2][4];
    uint32 chroma_inks[2];
};

// COUNT samples of COMPONENTS bytes from `x` on; beyond the row's end, the last one again.
template <int COUNT, int COMPONENTS>
__device__ inline void load_samples(const uint8* row, int x, int width, bool is_aligned, uint8* codes) {
    const int bytes = COUNT * COMPONENTS;
    if (is_aligned && x + COUNT <= width) {
        if (bytes == 2) {
            uint32 pair = __ldg((const uint16*)(row + x));
            codes[0] = pair, codes[1] = pair >> 8;
        } else {
#pragma unroll
            for (int i = 0; i < bytes / 4; ++i) {
                uint32 word = __ldg((const uint32*)(row + x * COMPONENTS) + i);
#pragma unroll
                for (int part = 0; part < 4; ++part) codes[4 * i + part] = word >> 8 * part;
            }
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
#pragma unroll
        for (int part = 0; part < COMPONENTS; ++part)
            codes[i * COMPONENTS + part] = row[(int64)min(x + i, width - 1) * COMPONENTS + part];
}

template <int COUNT, int COMPONENTS>
__device__ inline void store_samples(uint8* row, int x, int width, bool is_aligned, const uint8* codes) {
    const int bytes = COUNT * COMPONENTS;
    if (is_aligned && x + COUNT <= width) {
        if (bytes == 2) {
            *(uint16*)(row + x) = codes[0] | codes[1] << 8;
        } else {
#pragma unroll
            for (int i = 0; i < bytes / 4; ++i)
                *((uint32*)(row + x * COMPONENTS) + i) =
                    codes[4 * i] | codes[4 * i + 1] << 8 | codes[4 * i + 2] << 16 | (uint32)codes[4 * i + 3] << 24;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (x + i < width)
#pragma unroll
            for (int part = 0; part < COMPONENTS; ++part)
                row[(int64)(x + i) * COMPONENTS + part] = codes[i * COMPONENTS + part];
}

__device__ inline uint8 blended(const Overlay& p, uint8 before, uint32 code) {
    return __float2int_rn(p.keep * before + p.alpha * (code & 255));
}

// One row of a plane, COUNT samples in the inks of components `first` and on.
template <int COUNT, int COMPONENTS>
__device__ inline void draw_samples(const Overlay& p, const OverlayFrame& frame, int plane, int first, int x, int y,
                                    int width, int height, int drawn, const uint32* inks) {
    uint8 codes[COUNT * COMPONENTS];
    if (p.style == MASK) {
#pragma unroll
        for (int i = 0; i < COUNT * COMPONENTS; ++i) codes[i] = p.ground[first + i % COMPONENTS];
    } else {
        const uint8* row = frame.source[plane] + (int64)min(y, height - 1) * frame.source_strides[plane];
        load_samples<COUNT, COMPONENTS>(row, x, width, p.is_aligned, codes);
    }
    uint8* target = frame.target[plane] + (int64)y * frame.target_strides[plane];
    if (p.style == SIDEBYSIDE) {
        store_samples<COUNT, COMPONENTS>(target, x, drawn, p.is_aligned, codes);
        target += (int64)(plane && p.format != RGB24 ? p.left / 2 : p.left) * COMPONENTS;
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (inks[i]) {
#pragma unroll
            for (int part = 0; part < COMPONENTS; ++part)
                codes[i * COMPONENTS + part] = blended(p, codes[i * COMPONENTS + part], inks[i] >> 8 * (first + part));
        }
    store_samples<COUNT, COMPONENTS>(target, x, drawn, p.is_aligned, codes);
}

__device__ inline void draw_unit(const Overlay& p, const OverlayFrame& frame, int x, int y, const Unit& unit) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
        if (y + row >= p.drawn_high) break;
        if (p.format == RGB24)
            draw_samples<4, 3>(p, frame, 0, 0, x, y + row, p.width, p.height, p.drawn_wide, unit.inks[row]);
        else
            draw_samples<4, 1>(p, frame, 0, 0, x, y + row, p.width, p.height, p.drawn_wide, unit.inks[row]);
    }
    if (p.format == RGB24) return;
    int wide = (p.width + 1) / 2, high = (p.height + 1) / 2;
    if (p.format == NV12) {
        draw_samples<2, 2>(p, frame, 1, 1, x / 2, y / 2, wide, high, wide, unit.chroma_inks);
    } else {
        draw_samples<2, 1>(p, frame, 1, 1, x / 2, y / 2, wide, high, wide, unit.chroma_inks);
        draw_samples<2, 1>(p, frame, 2, 2, x / 2, y / 2, wide, high, wide, unit.chroma_inks);
    }
}

// Chroma is drawn where all four pixels of the sample are, and belong to one class.
__device__ inline void ink_chroma(Unit& unit) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        int key = unit.keys[0][2 * i];
        bool is_one = key == unit.keys[0][2 * i + 1] && key == unit.keys[1][2 * i] && key == unit.keys[1][2 * i + 1];
        unit.chroma_inks[i] = is_one ? unit.inks[0][2 * i] : 0;
    }
}

// Set the bit of a shown class, without a hurry of atomics.
__device__ inline void note_class(uint32* present, int index) {
    uint32 bit = 1u << (index & 31);
    if (!(*(volatile uint32*)(present + (index >> 5)) & bit)) atomicOr(present + (index >> 5), bit);
}

// Have the picture under a tile on its way from memory while its classes are decided.
__device__ inline void prefetch_tile(const Overlay& p, const OverlayFrame& frame, int left, int top) {
    for (int plane = 0; plane < 3 && frame.source[plane]; ++plane) {
        int halving = plane > 0, components = p.format == RGB24 ? 3 : p.format == NV12 && plane ? 2 : 1;
        int width = plane ? (p.width + 1) / 2 : p.width, height = plane ? (p.height + 1) / 2 : p.height;
        int start = (left >> halving) * components, bytes = ((4 << p.quads_shift) >> halving) * components;
        int end = min(start + bytes, width * components), lines = bytes / 128 + 1;
        for (int i = thread_index(); i < lines * (p.tile_high >> halving); i += thread_count()) {
            int row = (top >> halving) + i / lines, column = start + i % lines * 128;
            if (row < height) prefetch(frame.source[plane] + (int64)row * frame.source_strides[plane] + min(column, end - 1));
        }
    }
}

template <class Decide>
__device__ inline void draw_tile(const Overlay& p) {
    __shared__ __align__(4) uint8 classes[TILE_PIXELS];
    __shared__ uint32 inks[256], present[8];
    const OverlayFrame& frame = p.frames[blockIdx.z];
    int left = blockIdx.x * (4 << p.quads_shift), top = blockIdx.y * p.tile_high;
    if (p.style != MASK && p.style != MAP_ONLY) prefetch_tile(p, frame, left, top);
    for (int i = thread_index(); i < 256; i += thread_count()) {
        uint32 ink = __ldg((const uint32*)p.tables + i);
        inks[i] = ink >> 24 ? ink : 0;
    }
    for (int i = thread_index(); i < 8; i += thread_count()) present[i] = 0;
    Decide::decide(p, frame, left, top, classes);
    __syncthreads();

    uint32 ground = p.ground[0] | p.ground[1] << 8 | p.ground[2] << 16 | 1u << 24;
    int quads_wide = 1 << p.quads_shift;
    for (int i = thread_index(); i < (p.tile_high / 2) << p.quads_shift; i += thread_count()) {
        int column = (i & (quads_wide - 1)) * 4, row = (i >> p.quads_shift) * 2, x = left + column, y = top + row;
        if (x >= p.width || y >= p.height) continue;
        uchar4 pixels[2];
        Unit unit;
#pragma unroll
        for (int line = 0; line < 2; ++line) {
            pixels[line] = *(const uchar4*)(classes + 4 * quads_wide * (row + line) + column);
            int found[4] = {pixels[line].x, pixels[line].y, pixels[line].z, pixels[line].w};
            if (p.has_map && y + line < p.height) {
                uint8* map = frame.map + (int64)(y + line) * p.width;
                uint8 codes[4] = {pixels[line].x, pixels[line].y, pixels[line].z, pixels[line].w};
                store_samples<4, 1>(map, x, p.width, p.is_map_aligned, codes);
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                uint32 ink = inks[found[j]];
                if (frame.present && ink && x + j < p.width && y + line < p.height) note_class(present, found[j]);
                unit.keys[line][j] = found[j];
                unit.inks[line][j] = ink;
                if (p.style == CUTOUT) unit.keys[line][j] = ink != 0, unit.inks[line][j] = ink ? 0 : ground;
            }
        }
        if (p.style == MAP_ONLY) continue;
        ink_chroma(unit);
        draw_unit(p, frame, x, y, unit);
    }
    if (!frame.present) return;
    __syncthreads();
    for (int i = thread_index(); i < 8; i += thread_count())
        if (present[i]) atomicOr(frame.present + i, present[i]);
}

extern "C" __global__ void __launch_bounds__(384, 3) draw_float32(const __grid_constant__ Overlay p) {
    draw_tile<Multiclass<Float32Scores>>(p);
}

extern "C" __global__ void __launch_bounds__(384, 3) draw_float16(const __grid_constant__ Overlay p) {
    draw_tile<Multiclass<Float16Scores>>(p);
}

extern "C" __global__ void __launch_bounds__(384, 3) draw_any(const __grid_constant__ Overlay p) {
    draw_tile<Multiclass<AnyScores>>(p);
}

extern "C" __global__ void __launch_bounds__(384, 3) draw_binary(const __grid_constant__ Overlay p) {
    draw_tile<Binary>(p);
}

extern "C" __global__ void __launch_bounds__(384, 3) draw_index(const __grid_constant__ Overlay p) {
    draw_tile<Index>(p);
}

extern "C" __global__ void __launch_bounds__(384, 3) draw_held(const __grid_constant__ Overlay p) {
    draw_tile<Held>(p);
}
