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
    int is_wide;                     // the same of 16 pixels of 4:2:0 and, if they are written, of maps
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

// Knobs of the compiler; overlay_cuda.py has the first five of them as well. Each block decides and draws one tile:
// a few blocks on a multiprocessor, so that while some wait for scores, others draw.
const int BLOCK_THREADS = 384, TILE_PIXELS = 9216, TILE_WIDE = 128, TILE_HIGH = 72, MAX_CELLS = 2048;
const int BLOCKS = 3;      // of a multiprocessor at once, at least: bounds the registers
const int IN_FLIGHT = 10;  // channels of scores that a thread asks for before it looks at the first one

const uint16 OPEN = 256;      // a cell whose corners are of several classes
const float LOWEST = -1e38f;  // takes the place of what is lower: 0 times infinity is no number

// What a block works on.
struct Tile {
    int left, top;
    uint8* classes;  // of its pixels, row by row
    uint16* list;    // of fours of pixels: those of which all channels have to be looked at
    int* listed;     // how many there are
};

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
#pragma unroll 1
    for (int channel = 1; channel < p.channels; ++channel)
        best = fmaxf(best, Scores::load(p, scores, index + channel * p.channel_stride));
    if (p.activation == NONE) return best;
    if (p.activation == SIGMOID) return 1.0f / (1.0f + expf(-best));
    float sum = 0.0f;
#pragma unroll 1
    for (int channel = 0; channel < p.channels; ++channel)
        sum += expf(Scores::load(p, scores, index + channel * p.channel_stride) - best);
    return 1.0f / sum;
}

template <class Scores>
__device__ inline float bounded(const Overlay& p, const void* scores, int64 index) {
    return fmaxf(Scores::load(p, scores, index), LOWEST);
}

// The best channel of scores, and how good the second best is.
struct Best {
    float score, second;
    int channel;

    __device__ inline void start(float first) {
        score = first, second = LOWEST, channel = 0;
    }
    __device__ inline void meet(float next, int of) {
        second = fmaxf(second, fminf(score, next));
        if (next > score) score = next, channel = of;
    }
};

// Of four neighbouring scores.
template <class Scores>
__device__ inline void best_of_four(const Overlay& p, const void* scores, int64 index, uchar4* classes,
                                    float4* second) {
    Best best[4];
    float4 first = Scores::load4(scores, index);
    best[0].start(first.x), best[1].start(first.y), best[2].start(first.z), best[3].start(first.w);
    int channel = 1;
    for (; channel + IN_FLIGHT <= p.channels; channel += IN_FLIGHT) {
        float4 next[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) next[i] = Scores::load4(scores, index += p.channel_stride);
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) {
            best[0].meet(next[i].x, channel + i), best[1].meet(next[i].y, channel + i);
            best[2].meet(next[i].z, channel + i), best[3].meet(next[i].w, channel + i);
        }
    }
#pragma unroll 1
    for (; channel < p.channels; ++channel) {
        float4 next = Scores::load4(scores, index += p.channel_stride);
        best[0].meet(next.x, channel), best[1].meet(next.y, channel);
        best[2].meet(next.z, channel), best[3].meet(next.w, channel);
    }
    *classes = make_uchar4(best[0].channel, best[1].channel, best[2].channel, best[3].channel);
    *second = make_float4(best[0].second, best[1].second, best[2].second, best[3].second);
}

template <class Scores>
__device__ inline Best best_of(const Overlay& p, const void* scores, int64 index) {
    Best best;
    best.start(Scores::load(p, scores, index));
#pragma unroll 4
    for (int channel = 1; channel < p.channels; ++channel)
        best.meet(Scores::load(p, scores, index += p.channel_stride), channel);
    return best;
}

// How a pixel lies between the four scores of its cell.
struct Corners {
    int at[4];  // the scores' places: upper left, upper right, lower left, lower right
    float x_weight, y_weight;

