// Drawing classes on the planes of pictures: every block decides and draws its tile.

// Of a block of 4x2 pixels: each pixel's ink, `0x01zzyyxx` with the codes of the colour, or 0 where nothing is to be
// drawn; and the inks of the two chroma samples.
struct Unit {
    uint32 inks[2][4];
    uint32 chroma_inks[2];
};

// Beside the codes of a class's ink, in a tile's table: whether its pixels are drawn on, and whether it is shown (of
// cutouts, what is not shown is drawn on).
const uint32 DRAWN = 1u << 24, SHOWN = 1u << 25;

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

// Whether a chroma sample's four pixels have one key; a word has the keys of four pixels of a row.
__device__ inline bool is_one(uint32 upper, uint32 lower, int sample) {
    uint32 pair = upper >> 16 * sample & 0xffff;
    return pair == (lower >> 16 * sample & 0xffff) && (pair & 255) == pair >> 8;
}

// Set the bit of a shown class, without a hurry of atomics.
__device__ inline void note_class(uint32* present, int index) {
    uint32 bit = 1u << (index & 31);
    if (!(*(volatile uint32*)(present + (index >> 5)) & bit)) atomicOr(present + (index >> 5), bit);
}

// Have the picture under a tile on its way from memory while its classes are decided: lines of 128 bytes.
__device__ inline void prefetch_tile(const Overlay& p, const OverlayFrame& frame, const Tile& tile) {
    int chroma_high = p.format == RGB24 ? 0 : p.tile_high / 2, planes = p.format == YUV420P ? 3 : 2;
    for (int i = thread_index(); i < p.tile_high + (planes - 1) * chroma_high; i += thread_count()) {
        int plane = i < p.tile_high ? 0 : i < p.tile_high + chroma_high ? 1 : 2, halving = plane > 0;
        int row = (tile.top >> halving) + i - (plane ? p.tile_high + (plane - 1) * chroma_high : 0);
        if (row > (p.height - 1) >> halving) continue;
        int bytes = p.format == RGB24 ? 3 : p.format == YUV420P && plane ? 1 : 1 + halving;
        int right = min(tile.left + (4 << p.quads_shift), p.width);
        int start = (tile.left >> halving) * bytes, end = (right >> halving) * bytes;
        const uint8* line = frame.source[plane] + (int64)row * frame.source_strides[plane];
        for (int at = start; at < end; at += 128) prefetch(line + at);
    }
}

// What becomes of samples in an ink: round(keep * before + add), of each component.
struct Paint {
    float keep, add[3];
};

// One byte of a word as a number: as the last digits of 2^23.
__device__ inline float byte_of(uint32 word, int index) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 | index)) - 8388608.0f;
}

__device__ inline Paint paint_of(const Overlay& p, uint32 ink) {
    float alpha = ink ? p.alpha : 0.0f;
    return {ink ? p.keep : 1.0f, {alpha * byte_of(ink, 0), alpha * byte_of(ink, 1), alpha * byte_of(ink, 2)}};
}

// A code, in the lowest byte.
__device__ inline uint32 painted(uint32 word, int index, float keep, float add) {
    return __float_as_uint(keep * byte_of(word, index) + add + 8388608.0f);
}

// Four codes: the first two in one paint, the others in another; each adds its own to even and to odd ones.
__device__ inline uint32 painted_word(uint32 word, float keep, float even, float odd, float other_keep,
                                      float other_even, float other_odd) {
    return packed(painted(word, 0, keep, even), painted(word, 1, keep, odd), painted(word, 2, other_keep, other_even),
                  painted(word, 3, other_keep, other_odd));
}

__device__ inline uint32 painted_word(uint32 word, float keep, float even, float odd) {
    return painted_word(word, keep, even, odd, keep, even, odd);
}

__device__ inline uint4 filled(uint8 code) {
    uint32 word = code * 0x01010101u;
    return make_uint4(word, word, word, word);
}

// Two rows of 16 pixels within the picture, of 4:2:0 in aligned rows, where each four by two are of one class. The
// others are copied, and counted with their places in `mixed`.
struct WideUnit {
    uint32 luma[2][4], chroma[4];  // chroma: pairs, or eight of each component

