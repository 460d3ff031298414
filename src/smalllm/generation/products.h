// Products of matrices with rows in vector registers: FP32 activations, weights FP32, BF16 or int8.
//
// A matrix is stored in blocks of 16 outputs, [outputs / 16][inputs][16], so that one vector holds 16 outputs of one
// input and the memory is read from front to back.
#pragma once
#include "../cpp/vectors.h"

namespace {

// BLOCKS blocks of 16 outputs, for ROWS rows of inputs, [inputs][ROWS]. Each output sums its inputs in their order.
template <class W, int BLOCKS, int ROWS>
inline void product(const Matrix &m, int64_t block, const float *x, float *y, int64_t y_stride) {
    const int64_t n = m.n_in;
    const W *w = static_cast<const W *>(m.weight) + block * n * LANES;
    Vec sums[BLOCKS][ROWS] = {};
    for (int64_t i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int b = 0; b < BLOCKS; b++) {
            const W *at = w + (b * n + i) * LANES;
            __builtin_prefetch(reinterpret_cast<const char *>(at) + PREFETCH_BYTES);
            const Vec weights = load(at);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) sums[b][r] += weights * x[i * ROWS + r];
        }
    for (int b = 0; b < BLOCKS; b++)
        for (int r = 0; r < ROWS; r++) {
            const int64_t at = (block + b) * LANES;
            if (m.scale) sums[b][r] *= load(m.scale + at);
            if (m.bias) sums[b][r] += load(m.bias + at);
            store(y + r * y_stride + at, sums[b][r]);
        }
}

template <class W, int BLOCKS, int ROWS>
void products(const Matrix &m, Share blocks, const float *x, float *y, int64_t y_stride) {
    int64_t b = blocks.first;
    for (; b + BLOCKS <= blocks.last; b += BLOCKS) product<W, BLOCKS, ROWS>(m, b, x, y, y_stride);
    if (BLOCKS > 1)
        for (; b < blocks.last; b++) product<W, 1, ROWS>(m, b, x, y, y_stride);
}

// Rows are computed in groups of these sizes, the largest that fit first: of many rows smaller ones, of more blocks.
inline int64_t group_size(int64_t n_left, int64_t n_rows) {
    for (int64_t size = n_rows > MOST_ROWS ? MANY_ROWS : MOST_ROWS; size > 1; size /= 2)
        if (n_left >= size) return size;
    return 1;
}

// Rows as `product` takes them: those of a group side by side.
inline void pack_rows(const Matrix &m, const float *x, int64_t n_rows, float *packed) {
    for (int64_t r = 0, size; r < n_rows; r += size) {
        size = group_size(n_rows - r, n_rows);
        for (int64_t i = 0; i < m.n_in; i++)
            for (int64_t j = 0; j < size; j++) packed[r * m.n_in + i * size + j] = x[(r + j) * m.n_in + i];
    }
}

// A thread's blocks of y = W x + b, for all rows: of many rows, each block meets all while it is in the cache.
template <class W>
void multiply_rows(const Matrix &m, Share blocks, const float *x, float *y, int64_t y_stride, int64_t n_rows) {
    const int64_t step = n_rows > MOST_ROWS ? 3 : 12;  // whole groups of blocks
    for (int64_t b = blocks.first; b < blocks.last; b += step) {
        const Share part = {b, std::min(b + step, blocks.last)};
        for (int64_t r = 0, size; r < n_rows; r += size) {
            size = group_size(n_rows - r, n_rows);
            const float *from = x + r * m.n_in;
            float *to = y + r * y_stride;
            if (size == 16) products<W, 1, 16>(m, part, from, to, y_stride);
            if (size == 8) products<W, 3, 8>(m, part, from, to, y_stride);
            if (size == 4) products<W, 2, 4>(m, part, from, to, y_stride);
            if (size == 2) products<W, 4, 2>(m, part, from, to, y_stride);
            if (size == 1) products<W, 4, 1>(m, part, from, to, y_stride);
        }
    }
}

}  // namespace