    // Rounded the same way wherever it is used: so larger scores never have a smaller mix.
    __device__ inline float mix(const float* score) const {
        return between(between(score[0], score[1], x_weight), between(score[2], score[3], x_weight), y_weight);
    }
    static __device__ inline float between(float first, float second, float weight) {
        return __fmaf_rn(second, weight, __fmul_rn(first, 1.0f - weight));
    }

    template <class Scores>
    __device__ inline float mix_of(const Overlay& p, const void* scores, int channel) const {
        int64 start = channel * p.channel_stride;
        float score[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) score[i] = bounded<Scores>(p, scores, start + at[i]);
        return mix(score);
    }
};

__device__ inline float weight_of(int index, float scale) {
    float position = (index + 0.5f) * scale - 0.5f;
    return position - floorf(position);
}

// The class of a pixel, if it can be told from those channels that are best at a corner; else -1.
//
// All others are at each corner at most the second best there, so their mix is at most the mix of these.
template <class Scores>
__device__ inline int class_of_best(const Overlay& p, const void* scores, const Corners& corners, const int* classes,
                                    const float* seconds) {
    int first = classes[0], other = classes[1] != first ? classes[1] : classes[2] != first ? classes[2] : classes[3];
    int found = first;
    float most = corners.mix_of<Scores>(p, scores, first);
    float mix = corners.mix_of<Scores>(p, scores, other);
    if (mix > most || (mix == most && other < found)) most = mix, found = other;
#pragma unroll
    for (int i = 2; i < 4; ++i)
        if (classes[i] != first && classes[i] != other) {
            mix = corners.mix_of<Scores>(p, scores, classes[i]);
            if (mix > most || (mix == most && classes[i] < found)) most = mix, found = classes[i];
        }
    return most > corners.mix(seconds) ? found : -1;  // equal: one of the others may come first
}

// The best class of a pixel, from all channels.
template <class Scores>
__device__ inline uint32 mixed_class(const Overlay& p, const void* scores, const Taps& tx, const Taps& ty) {
    int64 upper = ty.low * p.row_stride + tx.low * p.column_stride, lower = upper + ty.step * p.row_stride;
    int64 beside = tx.step * p.column_stride;
    float best = 0.0f;
    uint32 found = 0;
#pragma unroll 1
    for (int channel = 0; channel < p.channels; ++channel) {
        float mix = mixed(
            mixed(bounded<Scores>(p, scores, upper), bounded<Scores>(p, scores, upper + beside), tx.weight),
            mixed(bounded<Scores>(p, scores, lower), bounded<Scores>(p, scores, lower + beside), tx.weight), ty.weight);
        if (channel == 0 || mix > best) best = mix, found = channel;
        upper += p.channel_stride, lower += p.channel_stride;
    }
    return found;
}

// The best classes of four pixels of a row, from all channels; the first one in the lowest byte.
template <class Scores>
__device__ inline uint32 mixed_classes(const Overlay& p, const void* scores, int x, int y) {
    Taps ty = taps_at(y, p.y_scale, p.cells_high), first = taps_at(x, p.x_scale, p.cells_wide);
    Taps last = taps_at(min(x + 3, p.width - 1), p.x_scale, p.cells_wide);
    if (last.low + last.step - first.low > 2) {
        uint32 found = 0;
#pragma unroll 1
        for (int i = 0; i < 4; ++i) {
            Taps tx = taps_at(min(x + i, p.width - 1), p.x_scale, p.cells_wide);
            found |= mixed_class<Scores>(p, scores, tx, ty) << 8 * i;
        }
        return found;
    }
    // all four lie between three columns: each is read once
    float weights[4][3], best[4];
    int columns[3], classes[4];
#pragma unroll
    for (int column = 0; column < 3; ++column)
        columns[column] = min(first.low + column, p.cells_wide - 1) * (int)p.column_stride;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        Taps tx = taps_at(min(x + i, p.width - 1), p.x_scale, p.cells_wide);
        bool is_further = tx.low > first.low;
        weights[i][0] = is_further ? 0.0f : 1.0f - tx.weight;
        weights[i][1] = is_further ? 1.0f - tx.weight : tx.weight;
        weights[i][2] = is_further ? tx.weight : 0.0f;
        classes[i] = 0;
    }
    int64 upper = ty.low * p.row_stride, lower = upper + ty.step * p.row_stride;
