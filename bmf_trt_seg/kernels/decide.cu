// From scores to the classes of a tile of pixels, in shared memory.
//
// Pixel (x, y) lies between the scores n - 1 and n of each direction, which is its cell n. Where the four scores of a
// cell have their maximum in one class, so has every mix of them: only along class borders all channels are mixed.

struct OverlayFrame {
    const uint8* source[3];
    uint8* target[3];
    const void* scores;  // of the part that the picture covers
    uint8* map;          // of the picture's size, without padding; written if there are scores, else read
    uint8* scratch;      // contour: a map more; blur: the small planes
    uint32* present;
    int source_strides[3], target_strides[3];
};

struct Overlay {
    OverlayFrame frames[FRAMES];
    const uint8* tables;  // per class 256 × (code, code, code, 1 if it is shown), then 256 × the class that it counts as
    const int *nearest_column, *nearest_row;  // of class indices: the one of each pixel's column and row
    int64 channel_stride, row_stride, column_stride;  // of scores, in elements
    int element, channels, labels, activation;
    int cells_wide, cells_high;  // scores in each direction
    float x_scale, y_scale;      // scores per pixel
    int has_threshold;
    float threshold;
    int has_cells;  // whether the scores under a tile fit into shared memory
    int is_vector;  // whether four neighbouring scores can be read at once
    int quads_shift, tile_high;  // tiles are 4 << quads_shift pixels wide
    int format, style, width, height;
    int drawn_wide, drawn_high;  // with the repeated edge
    int left;                    // sidebyside: where the drawn copy starts
    int is_aligned, is_map_aligned;  // whether four pixels of all planes, of maps, can be read and written at once
    int reach;                   // contour: its thickness
    float alpha, keep;           // keep = 1 - alpha
    uint8 ground[4];             // codes of the colour behind (cutout) or of black (mask)
    uint8 positive, negative, background, has_map;
    // blur: the small planes, one after another in scratch, 8 bits; beside each its rows, blurred, 16 bits
    int small_wide[3], small_high[3], radius[3];
    int64 small_offset[3], rows_offset[3];
    const uint16* kernels[3];
};

enum Activation { SOFTMAX, SIGMOID, NONE };
enum Style { BLEND, CUTOUT, MASK, SIDEBYSIDE, MAP_ONLY, CONTOUR, BLUR };

const int TILE_PIXELS = 8192, TILE_WIDE = 256, TILE_HIGH = 32, MAX_CELLS = 2048;
const uint16 OPEN = 256;  // a cell whose corners are of several classes

struct Float32Scores {
    static __device__ inline float load(const Overlay& p, const void* scores, int64 index) {
        return __ldg((const float*)scores + index);
    }
    static __device__ inline float4 load4(const void* scores, int64 index) {
        return __ldg((const float4*)((const float*)scores + index));
    }
};

struct Float16Scores {
    static __device__ inline float load(const Overlay& p, const void* scores, int64 index) {
        return from_half(__ldg((const uint16*)scores + index));
    }
    static __device__ inline float4 load4(const void* scores, int64 index) {
        uint2 bits = __ldg((const uint2*)((const uint16*)scores + index));
        return make_float4(from_half(bits.x & 0xffff), from_half(bits.x >> 16), from_half(bits.y & 0xffff),
                           from_half(bits.y >> 16));
    }
};

struct AnyScores {
    static __device__ inline float load(const Overlay& p, const void* scores, int64 index) {
        switch (p.element) {
            case FLOAT32: return ((const float*)scores)[index];
            case FLOAT16: return from_half(((const uint16*)scores)[index]);
            case BFLOAT16: return __uint_as_float((uint32)((const uint16*)scores)[index] << 16);
            case INT32: return ((const int*)scores)[index];
            case INT64: return ((const int64*)scores)[index];
            default: return ((const uint8*)scores)[index];
        }
    }
    static __device__ inline float4 load4(const void* scores, int64 index) {
        return make_float4(0.0f, 0.0f, 0.0f, 0.0f);  // never asked for
    }
};

// Sizes of what is decided: 4:2:0 has whole blocks of 2x2 pixels, an odd last row or column counts twice.
__device__ inline int even(int size) {
    return size + (size & 1);
}

__device__ inline const uint8* counts_as(const Overlay& p) {
    return p.tables + 4 * 256;
}

__device__ inline int cell_of(int index, float scale, int size) {
    return clamped((int)floorf((index + 0.5f) * scale - 0.5f) + 1, 0, size);
}

