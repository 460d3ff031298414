// Products of matrices with rows in the matrix unit of Intel's server CPUs (AMX), weights BF16 or int8.
//
// The unit adds the product of two tiles, each 16 rows of 64 bytes, to a third, of 16 x 16 FP32 or int32. One has
// inputs in its rows, the other weights, four bytes of an output (2 BF16 or 4 int8 inputs) side by side. A matrix is
// stored as those tiles: [outputs / 32][inputs / (32 or 64)][2 blocks of 16 outputs][16][16 outputs][2 or 4].
//
// Inputs are not rounded to 8 bits, but split into two numbers of 8 bits each, which take two rows of a tile: BF16 and
// the BF16 of what is left; or int8 and int8, of a row as integers up to 127 * 256 + 127 (its largest number). Every
// row goes through the same instructions in the same order, alone or among others.
#pragma once
#include <type_traits>

#include "../cpp/unit.h"

constexpr int TILE_OUTPUTS = 2 * LANES;  // computed together, so that a tile of inputs is loaded once for both blocks

namespace {

#ifdef HAS_TILES
constexpr int TILE_ROWS = 8;  // of inputs, each twice
constexpr int TILES_AHEAD = 4;  // are brought to the cache: of 4, 8 and 16 these hid most of the memory's latency
constexpr float MOST_STEPS = 127 * 256 + 127;  // of an input: both its halves are int8

template <class W>
constexpr int inputs_of_tile() {
    return 64 / sizeof(W);
}

template <class W>
inline int64_t tiles_of_row(const Matrix &m) {
    return (m.n_in + inputs_of_tile<W>() - 1) / inputs_of_tile<W>();
}

// 16 numbers from i on; zeros after the last.
inline __m512 sixteen(const float *x, int64_t i, int64_t n) {
    const int64_t left = std::max<int64_t>(0, std::min<int64_t>(n - i, LANES));
    return _mm512_maskz_loadu_ps((1u << left) - 1, x + i);
}

// 16 numbers as their upper 16 bits and what these leave.
inline void split(__m512 x, float, uint16_t *high, uint16_t *low) {
    const __m512i upper = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0xffff0000));
    const __m512 left = x - _mm512_castsi512_ps(upper);
    const __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(left), _mm512_set1_epi32(0x8000));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(high), _mm512_cvtepi32_epi16(_mm512_srli_epi32(upper, 16)));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(low), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
// 16 numbers as integers of so many steps, 256 * high + low.
inline void split(__m512 x, float steps, int8_t *high, int8_t *low) {
    const __m512i n = _mm512_cvtps_epi32(x * _mm512_set1_ps(steps));
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8);
    const __m512i left = _mm512_sub_epi32(n, _mm512_slli_epi32(upper, 8));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(high), _mm512_cvtepi32_epi8(upper));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(low), _mm512_cvtepi32_epi8(left));
}

// What a step of a row is worth; a row with a number that is none, or infinite, becomes one of those.
inline float step_of(const float *x, int64_t n) {
    __m512 largest = _mm512_setzero_ps(), strange = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512 part = sixteen(x, i, n);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(part));
        strange += part * _mm512_setzero_ps();
    }
    return std::max(_mm512_reduce_max_ps(largest), 1e-30f) / MOST_STEPS + _mm512_reduce_add_ps(strange);
}

