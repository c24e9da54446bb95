// Lines inside each class along its border, from maps; a map of runs makes the test of the window separable.

const int CONTOUR_TILE_WIDE = 128, CONTOUR_TILE_HIGH = 16;
const int NO_RUN = 255;  // no shown class has this index

// scratch: the class of a pixel if it is shown and so are all pixels of the row within reach, else NO_RUN.
extern "C" __global__ void contour_runs(const __grid_constant__ Overlay p) {
    const OverlayFrame& frame = p.frames[blockIdx.z];
    int left = blockIdx.x * CONTOUR_TILE_WIDE, top = blockIdx.y * CONTOUR_TILE_HIGH;
    for (int i = thread_index(); i < CONTOUR_TILE_WIDE * CONTOUR_TILE_HIGH; i += thread_count()) {
        int x = left + i % CONTOUR_TILE_WIDE, y = top + i / CONTOUR_TILE_WIDE;
        if (x >= p.width || y >= p.height) continue;
        const uint8* row = frame.map + (int64)y * p.width;
        int run = row[x];
        if (!__ldg(p.tables + 4 * run + 3)) run = NO_RUN;
        for (int at = max(x - p.reach, 0); run != NO_RUN && at <= min(x + p.reach, p.width - 1); ++at)
            if (row[at] != run) run = NO_RUN;
        frame.scratch[(int64)y * p.width + x] = run;
    }
}

// Whether a pixel of this class has another class within reach.
__device__ inline bool is_line(const Overlay& p, const OverlayFrame& frame, int x, int y, int index) {
    for (int at = max(y - p.reach, 0); at <= min(y + p.reach, p.height - 1); ++at)
        if (frame.scratch[(int64)at * p.width + x] != index) return true;
    return false;
}

extern "C" __global__ void contour_draw(const __grid_constant__ Overlay p) {
    const OverlayFrame& frame = p.frames[blockIdx.z];
    int left = blockIdx.x * CONTOUR_TILE_WIDE, top = blockIdx.y * CONTOUR_TILE_HIGH;
    const int units_wide = CONTOUR_TILE_WIDE / 4, units = units_wide * CONTOUR_TILE_HIGH / 2;
    for (int i = thread_index(); i < units; i += thread_count()) {
        int x = left + i % units_wide * 4, y = top + i / units_wide * 2;
        if (x >= p.width || y >= p.height) continue;
        Unit unit;
        uint32 class_inks[4], keys[2] = {0, 0};
#pragma unroll
        for (int row = 0; row < 2; ++row)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int pixel_x = min(x + j, p.width - 1), pixel_y = min(y + row, p.height - 1);
                int found = frame.map[(int64)pixel_y * p.width + pixel_x];
                uint32 ink = __ldg((const uint32*)p.tables + found);
                if (row == 0) class_inks[j] = ink >> 24 ? ink : 0;
                keys[row] |= (uint32)found << 8 * j;
                unit.inks[row][j] = ink >> 24 && is_line(p, frame, pixel_x, pixel_y, found) ? ink : 0;
            }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            uint32 touched = unit.inks[0][2 * j] | unit.inks[0][2 * j + 1];
            touched |= unit.inks[1][2 * j] | unit.inks[1][2 * j + 1];
            unit.chroma_inks[j] = is_one(keys[0], keys[1], j) && touched ? class_inks[2 * j] : 0;
        }
        draw_unit(p, frame, x, y, unit);
    }
}