#pragma unroll 2
    for (int channel = 0; channel < p.channels; ++channel) {
        float score[3];
#pragma unroll
        for (int column = 0; column < 3; ++column)
            score[column] = mixed(bounded<Scores>(p, scores, upper + columns[column]),
                                  bounded<Scores>(p, scores, lower + columns[column]), ty.weight);
        upper += p.channel_stride, lower += p.channel_stride;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float mix = weights[i][0] * score[0] + weights[i][1] * score[1] + weights[i][2] * score[2];
            if (channel == 0 || mix > best[i]) best[i] = mix, classes[i] = channel;
        }
    }
    return packed(classes[0], classes[1], classes[2], classes[3]);
}

// i / size for what a block counts, without the dozens of instructions that whole numbers take.
__device__ inline int quotient(int i, float one_by_size) {
    return (int)((i + 0.5f) * one_by_size);
}

// Which scores and cells lie under a tile. In shared memory, lest it fills the registers of all threads.
struct Cells {
    int first_cell_x, first_cell_y, settled_wide, settled_high;
    int first_x, first_y, best_wide, best_high;  // scores

    __device__ inline void find(const Overlay& p, const Tile& tile) {
        int right = min(tile.left + (4 << p.quads_shift), p.width) - 1;
        int bottom = min(tile.top + p.tile_high, p.height) - 1;
        first_cell_x = cell_of(tile.left, p.x_scale, p.cells_wide);
        first_cell_y = cell_of(tile.top, p.y_scale, p.cells_high);
        int last_cell_x = cell_of(right, p.x_scale, p.cells_wide);
        int last_cell_y = cell_of(bottom, p.y_scale, p.cells_high);
        settled_wide = last_cell_x - first_cell_x + 1, settled_high = last_cell_y - first_cell_y + 1;
        first_x = max(first_cell_x - 1, 0), first_y = max(first_cell_y - 1, 0);
        int last_x = min(last_cell_x, p.cells_wide - 1), last_y = min(last_cell_y, p.cells_high - 1);
        if (p.is_vector) first_x &= ~3, last_x |= 3;
        best_wide = last_x - first_x + 1, best_high = last_y - first_y + 1;
    }
};

// Each of these fills the tile's classes; pixels beyond the picture get the nearest one's.
template <class Scores>
struct Multiclass {
    struct Kept {
        Cells cells;
        __align__(16) float second[MAX_CELLS];  // the second best of each score; later, how certain the best one is
        __align__(8) uint16 column_cell[TILE_WIDE];
        uint16 row_cell[TILE_HIGH], row_start[TILE_HIGH];  // the latter in `settled`
        uint16 settled[MAX_CELLS];                         // the class that a cell's pixels count as, or OPEN
        __align__(4) uint8 best[MAX_CELLS];                // class of each score
        uint16 open[TILE_PIXELS];                          // pixels of open cells
        int open_count;
        uint32 listed[TILE_PIXELS / 128];  // a bit for each four of pixels
    };

    static __device__ inline Kept& shared() {
        __shared__ Kept kept;
        return kept;
    }

    static __device__ inline void begin(const Overlay& p, const Tile& tile) {
        Kept& kept = shared();
        if (!p.has_cells) return;
        if (thread_index() == 0) kept.cells.find(p, tile), kept.open_count = 0;
        for (int i = thread_index(); i < TILE_PIXELS / 128; i += thread_count()) kept.listed[i] = 0;
    }

