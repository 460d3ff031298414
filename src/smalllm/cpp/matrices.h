// Products of matrices in the matrix unit: BF16 in, FP32 out, and what brings matrices into the order that it takes.
//
// On the left a product takes rows of BF16 (`Halves`), on the right rows of pairs (`Pairs`): two BF16 of neighbouring
// rows in one word. Sizes are multiples of 32.
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

#include "unit.h"

#ifdef HAS_TILES
constexpr int64_t SIDE = 32;  // of the squares in which products are made: 2 x 2 tiles

namespace {

template <class T>
struct Grid {
    T *at;
    int64_t stride;
    T *row(int64_t i) const { return at + i * stride; }
    Grid from(int64_t i, int64_t j) const { return {at + i * stride + j, stride}; }
};
using Floats = Grid<float>;
using Halves = Grid<uint16_t>;
using Pairs = Grid<uint32_t>;

// The same memory as other numbers.
inline Pairs words(Halves x) { return {reinterpret_cast<uint32_t *>(x.at), x.stride / 2}; }
inline Halves halves(Pairs x) { return {reinterpret_cast<uint16_t *>(x.at), x.stride * 2}; }
inline Pairs words(Floats x) { return {reinterpret_cast<uint32_t *>(x.at), x.stride}; }

// Memory of a thread, kept from call to call. Rows are a cache line longer than they need to be: rows that are a power
// of two apart would push each other out of the cache.
class Room {
    struct Piece {
        void *at;
        size_t bytes;
    };
    std::vector<Piece> pieces;
    size_t n_used = 0;

   public:
    ~Room() {
        for (const Piece &piece : pieces) std::free(piece.at);
    }
    void clear() { n_used = 0; }
    template <class T>
    Grid<T> grid(int64_t n_rows, int64_t width) {
        const int64_t stride = width + 64 / sizeof(T);
        const size_t bytes = (n_rows * stride * sizeof(T) + 63) / 64 * 64;
        if (n_used == pieces.size()) pieces.push_back({nullptr, 0});
        Piece &piece = pieces[n_used++];
        if (piece.bytes < bytes) {
            std::free(piece.at);
            piece = {nullptr, 0};
            piece = {std::aligned_alloc(64, bytes), bytes};
            if (!piece.at) throw std::bad_alloc();
        }
        return {static_cast<T *>(piece.at), stride};
    }
};
thread_local Room room;

// c = a b, or c += a b: [m n], [m k] and [k / 2 n] of pairs; all multiples of 32.
template <bool ADDS>
inline void multiply(Floats c, Halves a, Pairs b, int64_t m, int64_t n, int64_t k) {
    const int64_t cs = c.stride * 4, as = a.stride * 2, bs = b.stride * 4;
    asm volatile("" ::: "memory");  // GCC 12 does not know that loading a tile reads memory
    for (int64_t i = 0; i < m; i += SIDE)
        for (int64_t j = 0; j < n; j += SIDE) {
            float *upper = c.row(i) + j, *lower = c.row(i + 16) + j;
            if (ADDS) {
                _tile_loadd(0, upper, cs);
                _tile_loadd(1, upper + 16, cs);
                _tile_loadd(2, lower, cs);
                _tile_loadd(3, lower + 16, cs);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (int64_t t = 0; t < k; t += SIDE) {
                _tile_loadd(4, a.row(i) + t, as);
                _tile_loadd(6, b.row(t / 2) + j, bs);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, b.row(t / 2) + j + 16, bs);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, a.row(i + 16) + t, as);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, upper, cs);
            _tile_stored(1, upper + 16, cs);
            _tile_stored(2, lower, cs);
            _tile_stored(3, lower + 16, cs);
        }
    asm volatile("" ::: "memory");
}

inline __m256i load16(const uint16_t *at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at)); }
inline void store16(uint16_t *at, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(at), x); }
inline __m256i rounded(Vec x) { return (__m256i)_mm512_cvtneps_pbh(x); }

// [n width] as pairs of rows [n / 2 width].
void pair_rows(Pairs to, Halves from, int64_t n, int64_t width) {
    for (int64_t i = 0; i < n / 2; i++)
        for (int64_t j = 0; j < width; j += LANES) {
            const __m512i first = _mm512_cvtepu16_epi32(load16(from.row(2 * i) + j));
            const __m512i second = _mm512_cvtepu16_epi32(load16(from.row(2 * i + 1) + j));
            _mm512_storeu_si512(to.row(i) + j, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
}

// 16 rows of 16 words, turned about the diagonal: in squares of 1, 2, 4 and 8, the two off the diagonal change places.
inline void turn(__m512i *rows) {
#pragma GCC unroll 4
    for (int side = 1; side < 16; side *= 2) {
        alignas(64) int32_t low[16], high[16];
        for (int lane = 0; lane < 16; lane++) {
            low[lane] = lane & side ? 16 + lane - side : lane;
            high[lane] = lane & side ? 16 + lane : lane + side;
        }
        const __m512i to_low = _mm512_load_si512(low), to_high = _mm512_load_si512(high);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            if (!(i & side)) {
                const __m512i upper = rows[i], lower = rows[i + side];
                rows[i] = _mm512_permutex2var_epi32(upper, to_low, lower);
                rows[i + side] = _mm512_permutex2var_epi32(upper, to_high, lower);
            }
    }
}

// What is in column i, j + 16 .. of words, as rows.
inline void load_turned(__m512i *rows, Pairs from, int64_t i, int64_t j) {
    for (int r = 0; r < 16; r++) rows[r] = _mm512_loadu_si512(from.row(i + r) + j);
    turn(rows);
}

void transpose(Pairs to, Pairs from, int64_t n, int64_t width) {
    __m512i rows[16];
    for (int64_t i = 0; i < n; i += 16)
        for (int64_t j = 0; j < width; j += 16) {
            load_turned(rows, from, i, j);
            for (int r = 0; r < 16; r++) _mm512_storeu_si512(to.row(j + r) + i, rows[r]);
        }
}

}  // namespace
#endif