// The probability of the class with the best score.
template <class Scores>
__device__ float certainty_of(const Overlay& p, const void* scores, int x, int y) {
    int64 index = y * p.row_stride + x * p.column_stride;
    float best = Scores::load(p, scores, index);
    for (int channel = 1; channel < p.channels; ++channel)
        best = fmaxf(best, Scores::load(p, scores, index + channel * p.channel_stride));
    if (p.activation == NONE) return best;
    if (p.activation == SIGMOID) return 1.0f / (1.0f + expf(-best));
    float sum = 0.0f;
    for (int channel = 0; channel < p.channels; ++channel)
        sum += expf(Scores::load(p, scores, index + channel * p.channel_stride) - best);
    return 1.0f / sum;
}

// The best channel of four neighbouring scores.
template <class Scores>
__device__ inline uchar4 best_of_four(const Overlay& p, const void* scores, int64 index) {
    float4 best = Scores::load4(scores, index);
    int4 classes = make_int4(0, 0, 0, 0);
#pragma unroll 5
    for (int channel = 1; channel < p.channels; ++channel) {
        float4 score = Scores::load4(scores, index + channel * p.channel_stride);
        if (score.x > best.x) best.x = score.x, classes.x = channel;
        if (score.y > best.y) best.y = score.y, classes.y = channel;
        if (score.z > best.z) best.z = score.z, classes.z = channel;
        if (score.w > best.w) best.w = score.w, classes.w = channel;
    }
    return make_uchar4(classes.x, classes.y, classes.z, classes.w);
}

template <class Scores>
__device__ inline uint8 best_of(const Overlay& p, const void* scores, int64 index) {
    float best = Scores::load(p, scores, index);
    int chosen = 0;
    for (int channel = 1; channel < p.channels; ++channel) {
        float score = Scores::load(p, scores, index + channel * p.channel_stride);
        if (score > best) best = score, chosen = channel;
    }
    return chosen;
}

// The classes of four pixels of a row, from all channels.
template <class Scores>
__device__ void mixed_classes(const Overlay& p, const void* scores, int x, int y, int* classes) {
    Taps ty = taps_at(y, p.y_scale, p.cells_high), tx[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) tx[i] = taps_at(min(x + i, p.width - 1), p.x_scale, p.cells_wide);
    int64 upper = ty.low * p.row_stride, lower = (ty.low + ty.step) * p.row_stride;
    float best[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) classes[i] = 0;
    if (tx[3].low + tx[3].step - tx[0].low > 2) {
        for (int channel = 0; channel < p.channels; ++channel, upper += p.channel_stride, lower += p.channel_stride)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int first = tx[i].low * (int)p.column_stride, second = first + tx[i].step * (int)p.column_stride;
                float score = mixed(
                    mixed(Scores::load(p, scores, upper + first), Scores::load(p, scores, upper + second), tx[i].weight),
                    mixed(Scores::load(p, scores, lower + first), Scores::load(p, scores, lower + second), tx[i].weight),
                    ty.weight);
                if (channel == 0 || score > best[i]) best[i] = score, classes[i] = channel;
            }
        return;
    }
    // all four lie between three columns: each is read once
    float weights[4][3];
    int columns[3];
#pragma unroll
    for (int column = 0; column < 3; ++column) {
        columns[column] = min(tx[0].low + column, p.cells_wide - 1) * (int)p.column_stride;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int offset = tx[i].low - tx[0].low;
            weights[i][column] = column == offset ? 1.0f - tx[i].weight : column == offset + 1 ? tx[i].weight : 0.0f;
        }
    }
#pragma unroll 2
    for (int channel = 0; channel < p.channels; ++channel) {
        float score[3];
#pragma unroll
        for (int column = 0; column < 3; ++column)
            score[column] = mixed(Scores::load(p, scores, upper + columns[column]),
                                  Scores::load(p, scores, lower + columns[column]), ty.weight);
        upper += p.channel_stride, lower += p.channel_stride;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float mix = weights[i][0] * score[0] + weights[i][1] * score[1] + weights[i][2] * score[2];
            if (channel == 0 || mix > best[i]) best[i] = mix, classes[i] = channel;
        }
    }
}