    __device__ inline void load(const Overlay& p, const OverlayFrame& frame, int x, int y) {
        uint4 rows[3];
        if (p.style == MASK) {
            uint32 pair = p.ground[1] | p.ground[2] << 8;
            rows[0] = rows[1] = filled(p.ground[0]);
            rows[2] = filled(p.ground[1]);
            if (p.format == NV12)
                rows[2].x = rows[2].y = rows[2].z = rows[2].w = pair | pair << 16;
            else
                rows[2].z = rows[2].w = filled(p.ground[2]).x;
        } else {
            const uint8* row = frame.source[0] + (int64)y * frame.source_strides[0] + x;
            rows[0] = __ldg((const uint4*)row), rows[1] = __ldg((const uint4*)(row + frame.source_strides[0]));
            row = frame.source[1] + (int64)(y / 2) * frame.source_strides[1];
            if (p.format == NV12) {
                rows[2] = __ldg((const uint4*)(row + x));
            } else {
                uint2 cb = __ldg((const uint2*)(row + x / 2));
                row = frame.source[2] + (int64)(y / 2) * frame.source_strides[2];
                uint2 cr = __ldg((const uint2*)(row + x / 2));
                rows[2] = make_uint4(cb.x, cb.y, cr.x, cr.y);
            }
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            uint32* words = i < 2 ? luma[i] : chroma;
            words[0] = rows[i].x, words[1] = rows[i].y, words[2] = rows[i].z, words[3] = rows[i].w;
        }
    }

    // `left`: where the target's copy starts.
    __device__ inline void store(const Overlay& p, const OverlayFrame& frame, int x, int y, int left) const {
        uint8* row = frame.target[0] + (int64)y * frame.target_strides[0] + left + x;
        *(uint4*)row = make_uint4(luma[0][0], luma[0][1], luma[0][2], luma[0][3]);
        *(uint4*)(row + frame.target_strides[0]) = make_uint4(luma[1][0], luma[1][1], luma[1][2], luma[1][3]);
        row = frame.target[1] + (int64)(y / 2) * frame.target_strides[1];
        if (p.format == NV12) {
            *(uint4*)(row + left + x) = make_uint4(chroma[0], chroma[1], chroma[2], chroma[3]);
        } else {
            *(uint2*)(row + (left + x) / 2) = make_uint2(chroma[0], chroma[1]);
            row = frame.target[2] + (int64)(y / 2) * frame.target_strides[2];
            *(uint2*)(row + (left + x) / 2) = make_uint2(chroma[2], chroma[3]);
        }
    }

    // Four by two pixels and, of pairs, their chroma.
    __device__ inline void paint(const Overlay& p, int four, const Paint& paint) {
        luma[0][four] = painted_word(luma[0][four], paint.keep, paint.add[0], paint.add[0]);
        luma[1][four] = painted_word(luma[1][four], paint.keep, paint.add[0], paint.add[0]);
        if (p.format == NV12) chroma[four] = painted_word(chroma[four], paint.keep, paint.add[1], paint.add[2]);
    }

    // Of eight by two pixels, the chroma that is in planes of its own.
    __device__ inline void paint_planes(int eight, const Paint& first, const Paint& second) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            uint32& word = chroma[2 * part + eight];
            word = painted_word(word, first.keep, first.add[1 + part], first.add[1 + part], second.keep,
                                second.add[1 + part], second.add[1 + part]);
        }
    }
};

// Two rows of 16 pixels, but for those fours of which not all are of one class: their places go to the list.
__device__ inline void draw_wide(const Overlay& p, const OverlayFrame& frame, const Tile& tile, int x, int y, int place,
                                 const uint32* inks, uint32* present) {
    const uint4 upper = *(const uint4*)(tile.classes + place);
    const uint4 lower = *(const uint4*)(tile.classes + place + (4 << p.quads_shift));
    if (p.has_map) {
        uint8* map = frame.map + (int64)y * p.width + x;
        *(uint4*)map = upper, *(uint4*)(map + p.width) = lower;
    }
    const uint32 fours[2][4] = {{upper.x, upper.y, upper.z, upper.w}, {lower.x, lower.y, lower.z, lower.w}};
    WideUnit unit;
    if (p.style != MAP_ONLY) unit.load(p, frame, x, y);
    if (p.style == SIDEBYSIDE) unit.store(p, frame, x, y, 0);
    uint32 found[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        uint32 four = fours[0][i];
        bool is_one = four == fours[1][i] && four == __byte_perm(four, 0, 0);
        found[i] = is_one ? inks[four & 255] : 0;
        if (!is_one) tile.list[atomicAdd(tile.listed + 1, 1)] = (place >> 2) + i;
        if (frame.present && found[i] & SHOWN) note_class(present, four & 255);
        if (!(found[i] & DRAWN)) found[i] = 0;
    }
    if (p.style == MAP_ONLY) return;
    if (found[0] | found[1] | found[2] | found[3]) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
            Paint first = paint_of(p, found[i]), second = paint_of(p, found[i + 1]);
            unit.paint(p, i, first), unit.paint(p, i + 1, second);
            if (p.format != NV12) unit.paint_planes(i / 2, first, second);
        }
    }
    unit.store(p, frame, x, y, p.left);
}