    static __device__ inline void decide(const Overlay& p, const OverlayFrame& frame, const Tile& tile) {
        Kept& kept = shared();
        if (p.has_cells) {
            rank(p, frame.scores, kept);
            find_cells(p, tile, kept);
            __syncthreads();
            settle(p, kept);
        }
        __syncthreads();
        spread(p, tile, kept);
        __syncthreads();
        if (p.has_cells) {
            decide_open(p, frame.scores, tile, kept);
            __syncthreads();
        }
        decide_unsure(p, frame.scores, tile);
        if (p.has_threshold) {
            if (p.has_cells) find_certainty(p, frame.scores, kept);
            __syncthreads();
            apply_threshold(p, frame.scores, tile, kept);
        }
    }

    // Find the best and the second best of all scores under the tile.
    static __device__ inline void rank(const Overlay& p, const void* scores, Kept& kept) {
        int wide = kept.cells.best_wide, first_x = kept.cells.first_x, first_y = kept.cells.first_y;
        int count = wide * kept.cells.best_high;
        if (p.is_vector) {
            float one_by = 4.0f / wide;
            for (int i = thread_index(); i < count / 4; i += thread_count()) {
                int row = quotient(i, one_by), x = first_x + 4 * i - row * wide;
                best_of_four<Scores>(p, scores, (first_y + row) * p.row_stride + x, (uchar4*)kept.best + i,
                                     (float4*)kept.second + i);
            }
            return;
        }
        float one_by = 1.0f / wide;
        for (int i = thread_index(); i < count; i += thread_count()) {
            int row = quotient(i, one_by), x = first_x + i - row * wide;
            Best one = best_of<Scores>(p, scores, (first_y + row) * p.row_stride + x * p.column_stride);
            kept.best[i] = one.channel, kept.second[i] = one.second;
        }
    }

    // In which cells the tile's columns and rows are.
    static __device__ inline void find_cells(const Overlay& p, const Tile& tile, Kept& kept) {
        for (int i = thread_index(); i < 4 << p.quads_shift; i += thread_count())
            kept.column_cell[i] =
                cell_of(min(tile.left + i, p.width - 1), p.x_scale, p.cells_wide) - kept.cells.first_cell_x;
        for (int i = thread_index(); i < p.tile_high; i += thread_count()) {
            int cell = cell_of(min(tile.top + i, p.height - 1), p.y_scale, p.cells_high) - kept.cells.first_cell_y;
            kept.row_cell[i] = cell, kept.row_start[i] = cell * kept.cells.settled_wide;
        }
    }

    static __device__ inline void settle(const Overlay& p, Kept& kept) {
        const Cells& cells = kept.cells;
        int wide = cells.settled_wide, count = wide * cells.settled_high;
        float one_by = 1.0f / wide;
        for (int i = thread_index(); i < count; i += thread_count()) {
            int row = quotient(i, one_by), y = cells.first_cell_y + row, x = cells.first_cell_x + i - row * wide;
            int y0 = max(y - 1, 0) - cells.first_y, y1 = min(y, p.cells_high - 1) - cells.first_y;
            const uint8* upper = kept.best + y0 * cells.best_wide - cells.first_x;
            const uint8* lower = kept.best + y1 * cells.best_wide - cells.first_x;
            int x0 = max(x - 1, 0), x1 = min(x, p.cells_wide - 1), corner = upper[x0];
            bool is_settled = corner == upper[x1] && corner == lower[x0] && corner == lower[x1];
            kept.settled[i] = is_settled ? __ldg(counts_as(p) + corner) : OPEN;
        }
    }

