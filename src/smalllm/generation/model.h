// The model as `native.py` describes it: the same fields in the same order.
#pragma once
#include "../cpp/vectors.h"

struct Norm {
    const float *weight, *bias;
};
struct Layer {
    Norm attention_norm, q_norm, k_norm, mlp_norm;
    Matrix qkv, out, gate, up, down;
};

struct Model {
    int64_t n_layers, n_heads, n_kv_heads, d_model, d_head, d_ff, n_rows_max, n_slots, n_positions, n_threads;
    int64_t is_rms, kind, cache_kind, k_stride, tiles;
    double eps;
    const float *embedding, *places, *cos, *sin;
    const Layer *layers;
    Norm norm;
    Matrix head;
    void *keys, *values;
    float *scratch;
};

namespace {

// Packed inputs of the widest product, in whole tiles, and a step for each row.
inline int64_t packed_floats(const Model &m) {
    const int64_t widest = std::max(std::max(m.d_model, m.n_heads * m.d_head), m.d_ff);
    return m.n_rows_max * (1 + (widest + 63) / 64 * 64);
}
inline int64_t floats_of_a_thread(const Model &m) {
    return m.n_rows_max * m.d_model + packed_floats(m) + m.n_positions + m.k_stride;
}

}  // namespace
