// A wide Gaussian blur of what is outside the classes: at a quarter of the size, then enlarged.
//
// Rounded to 8 bits where OpenCV does it; its Gaussian of 8-bit pictures is one of integers, and so is this.

const int BLUR_TILE = 256;  // samples of a block of the small planes

__device__ inline int components_of(const Overlay& p, int plane) {
    return p.format == RGB24 ? 3 : p.format == NV12 && plane == 1 ? 2 : 1;
}

// Grid: samples of a small plane, planes, pictures.
__device__ inline uint8* small_plane(const Overlay& p, int plane) {
    return p.frames[blockIdx.z].scratch + p.small_offset[plane];
}

__device__ inline uint16* small_rows(const Overlay& p, int plane) {
    return (uint16*)(p.frames[blockIdx.z].scratch + p.rows_offset[plane]);
}

// The share of the source's pixel `at` in [start, end).
__device__ inline float share(int at, float start, float end) {
    return fminf(at + 1.0f, end) - fmaxf((float)at, start);
}

extern "C" __global__ void blur_shrink(const __grid_constant__ Overlay p) {
    int plane = blockIdx.y, components = components_of(p, plane), wide = p.small_wide[plane] * components;
    const OverlayFrame& frame = p.frames[blockIdx.z];
    int width = plane ? (p.width + 1) / 2 : p.width, height = plane ? (p.height + 1) / 2 : p.height;
    float x_scale = (float)width / p.small_wide[plane], y_scale = (float)height / p.small_high[plane];
    int start = blockIdx.x * BLUR_TILE, end = min(start + BLUR_TILE, wide * p.small_high[plane]);
    for (int i = start + thread_index(); i < end; i += thread_count()) {
        int y = i / wide, x = i % wide / components, part = i % components;
        float left = x * x_scale, right = fminf(left + x_scale, width);
        float top = y * y_scale, bottom = fminf(top + y_scale, height);
        float sum = 0.0f;
        for (int row = (int)top; row < bottom; ++row) {
            const uint8* codes = frame.source[plane] + (int64)row * frame.source_strides[plane] + part;
            float line = 0.0f;
            for (int column = (int)left; column < right; ++column)
                line += share(column, left, right) * __ldg(codes + (int64)column * components);
            sum += share(row, top, bottom) * line;
        }
        small_plane(p, plane)[i] = to_code(sum / ((right - left) * (bottom - top)));
    }
}

// Mirrored at the borders, without repeating the outermost sample.
__device__ inline int mirrored(int index, int size) {
    if (size == 1) return 0;
    while (index < 0 || index >= size) index = index < 0 ? -index : 2 * size - 2 - index;
    return index;
}

extern "C" __global__ void blur_rows(const __grid_constant__ Overlay p) {
    int plane = blockIdx.y, components = components_of(p, plane), wide = p.small_wide[plane] * components;
    int start = blockIdx.x * BLUR_TILE, end = min(start + BLUR_TILE, wide * p.small_high[plane]);
    int radius = p.radius[plane];
    for (int i = start + thread_index(); i < end; i += thread_count()) {
        int y = i / wide, x = i % wide / components, part = i % components;
        const uint8* row = small_plane(p, plane) + (int64)y * wide + part;
        uint32 sum = 0;
        for (int tap = -radius; tap <= radius; ++tap)
            sum += p.kernels[plane][tap + radius] * row[mirrored(x + tap, p.small_wide[plane]) * components];
        small_rows(p, plane)[i] = min(sum, 65535u);
    }
}

extern "C" __global__ void blur_columns(const __grid_constant__ Overlay p) {
    int plane = blockIdx.y, components = components_of(p, plane), wide = p.small_wide[plane] * components;
    int start = blockIdx.x * BLUR_TILE, end = min(start + BLUR_TILE, wide * p.small_high[plane]);
    int radius = p.radius[plane];
    for (int i = start + thread_index(); i < end; i += thread_count()) {
        int y = i / wide;
        uint32 sum = 1u << 15;
        for (int tap = -radius; tap <= radius; ++tap)
            sum += p.kernels[plane][tap + radius] *
                   small_rows(p, plane)[(int64)mirrored(y + tap, p.small_high[plane]) * wide + i % wide];
        small_plane(p, plane)[i] = min(sum >> 16, 255u);
    }
}

// One sample of a plane: blurred where nothing shown is, else as it was.
__device__ inline void draw_blurred(const Overlay& p, const OverlayFrame& frame, int plane, int x, int y, int width,
                                    int height, bool is_outside) {
    int components = components_of(p, plane), wide = p.small_wide[plane] * components;
    int source_x = min(x, width - 1), source_y = min(y, height - 1);
    const uint8* before = frame.source[plane] + (int64)source_y * frame.source_strides[plane] + source_x * components;
    uint8* after = frame.target[plane] + (int64)y * frame.target_strides[plane] + x * components;
    Taps tx = taps_at(source_x, (float)p.small_wide[plane] / width, p.small_wide[plane]);
    Taps ty = taps_at(source_y, (float)p.small_high[plane] / height, p.small_high[plane]);
    const uint8* upper = small_plane(p, plane) + (int64)ty.low * wide + tx.low * components;
    const uint8* lower = upper + ty.step * wide;
    int next = tx.step * components;
    for (int part = 0; part < components; ++part)
        after[part] = is_outside ? to_code(mixed(mixed(upper[part], upper[part + next], tx.weight),
                                                 mixed(lower[part], lower[part + next], tx.weight), ty.weight))
                                 : before[part];
}

extern "C" __global__ void blur_draw(const __grid_constant__ Overlay p) {
    const OverlayFrame& frame = p.frames[blockIdx.z];
    int left = blockIdx.x * CONTOUR_TILE_WIDE, top = blockIdx.y * CONTOUR_TILE_HIGH;
    const int blocks_wide = CONTOUR_TILE_WIDE / 2, blocks = blocks_wide * CONTOUR_TILE_HIGH / 2;
    for (int i = thread_index(); i < blocks; i += thread_count()) {
        int x = left + i % blocks_wide * 2, y = top + i / blocks_wide * 2;
        if (x >= p.width || y >= p.height) continue;
        bool is_all_outside = true;
        for (int row = 0; row < 2; ++row)
            for (int column = 0; column < 2; ++column) {
                int pixel_x = min(x + column, p.width - 1), pixel_y = min(y + row, p.height - 1);
                int found = frame.map[(int64)pixel_y * p.width + pixel_x];
                bool is_outside = !__ldg(p.tables + 4 * found + 3);
                is_all_outside = is_all_outside && is_outside;
                if (x + column < p.drawn_wide && y + row < p.drawn_high)
                    draw_blurred(p, frame, 0, x + column, y + row, p.width, p.height, is_outside);
            }
        if (p.format == RGB24) continue;
        for (int plane = 1; plane <= (p.format == NV12 ? 1 : 2); ++plane)
            draw_blurred(p, frame, plane, x / 2, y / 2, (p.width + 1) / 2, (p.height + 1) / 2, is_all_outside);
    }
}