    // From cells to pixels; open ones are noted.
    static __device__ inline void spread(const Overlay& p, const Tile& tile, Kept& kept) {
        // a thread stays in one column as long as it can: it needs that one's cells once
        int across = min(1 << p.quads_shift, thread_count()), down = thread_count() / across;
        int first_row = thread_index() / across;
        if (first_row >= down) return;
        for (int four = thread_index() % across; four < 1 << p.quads_shift; four += across) {
            uint2 columns = *(const uint2*)(kept.column_cell + 4 * four);
            uint32 cell[4] = {columns.x & 0xffff, columns.x >> 16, columns.y & 0xffff, columns.y >> 16};
            for (int row = first_row; row < p.tile_high; row += down) {
                int place = (row << p.quads_shift) + four;
                uint32 first = OPEN, second = OPEN, third = OPEN, fourth = OPEN;
                if (p.has_cells) {
                    const uint16* cells = kept.settled + kept.row_start[row];
                    first = cells[cell[0]], second = cells[cell[1]];
                    third = cells[cell[2]], fourth = cells[cell[3]];
                    ((uint32*)tile.classes)[place] = packed(first, second, third, fourth);
                }
                if (!((first | second | third | fourth) & OPEN) || tile.left + 4 * four >= p.width || tile.top + row >= even(p.height)) continue;
                if (!p.has_cells) {
                    tile.list[atomicAdd(tile.listed, 1)] = place;
                    continue;
                }
                uint32 pixels[4] = {first, second, third, fourth};
                int at = atomicAdd(&kept.open_count, (int)((first >> 8) + (second >> 8) + (third >> 8) + (fourth >> 8)));
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    if (pixels[i] == OPEN) kept.open[at++] = 4 * place + i;
            }
        }
    }

    // Open pixels, one a thread: by the classes at their corners. If that is not enough, their four is listed.
    static __device__ inline void decide_open(const Overlay& p, const void* scores, const Tile& tile, Kept& kept) {
        const Cells& cells = kept.cells;
        int count = kept.open_count;
        for (int i = thread_index(); i < count; i += thread_count()) {
            int pixel = kept.open[i], four = pixel >> 2;
            int row = four >> p.quads_shift, column = pixel & ((4 << p.quads_shift) - 1);
            int cell_x = kept.column_cell[column] + cells.first_cell_x;
            int cell_y = kept.row_cell[row] + cells.first_cell_y;
            int ys[2] = {max(cell_y - 1, 0), min(cell_y, p.cells_high - 1)};
            int xs[2] = {max(cell_x - 1, 0), min(cell_x, p.cells_wide - 1)};
            Corners corners;
            int classes[4];
            float seconds[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int y = ys[j / 2], x = xs[j % 2], at = (y - cells.first_y) * cells.best_wide + x - cells.first_x;
                corners.at[j] = y * (int)p.row_stride + x * (int)p.column_stride;
                classes[j] = kept.best[at], seconds[j] = kept.second[at];
            }
            corners.x_weight = weight_of(min(tile.left + column, p.width - 1), p.x_scale);
            corners.y_weight = weight_of(min(tile.top + row, p.height - 1), p.y_scale);
            int found = class_of_best<Scores>(p, scores, corners, classes, seconds);
            uint32 bit = 1u << (four & 31);
            if (found >= 0)
                tile.classes[pixel] = __ldg(counts_as(p) + found);
            else if (!(atomicOr(&kept.listed[four >> 5], bit) & bit))
                tile.list[atomicAdd(tile.listed, 1)] = four;
        }
    }

    static __device__ inline void decide_unsure(const Overlay& p, const void* scores, const Tile& tile) {
        const uint8* table = counts_as(p);
        int count = *tile.listed;
        for (int i = thread_index(); i < count; i += thread_count()) {
            int four = tile.list[i];
            int x = tile.left + (four * 4 & ((4 << p.quads_shift) - 1)), y = tile.top + (four >> p.quads_shift);
            uint32 found = mixed_classes<Scores>(p, scores, x, min(y, p.height - 1));
            ((uint32*)tile.classes)[four] = packed(__ldg(table + (found & 255)), __ldg(table + (found >> 8 & 255)),
                                                   __ldg(table + (found >> 16 & 255)), __ldg(table + (found >> 24)));
        }
    }

    static __device__ inline void find_certainty(const Overlay& p, const void* scores, Kept& kept) {
        const Cells& cells = kept.cells;
        int count = cells.best_wide * cells.best_high;
        float one_by = 1.0f / cells.best_wide;
        for (int i = thread_index(); i < count; i += thread_count()) {
            int row = quotient(i, one_by), x = cells.first_x + i - row * cells.best_wide;
            kept.second[i] = certainty_of<Scores>(p, scores, x, cells.first_y + row);
        }
    }