// Each of these fills the tile's classes; pixels beyond the picture get the nearest one's.
template <class Scores>
struct Multiclass {
    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, int left, int top, uint8* classes) {
        __shared__ __align__(4) uint8 best[MAX_CELLS];  // class of each score
        __shared__ uint16 settled[MAX_CELLS];
        __shared__ float certainty[MAX_CELLS];
        __shared__ uint16 open[TILE_PIXELS / 4];  // fours of pixels that need all channels
        __shared__ int open_count;
        __shared__ uint16 column_cell[TILE_WIDE], row_cell[TILE_HIGH];
        const void* scores = frame.scores;
        int wide = 4 << p.quads_shift, quads = p.tile_high << p.quads_shift;
        int right = min(left + wide, p.width) - 1, bottom = min(top + p.tile_high, p.height) - 1;
        int first_cell_x = cell_of(left, p.x_scale, p.cells_wide), first_cell_y = cell_of(top, p.y_scale, p.cells_high);
        int last_cell_x = cell_of(right, p.x_scale, p.cells_wide), last_cell_y = cell_of(bottom, p.y_scale, p.cells_high);
        int first_x = max(first_cell_x - 1, 0), last_x = min(last_cell_x, p.cells_wide - 1);
        int first_y = max(first_cell_y - 1, 0), last_y = min(last_cell_y, p.cells_high - 1);
        if (p.is_vector) first_x &= ~3, last_x |= 3;
        int best_wide = last_x - first_x + 1, best_high = last_y - first_y + 1;
        int settled_wide = last_cell_x - first_cell_x + 1, settled_high = last_cell_y - first_cell_y + 1;

        if (thread_index() == 0) open_count = 0;
        if (p.has_cells) {
            for (int i = thread_index(); i < wide; i += thread_count())
                column_cell[i] = cell_of(min(left + i, p.width - 1), p.x_scale, p.cells_wide) - first_cell_x;
            for (int i = thread_index(); i < p.tile_high; i += thread_count())
                row_cell[i] = cell_of(min(top + i, p.height - 1), p.y_scale, p.cells_high) - first_cell_y;
            if (p.is_vector) {
                int best_quads = best_wide / 4;
                for (int i = thread_index(); i < best_quads * best_high; i += thread_count()) {
                    int row = i / best_quads, column = (i - row * best_quads) * 4;
                    *(uchar4*)(best + row * best_wide + column) =
                        best_of_four<Scores>(p, scores, (first_y + row) * p.row_stride + first_x + column);
                }
            } else {
                for (int i = thread_index(); i < best_wide * best_high; i += thread_count()) {
                    int row = i / best_wide, column = i - row * best_wide;
                    best[i] = best_of<Scores>(
                        p, scores, (first_y + row) * p.row_stride + (first_x + column) * p.column_stride);
                }
            }
            if (p.has_threshold)
                for (int i = thread_index(); i < best_wide * best_high; i += thread_count())
                    certainty[i] = certainty_of<Scores>(p, scores, first_x + i % best_wide, first_y + i / best_wide);
            __syncthreads();
            for (int i = thread_index(); i < settled_wide * settled_high; i += thread_count()) {
                int row = i / settled_wide, y = first_cell_y + row, x = first_cell_x + i - row * settled_wide;
                const uint8* upper = best + (max(y - 1, 0) - first_y) * best_wide - first_x;
                const uint8* lower = best + (min(y, p.cells_high - 1) - first_y) * best_wide - first_x;
                int x0 = max(x - 1, 0), x1 = min(x, p.cells_wide - 1), corner = upper[x0];
                bool is_settled = corner == upper[x1] && corner == lower[x0] && corner == lower[x1];
                settled[i] = is_settled ? __ldg(counts_as(p) + corner) : OPEN;
            }
        }
        __syncthreads();
        for (int i = thread_index(); i < quads; i += thread_count()) {
            int row = i >> p.quads_shift, column = (i & ((1 << p.quads_shift) - 1)) * 4;
            bool is_open = !p.has_cells;
            if (p.has_cells) {
                const uint16* cells = settled + row_cell[row] * settled_wide;
                uint32 first = cells[column_cell[column]], second = cells[column_cell[column + 1]];
                uint32 third = cells[column_cell[column + 2]], fourth = cells[column_cell[column + 3]];
                is_open = (first | second | third | fourth) & OPEN;
                if (!is_open) *(uchar4*)(classes + 4 * i) = make_uchar4(first, second, third, fourth);
            }
            if (is_open && left + column < p.width && top + row < even(p.height))
                open[atomicAdd(&open_count, 1)] = i;
        }
        __syncthreads();
        for (int i = thread_index(); i < open_count; i += thread_count()) {
            int quad = open[i], row = quad >> p.quads_shift, column = (quad & ((1 << p.quads_shift) - 1)) * 4;
            int found[4];
            mixed_classes<Scores>(p, scores, min(left + column, p.width - 1), min(top + row, p.height - 1), found);
            const uint8* table = counts_as(p);
            *(uchar4*)(classes + 4 * quad) = make_uchar4(__ldg(table + found[0]), __ldg(table + found[1]),
                                                         __ldg(table + found[2]), __ldg(table + found[3]));
        }
        if (!p.has_threshold) return;
        __syncthreads();
        for (int i = thread_index(); i < 4 * quads; i += thread_count()) {
            int row = i >> (p.quads_shift + 2), column = i & (wide - 1);
            if (left + column >= even(p.width) || top + row >= even(p.height)) continue;
            Taps tx = taps_at(min(left + column, p.width - 1), p.x_scale, p.cells_wide);
            Taps ty = taps_at(min(top + row, p.height - 1), p.y_scale, p.cells_high);
            float corners[2][2];
            for (int y = 0; y < 2; ++y)
                for (int x = 0; x < 2; ++x) {
                    int at_x = tx.low + x * tx.step, at_y = ty.low + y * ty.step;
                    // taps of a border may lie one beyond what was kept: their weight is 0 or 1 there
                    int kept_x = clamped(at_x, first_x, last_x), kept_y = clamped(at_y, first_y, last_y);
                    corners[y][x] = p.has_cells ? certainty[(kept_y - first_y) * best_wide + kept_x - first_x]
                                                : certainty_of<Scores>(p, scores, at_x, at_y);
                }
            float certain = mixed(mixed(corners[0][0], corners[0][1], tx.weight),
                                  mixed(corners[1][0], corners[1][1], tx.weight), ty.weight);
            if (certain < p.threshold) classes[i] = p.background;
        }
    }
};