// Rows as tiles, [rows / 8][inputs / (32 or 64)][16 high, then low][64 bytes], and for int8 the step of each.
template <class W>
void pack_tiles(const Matrix &m, const float *x, int64_t n_rows, char *tiles, float *steps) {
    const int64_t n_tiles = tiles_of_row<W>(m), per_tile = inputs_of_tile<W>();
    for (int64_t r = 0; r < (n_rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; r++) {
        const float *row = x + r * m.n_in;
        const int64_t n = r < n_rows ? m.n_in : 0;
        steps[r] = sizeof(W) == 1 ? step_of(row, n) : 1.0f;
        const float per_step = 1.0f / steps[r];
        W *high = reinterpret_cast<W *>(tiles + r / TILE_ROWS * n_tiles * TILE_BYTES) + r % TILE_ROWS * per_tile;
        W *low = high + TILE_ROWS * per_tile;
        for (int64_t t = 0; t < n_tiles; t++)
            for (int64_t i = 0; i < per_tile; i += LANES) {
                const int64_t at = t * TILE_BYTES / static_cast<int64_t>(sizeof(W)) + i;
                split(sixteen(row, t * per_tile + i, n), per_step, high + at, low + at);
            }
    }
}

// The sums of 32 outputs and GROUPS groups of 8 rows, [GROUPS][2 blocks][16 high, then low][16 outputs].
template <class W, int GROUPS>
inline void tile_product(const char *w, const char *x, int64_t n_tiles, void *sums) {
    char *to = static_cast<char *>(sums);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < n_tiles; t++, x += TILE_BYTES, w += 2 * TILE_BYTES) {
        const float *soon = reinterpret_cast<const float *>(w + TILES_AHEAD * TILE_BYTES);
        _tile_loadd(4, x, 64);
        fetch<8>(soon);  // a quarter of the two tiles at a time, so that the unit has work meanwhile
        _tile_loadd(6, w, 64);
        if constexpr (sizeof(W) == 1) {
            _tile_dpbssd(0, 4, 6);
        } else {
            _tile_dpbf16ps(0, 4, 6);
        }
        fetch<8>(soon + 8 * LANES);
        _tile_loadd(7, w + TILE_BYTES, 64);
        if constexpr (sizeof(W) == 1) {
            _tile_dpbssd(1, 4, 7);
        } else {
            _tile_dpbf16ps(1, 4, 7);
        }
        fetch<8>(soon + 16 * LANES);
        if constexpr (GROUPS == 2) {
            _tile_loadd(5, x + n_tiles * TILE_BYTES, 64);
            if constexpr (sizeof(W) == 1) {
                _tile_dpbssd(2, 5, 6);
                _tile_dpbssd(3, 5, 7);
            } else {
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
        fetch<8>(soon + 24 * LANES);
    }
    _tile_stored(0, to, 64);
    _tile_stored(1, to + TILE_BYTES, 64);
    if constexpr (GROUPS == 2) {
        _tile_stored(2, to + 2 * TILE_BYTES, 64);
        _tile_stored(3, to + 3 * TILE_BYTES, 64);
    }
}

inline Vec whole(const float *high, const float *low) { return load(high) + load(low); }
inline Vec whole(const int32_t *high, const int32_t *low) {
    Ints h, l;
    std::memcpy(&h, high, sizeof h);
    std::memcpy(&l, low, sizeof l);
    return __builtin_convertvector(h, Vec) * 256.0f + __builtin_convertvector(l, Vec);
}

// A thread's outputs, whole pairs of blocks, of y = W x + b for all rows; int8 takes up to 130,000 inputs.
template <class W>
void multiply_tiles(const Matrix &m, Share pairs, const char *x, const float *steps, float *y, int64_t ys, int64_t n) {
    using Sum = std::conditional_t<sizeof(W) == 1, int32_t, float>;
    alignas(64) Sum sums[2][2][2 * TILE_ROWS][LANES];
    const int64_t n_tiles = tiles_of_row<W>(m), group_bytes = n_tiles * TILE_BYTES;
    asm volatile("" ::: "memory");  // GCC 12 does not know that loading a tile reads memory
    for (int64_t pair = pairs.first; pair < pairs.last; pair++) {
        const char *w = static_cast<const char *>(m.weight) + pair * n_tiles * 2 * TILE_BYTES;
        for (int64_t r = 0; r < n; r += 2 * TILE_ROWS) {
            const char *from = x + r / TILE_ROWS * group_bytes;
            if (n - r > TILE_ROWS)
                tile_product<W, 2>(w, from, n_tiles, sums);
            else
                tile_product<W, 1>(w, from, n_tiles, sums);
            asm volatile("" ::: "memory");
            for (int64_t i = 0; i < std::min<int64_t>(2 * TILE_ROWS, n - r); i++)
                for (int b = 0; b < 2; b++) {
                    const auto &block = sums[i / TILE_ROWS][b];
                    const int64_t at = pair * TILE_OUTPUTS + b * LANES;
                    Vec made = whole(block[i % TILE_ROWS], block[i % TILE_ROWS + TILE_ROWS]);
                    if (m.scale) made *= load(m.scale + at) * steps[r + i];
                    if (m.bias) made += load(m.bias + at);
                    store(y + (r + i) * ys + at, made);
                }
        }
    }
}
#else
template <class W>
void pack_tiles(const Matrix &, const float *, int64_t, char *, float *) {}
template <class W>
void multiply_tiles(const Matrix &, Share, const char *, const float *, float *, int64_t, int64_t) {}
#endif

}  // namespace