// Four by two pixels of any classes, anywhere.
__device__ inline void draw_four(const Overlay& p, const OverlayFrame& frame, const Tile& tile, int x, int y, int place,
                                 const uint32* inks, uint32* present) {
    Unit unit;
    uint32 keys[2] = {0, 0};  // chroma is drawn where all four pixels are, and belong to one class
#pragma unroll
    for (int line = 0; line < 2; ++line) {
        uchar4 pixels = *(const uchar4*)(tile.classes + place + (line << p.quads_shift) * 4);
        uint8 found[4] = {pixels.x, pixels.y, pixels.z, pixels.w};
        bool is_inside = y + line < p.height;
        if (p.has_map && is_inside)
            store_samples<4, 1>(frame.map + (int64)(y + line) * p.width, x, p.width, p.is_map_aligned, found);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            uint32 ink = inks[found[j]];
            if (frame.present && ink & SHOWN && is_inside && x + j < p.width) note_class(present, found[j]);
            unit.inks[line][j] = ink & DRAWN ? ink : 0;
            keys[line] |= (p.style == CUTOUT ? (ink & DRAWN) != 0 : (uint32)found[j]) << 8 * j;
        }
    }
    if (p.style == MAP_ONLY) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) unit.chroma_inks[i] = is_one(keys[0], keys[1], i) ? unit.inks[0][2 * i] : 0;
    draw_unit(p, frame, x, y, unit);
}

template <class Decide>
__device__ inline void draw_tile(const Overlay& p) {
    __shared__ __align__(16) uint8 classes[TILE_PIXELS];
    __shared__ uint16 list[TILE_PIXELS / 4];
    __shared__ int listed[2];  // by `decide`; by `draw_wide`
    __shared__ uint32 inks[256], present[8];
    const OverlayFrame& frame = p.frames[blockIdx.z];
    int wide = 4 << p.quads_shift;
    const Tile tile = {(int)blockIdx.x * wide, (int)blockIdx.y * p.tile_high, classes, list, listed};
    Decide::begin(p, tile);
    if (p.style != MASK && p.style != MAP_ONLY) prefetch_tile(p, frame, tile);
    uint32 ground = p.ground[0] | p.ground[1] << 8 | p.ground[2] << 16 | DRAWN;
    for (int i = thread_index(); i < 256; i += thread_count()) {
        uint32 ink = __ldg((const uint32*)p.tables + i), shown = ink >> 24 ? SHOWN : 0;
        inks[i] = p.style != CUTOUT ? (shown ? (ink & 0xffffff) | SHOWN | DRAWN : 0) : shown ? SHOWN : ground;
    }
    for (int i = thread_index(); i < 8; i += thread_count()) present[i] = 0;
    for (int i = thread_index(); i < 2; i += thread_count()) listed[i] = 0;
    __syncthreads();
    Decide::decide(p, frame, tile);
    __syncthreads();

    int fours = (p.tile_high / 2) << p.quads_shift;
    if (p.is_wide)
        for (int i = thread_index(); i < fours / 4; i += thread_count()) {
            int row = i >> (p.quads_shift - 2) << 1, column = (i & ((1 << (p.quads_shift - 2)) - 1)) * 16;
            int x = tile.left + column, y = tile.top + row, place = (row << p.quads_shift) * 4 + column;
            if (x + 16 <= p.width && y + 2 <= p.height)
                draw_wide(p, frame, tile, x, y, place, inks, present);
            else
                for (int j = 0; j < 4; ++j) list[atomicAdd(listed + 1, 1)] = (place >> 2) + j;
        }
    __syncthreads();
    if (p.is_wide) fours = listed[1];
    for (int i = thread_index(); i < fours; i += thread_count()) {
        int quads_wide = 1 << p.quads_shift;
        int four = p.is_wide ? list[i] : (i >> p.quads_shift << (p.quads_shift + 1)) + (i & (quads_wide - 1));
        int x = tile.left + (four & (quads_wide - 1)) * 4, y = tile.top + (four >> p.quads_shift);
        if (x < p.width && y < p.height) draw_four(p, frame, tile, x, y, 4 * four, inks, present);
    }
    if (!frame.present) return;
    __syncthreads();
    for (int i = thread_index(); i < 8; i += thread_count())
        if (present[i]) atomicOr(frame.present + i, present[i]);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) draw_float32(const __grid_constant__ Overlay p) {
    draw_tile<Multiclass<Float32Scores>>(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) draw_float16(const __grid_constant__ Overlay p) {
    draw_tile<Multiclass<Float16Scores>>(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) draw_any(const __grid_constant__ Overlay p) {
    draw_tile<Multiclass<AnyScores>>(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) draw_binary(const __grid_constant__ Overlay p) {
    draw_tile<Binary>(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) draw_index(const __grid_constant__ Overlay p) {
    draw_tile<Index>(p);
}

extern "C" __global__ void __launch_bounds__(BLOCK_THREADS, BLOCKS) draw_held(const __grid_constant__ Overlay p) {
    draw_tile<Held>(p);
}