struct Binary {
    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, int left, int top, uint8* classes) {
        int shift = p.quads_shift + 2;
        for (int i = thread_index(); i < p.tile_high << shift; i += thread_count()) {
            int x = left + (i & ((1 << shift) - 1)), y = top + (i >> shift);
            if (x >= even(p.width) || y >= even(p.height)) continue;
            Taps tx = taps_at(min(x, p.width - 1), p.x_scale, p.cells_wide);
            Taps ty = taps_at(min(y, p.height - 1), p.y_scale, p.cells_high);
            int64 upper = ty.low * p.row_stride, lower = (ty.low + ty.step) * p.row_stride;
            int64 first = tx.low * p.column_stride, second = (tx.low + tx.step) * p.column_stride;
            float score = mixed(mixed(AnyScores::load(p, frame.scores, upper + first),
                                      AnyScores::load(p, frame.scores, upper + second), tx.weight),
                                mixed(AnyScores::load(p, frame.scores, lower + first),
                                      AnyScores::load(p, frame.scores, lower + second), tx.weight),
                                ty.weight);
            classes[i] = score >= p.threshold ? p.positive : p.negative;
        }
    }
};

struct Index {
    static __device__ inline int class_at(const Overlay& p, const void* scores, int64 index) {
        if (p.element == INT64 || p.element == INT32) {
            int64 found = p.element == INT64 ? ((const int64*)scores)[index] : ((const int*)scores)[index];
            return found >= 0 && found < p.labels ? (int)found : 255;
        }
        float found = AnyScores::load(p, scores, index);
        return found >= 0.0f && found < p.labels ? (int)found : 255;
    }

    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, int left, int top, uint8* classes) {
        int shift = p.quads_shift + 2;
        for (int i = thread_index(); i < p.tile_high << shift; i += thread_count()) {
            int x = left + (i & ((1 << shift) - 1)), y = top + (i >> shift);
            if (x >= even(p.width) || y >= even(p.height)) continue;
            int column = __ldg(p.nearest_column + min(x, p.width - 1));
            int row = __ldg(p.nearest_row + min(y, p.height - 1));
            int found = class_at(p, frame.scores, row * p.row_stride + column * p.column_stride);
            classes[i] = __ldg(counts_as(p) + found);
        }
    }
};

// A map that is there already.
struct Held {
    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, int left, int top, uint8* classes) {
        int quads_wide = 1 << p.quads_shift;
        for (int i = thread_index(); i < p.tile_high << p.quads_shift; i += thread_count()) {
            int x = left + (i & (quads_wide - 1)) * 4, y = top + (i >> p.quads_shift);
            if (x >= even(p.width) || y >= even(p.height)) continue;
            const uint8* row = frame.map + (int64)min(y, p.height - 1) * p.width;
            if (p.is_map_aligned) {  // which it is only if rows are made of whole fours
                *(uchar4*)(classes + 4 * i) = __ldg((const uchar4*)(row + x));
                continue;
            }
            int last = p.width - 1;
            *(uchar4*)(classes + 4 * i) =
                make_uchar4(row[min(x, last)], row[min(x + 1, last)], row[min(x + 2, last)], row[min(x + 3, last)]);
        }
    }
};