    static __device__ inline void apply_threshold(const Overlay& p, const void* scores, const Tile& tile, Kept& kept) {
        const Cells& cells = kept.cells;
        int wide = 4 << p.quads_shift;
        for (int i = thread_index(); i < p.tile_high * wide; i += thread_count()) {
            int x = tile.left + (i & (wide - 1)), y = tile.top + (i >> (p.quads_shift + 2));
            if (x >= even(p.width) || y >= even(p.height)) continue;
            Taps tx = taps_at(min(x, p.width - 1), p.x_scale, p.cells_wide);
            Taps ty = taps_at(min(y, p.height - 1), p.y_scale, p.cells_high);
            float corners[2][2];
            for (int j = 0; j < 4; ++j) {
                int at_x = tx.low + j % 2 * tx.step, at_y = ty.low + j / 2 * ty.step;
                // taps of a border may lie one beyond what was kept: their weight is 0 or 1 there
                int row = clamped(at_y - cells.first_y, 0, cells.best_high - 1);
                int column = clamped(at_x - cells.first_x, 0, cells.best_wide - 1);
                corners[j / 2][j % 2] = p.has_cells ? kept.second[row * cells.best_wide + column]
                                                    : certainty_of<Scores>(p, scores, at_x, at_y);
            }
            float certain = mixed(mixed(corners[0][0], corners[0][1], tx.weight),
                                  mixed(corners[1][0], corners[1][1], tx.weight), ty.weight);
            if (certain < p.threshold) tile.classes[i] = p.background;
        }
    }
};

struct Binary {
    static __device__ inline void begin(const Overlay& p, const Tile& tile) {}

    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, const Tile& tile) {
        int shift = p.quads_shift + 2;
        for (int i = thread_index(); i < p.tile_high << shift; i += thread_count()) {
            int x = tile.left + (i & ((1 << shift) - 1)), y = tile.top + (i >> shift);
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
            tile.classes[i] = score >= p.threshold ? p.positive : p.negative;
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

    static __device__ inline void begin(const Overlay& p, const Tile& tile) {}

    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, const Tile& tile) {
        int shift = p.quads_shift + 2;
        for (int i = thread_index(); i < p.tile_high << shift; i += thread_count()) {
            int x = tile.left + (i & ((1 << shift) - 1)), y = tile.top + (i >> shift);
            if (x >= even(p.width) || y >= even(p.height)) continue;
            int column = __ldg(p.nearest_column + min(x, p.width - 1));
            int row = __ldg(p.nearest_row + min(y, p.height - 1));
            int found = class_at(p, frame.scores, row * p.row_stride + column * p.column_stride);
            tile.classes[i] = __ldg(counts_as(p) + found);
        }
    }
};

// A map that is there already.
struct Held {
    static __device__ inline void begin(const Overlay& p, const Tile& tile) {}

    static __device__ void decide(const Overlay& p, const OverlayFrame& frame, const Tile& tile) {
        int quads_wide = 1 << p.quads_shift;
        for (int i = thread_index(); i < p.tile_high << p.quads_shift; i += thread_count()) {
            int x = tile.left + (i & (quads_wide - 1)) * 4, y = tile.top + (i >> p.quads_shift);
            if (x >= even(p.width) || y >= even(p.height)) continue;
            const uint8* row = frame.map + (int64)min(y, p.height - 1) * p.width;
            if (p.is_map_aligned) {  // which it is only if rows are made of whole fours
                *(uchar4*)(tile.classes + 4 * i) = __ldg((const uchar4*)(row + x));
                continue;
            }
            int last = p.width - 1;
            *(uchar4*)(tile.classes + 4 * i) =
                make_uchar4(row[min(x, last)], row[min(x + 1, last)], row[min(x + 2, last)], row[min(x + 3, last)]);
        }
    }
};
