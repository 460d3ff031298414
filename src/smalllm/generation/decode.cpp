// The forward pass of `model/gpt.py` for a few tokens at a time, on CPUs, written to read every weight once.
//
// Compiled by `native.py`. Activations are FP32; weights are FP32, BF16 or int8 with a scale per output. A matrix is
// stored in blocks of 16 outputs, [outputs / 16][inputs][16], so that one vector holds 16 outputs of one input and the
// memory is read from front to back. Keys are stored likewise, [positions / 16][K][16], values [positions][K].
//
// The arithmetic of a row is the same whatever other rows are computed with it: results do not depend on the batch.
#include <omp.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>

constexpr int LANES = 16;
#ifdef __AVX512F__
constexpr int MOST_ROWS = 16;
#else
constexpr int MOST_ROWS = 2;
#endif
constexpr int PREFETCH_BYTES = 8192;

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));

enum Kind { FP32 = 0, BF16 = 1, INT8 = 2 };

struct Matrix {
    const void *weight;
    const float *scale, *bias;
    int64_t n_out, n_in;
};
struct Norm {
    const float *weight, *bias;
};
struct Layer {
    Norm attention_norm, q_norm, k_norm, mlp_norm;
    Matrix qkv, out, gate, up, down;
};

struct Model {
    int64_t n_layers, n_heads, n_kv_heads, d_model, d_head, d_ff, n_rows_max, n_slots, n_positions, n_threads;
    int64_t is_rms, kind, cache_kind, k_stride;
    double eps;
    const float *embedding, *places, *cos, *sin;
    const Layer *layers;
    Norm norm;
    Matrix head;
    void *keys, *values;
    float *scratch;
};

namespace {

inline Vec load(const float *at) {
    Vec v;
    std::memcpy(&v, at, sizeof v);
    return v;
}
#ifdef __AVX512F__  // GCC 12 makes of each of these many instructions where there are two
inline Vec load(const uint16_t *at) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at));
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}
inline Vec load(const int8_t *at) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(at));
    return (Vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
#else
inline Vec load(const uint16_t *at) {
    Halves v;
    std::memcpy(&v, at, sizeof v);
    return (Vec)(__builtin_convertvector(v, Words) << 16);  // the bits, not the numbers
}
inline Vec load(const int8_t *at) {
    Bytes v;
    std::memcpy(&v, at, sizeof v);
    return __builtin_convertvector(__builtin_convertvector(v, Ints), Vec);
}
#endif
inline void store(float *at, Vec v) { std::memcpy(at, &v, sizeof v); }

inline void put(float *at, float x) { *at = x; }
inline void put(uint16_t *at, float x) {  // to the nearest, ties to even; a number that is none stays none
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    *at = x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Cody and Waite's reduction and the Taylor polynomial of degree 6: within 2 ulp.
inline float exp_of(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    float shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer, which lands in the low bits
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

struct Share {
    int64_t first, last;
};
inline Share share(int64_t n, int thread, int n_threads) {
    return {n * thread / n_threads, n * (thread + 1) / n_threads};
}

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

// Rows are computed in groups of these sizes, the largest that fit first.
inline int64_t group_size(int64_t n_rows) {
    for (int64_t size = MOST_ROWS; size > 1; size /= 2)
        if (n_rows >= size) return size;
    return 1;
}

// A thread's blocks of y = W x + b, for all rows: of many rows, each block meets all while it is in the cache.
template <class W>
void multiply_as(const Matrix &m, Share blocks, const float *x, float *y, int64_t y_stride, int64_t n_rows) {
    const int64_t step = n_rows > MOST_ROWS ? 1 : 4;
    for (int64_t b = blocks.first; b < blocks.last; b += step) {
        const Share part = {b, std::min(b + step, blocks.last)};
        for (int64_t r = 0, size; r < n_rows; r += size) {
            size = group_size(n_rows - r);
            const float *from = x + r * m.n_in;
            float *to = y + r * y_stride;
            if (size == 16) products<W, 1, 16>(m, part, from, to, y_stride);
            if (size == 8) products<W, 1, 8>(m, part, from, to, y_stride);
            if (size == 4) products<W, 2, 4>(m, part, from, to, y_stride);
            if (size == 2) products<W, 4, 2>(m, part, from, to, y_stride);
            if (size == 1) products<W, 4, 1>(m, part, from, to, y_stride);
        }
    }
}

struct Step {
    const Model &m;
    int thread, n_threads;
    int64_t n_rows;
    const int64_t *slots, *positions;
    float *packed;

    void multiply(const Matrix &w, const float *x, float *y, int64_t ys, int64_t rows) const {
        for (int64_t r = 0, size; r < rows; r += size) {  // a group's rows side by side
            size = group_size(rows - r);
            for (int64_t i = 0; i < w.n_in; i++)
                for (int64_t j = 0; j < size; j++) packed[r * w.n_in + i * size + j] = x[(r + j) * w.n_in + i];
        }
        const Share blocks = share((w.n_out + LANES - 1) / LANES, thread, n_threads);
        if (m.kind == FP32) multiply_as<float>(w, blocks, packed, y, ys, rows);
        if (m.kind == BF16) multiply_as<uint16_t>(w, blocks, packed, y, ys, rows);
        if (m.kind == INT8) multiply_as<int8_t>(w, blocks, packed, y, ys, rows);
    }

    void normalize(const Norm &norm, const float *x, float *y, int64_t n, bool is_rms) const {
        float mean = 0, square = 0;
        if (!is_rms) {
#pragma omp simd reduction(+ : mean)
            for (int64_t i = 0; i < n; i++) mean += x[i];
            mean /= n;
        }
#pragma omp simd reduction(+ : square)
        for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
        const float root = 1.0f / std::sqrt(square / n + static_cast<float>(m.eps));
        for (int64_t i = 0; i < n; i++) {
            y[i] = (x[i] - mean) * root * norm.weight[i];
            if (norm.bias) y[i] += norm.bias[i];
        }
    }

    void rotate(float *x, int64_t position) const {
        if (!m.cos) return;
        const float *cos = m.cos + position * m.d_head, *sin = m.sin + position * m.d_head;
        const int64_t half = m.d_head / 2;
        for (int64_t i = 0; i < half; i++) {
            const float left = x[i], right = x[i + half];
            x[i] = left * cos[i] - right * sin[i];
            x[i + half] = right * cos[i + half] + left * sin[i + half];
        }
    }

    // Keys or values of a slot and head; a row of K numbers takes whole vectors.
    template <class C>
    C *cached(void *cache, int64_t layer, int64_t slot, int64_t g) const {
        return static_cast<C *>(cache) + ((layer * m.n_slots + slot) * m.n_kv_heads + g) * m.n_positions * m.k_stride;
    }

    // Rotate the queries of a row that share a key, and put that key and its value into the cache.
    template <class C>
    void remember(int64_t layer, int64_t row, int64_t g, float *qkv) const {
        const Layer &l = m.layers[layer];
        const int64_t k_width = m.d_head, position = positions[row], n_group = m.n_heads / m.n_kv_heads;
        float *k = qkv + (m.n_heads + g) * k_width, *v = qkv + (m.n_heads + m.n_kv_heads + g) * k_width;
        for (int64_t h = g * n_group; h < (g + 1) * n_group; h++) {
            if (l.q_norm.weight) normalize(l.q_norm, qkv + h * k_width, qkv + h * k_width, k_width, true);
            rotate(qkv + h * k_width, position);
        }
        if (l.k_norm.weight) normalize(l.k_norm, k, k, k_width, true);
        rotate(k, position);
        C *keys = cached<C>(m.keys, layer, slots[row], g) + position / LANES * LANES * m.k_stride + position % LANES;
        C *values = cached<C>(m.values, layer, slots[row], g) + position * m.k_stride;
        for (int64_t i = 0; i < k_width; i++) put(keys + i * LANES, k[i]);
        for (int64_t i = 0; i < k_width; i++) put(values + i, v[i]);
    }

    // Scores of 16 positions; four sums of every fourth number, so that no addition waits for the one before.
    template <class C>
    void score(const C *keys, const float *q, float scale, float *scores) const {
        Vec sums[4] = {};
        int64_t i = 0;
        for (; i + 4 <= m.d_head; i += 4) {
            __builtin_prefetch(reinterpret_cast<const char *>(keys + i * LANES) + PREFETCH_BYTES);
            __builtin_prefetch(reinterpret_cast<const char *>(keys + i * LANES) + PREFETCH_BYTES + 64);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sums[j] += load(keys + (i + j) * LANES) * q[i + j];
        }
        for (; i < m.d_head; i++) sums[0] += load(keys + i * LANES) * q[i];
        store(scores, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale);
    }

    template <class C, int BLOCKS>
    void mix(const C *values, const float *scores, int64_t n, float share_of_all, float *y) const {
        Vec sums[BLOCKS] = {};
        for (int64_t t = 0; t < n; t++) {
#pragma GCC unroll 4
            for (unsigned b = 0; b < BLOCKS * LANES * sizeof(C) / 64; b++)
                __builtin_prefetch(reinterpret_cast<const char *>(values + t * m.k_stride) + PREFETCH_BYTES + b * 64);
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++) sums[b] += load(values + t * m.k_stride + b * LANES) * scores[t];
        }
        for (int b = 0; b < BLOCKS; b++) store(y + b * LANES, sums[b] * share_of_all);
    }

    template <class C>
    void attend(int64_t layer, int64_t row, int64_t g, const float *qkv, float *y, float *scores) const {
        const int64_t n = positions[row] + 1, n_group = m.n_heads / m.n_kv_heads, n_blocks = (n + LANES - 1) / LANES;
        const C *keys = cached<C>(m.keys, layer, slots[row], g), *values = cached<C>(m.values, layer, slots[row], g);
        const float scale = 1.0f / std::sqrt(static_cast<float>(m.d_head));
        for (int64_t h = g * n_group; h < (g + 1) * n_group; h++) {
            const float *q = qkv + h * m.d_head;
            for (int64_t b = 0; b < n_blocks; b++)
                score(keys + b * LANES * m.k_stride, q, scale, scores + b * LANES);
            float largest = scores[0], sum = 0;
#pragma omp simd reduction(max : largest)
            for (int64_t t = 0; t < n; t++) largest = std::max(largest, scores[t]);
#pragma omp simd reduction(+ : sum)
            for (int64_t t = 0; t < n; t++) sum += scores[t] = exp_of(scores[t] - largest);
            float *mixed = scores + m.n_positions;  // whole vectors, of which the head's numbers are taken
            int64_t i = 0;
            for (; i + 4 * LANES <= m.k_stride; i += 4 * LANES) mix<C, 4>(values + i, scores, n, 1.0f / sum, mixed + i);
            for (; i < m.k_stride; i += LANES) mix<C, 1>(values + i, scores, n, 1.0f / sum, mixed + i);
            std::memcpy(y + h * m.d_head, mixed, m.d_head * sizeof(float));
        }
    }

    // The inner activations of the thread's share, close together.
    void activate(const Layer &l, const float *up, const float *gate, int64_t stride, float *y) const {
        const Share part = share((m.d_ff + LANES - 1) / LANES, thread, n_threads);
        for (int64_t r = 0; r < n_rows; r++) {
            const float *u = up + r * stride, *g = gate + r * stride;
            float *out = y + r * m.d_ff;
            const int64_t last = std::min(part.last * LANES, m.d_ff);
            if (l.gate.weight) {
#pragma omp simd
                for (int64_t i = part.first * LANES; i < last; i++) out[i] = u[i] * g[i] / (1.0f + exp_of(-g[i]));
            } else {
#pragma omp simd
                for (int64_t i = part.first * LANES; i < last; i++) {
                    const float x = u[i], inner = 0.7978845608f * (x + 0.044715f * x * x * x);
                    out[i] = x / (1.0f + exp_of(-2.0f * inner));
                }
            }
        }
    }

    void add(float *x, const float *y, int64_t ys) const {
        const Share part = share((m.d_model + LANES - 1) / LANES, thread, n_threads);
        const int64_t last = std::min(part.last * LANES, m.d_model);
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t i = part.first * LANES; i < last; i++) x[r * m.d_model + i] += y[r * ys + i];
    }
};

// Where threads wait for each other. OpenMP's own barrier spins for a whole time slice, in which, on a busy machine, the
// thread that is waited for cannot run: this one soon lets others run.
class Meeting {
    std::atomic<int> n_here{0}, number{0};

   public:
    void wait(int n_threads) {
        const int mine = number.load(std::memory_order_acquire);
        if (n_here.fetch_add(1, std::memory_order_acq_rel) == n_threads - 1) {
            n_here.store(0, std::memory_order_relaxed);
            number.fetch_add(1, std::memory_order_release);
            return;
        }
        for (int spins = 0; number.load(std::memory_order_acquire) == mine; spins++)
            if (spins > 4000) std::this_thread::yield();
    }
};

int64_t floats_of_a_thread(const Model &m) {
    const int64_t widest = std::max(std::max(m.d_model, m.n_heads * m.d_head), m.d_ff);
    return m.n_rows_max * (m.d_model + widest) + m.n_positions + m.k_stride;
}

}  // namespace

// Floats of `Model.scratch`.
extern "C" int64_t scratch_floats(const Model *m) {
    const int64_t wide = (m->n_heads + 2 * m->n_kv_heads) * m->d_head + LANES, inner = m->d_ff + LANES;
    const int64_t shared = m->d_model + wide + m->n_heads * m->d_head + 2 * inner + (m->d_model + LANES) + m->d_ff;
    return m->n_rows_max * shared + m->n_threads * floats_of_a_thread(*m);
}

// Read rows of (slot, position, token), the positions of a slot in order; then logits [n_logits, stride] of some rows.
extern "C" void forward(const Model *model, int64_t n_rows, const int64_t *ids, const int64_t *slots,
                        const int64_t *positions, int64_t has_prompts, int64_t n_logits, const int64_t *logit_rows,
                        float *logits, int64_t logit_stride) {
    const Model &m = *model;
    const int64_t wide = (m.n_heads + 2 * m.n_kv_heads) * m.d_head + LANES, inner = m.d_ff + LANES;
    const int64_t heads = m.n_heads * m.d_head, narrow = m.d_model + LANES;
    float *x = m.scratch, *qkv = x + m.n_rows_max * m.d_model, *mixed = qkv + m.n_rows_max * wide;
    float *up = mixed + m.n_rows_max * heads, *gate = up + m.n_rows_max * inner, *delta = gate + m.n_rows_max * inner;
    float *active = delta + m.n_rows_max * narrow, *own = active + m.n_rows_max * m.d_ff;
    const int64_t widest = std::max(std::max(m.d_model, heads), m.d_ff), own_floats = floats_of_a_thread(m);
    Meeting meeting;
#pragma omp parallel num_threads(m.n_threads)
    {
        float *normed = own + omp_get_thread_num() * own_floats;  // each thread computes all of it, for itself
        float *packed = normed + m.n_rows_max * m.d_model, *scores = packed + m.n_rows_max * widest;
        const Step step{m, omp_get_thread_num(), omp_get_num_threads(), n_rows, slots, positions, packed};
        const Share rows = share(n_rows, step.thread, step.n_threads);
        const Share units = share(n_rows * m.n_kv_heads, step.thread, step.n_threads);
        for (int64_t r = rows.first; r < rows.last; r++)
            for (int64_t i = 0; i < m.d_model; i++)
                x[r * m.d_model + i] = m.embedding[ids[r] * m.d_model + i] +
                                       (m.places ? m.places[positions[r] * m.d_model + i] : 0.0f);
        meeting.wait(step.n_threads);
        for (int64_t layer = 0; layer < m.n_layers; layer++) {
            const Layer &l = m.layers[layer];
            for (int64_t r = 0; r < n_rows; r++)
                step.normalize(l.attention_norm, x + r * m.d_model, normed + r * m.d_model, m.d_model, m.is_rms);
            step.multiply(l.qkv, normed, qkv, wide, n_rows);
            meeting.wait(step.n_threads);
            for (int64_t u = units.first; u < units.last; u++) {
                const int64_t r = u / m.n_kv_heads, g = u % m.n_kv_heads;
                if (m.cache_kind == FP32) step.remember<float>(layer, r, g, qkv + r * wide);
                if (m.cache_kind == BF16) step.remember<uint16_t>(layer, r, g, qkv + r * wide);
            }
            if (has_prompts) meeting.wait(step.n_threads);  // rows see keys that other threads wrote
            for (int64_t u = units.first; u < units.last; u++) {
                const int64_t r = u / m.n_kv_heads, g = u % m.n_kv_heads;
                if (m.cache_kind == FP32) step.attend<float>(layer, r, g, qkv + r * wide, mixed + r * heads, scores);
                if (m.cache_kind == BF16) step.attend<uint16_t>(layer, r, g, qkv + r * wide, mixed + r * heads, scores);
            }
            meeting.wait(step.n_threads);
            step.multiply(l.out, mixed, delta, narrow, n_rows);
            step.add(x, delta, narrow);
            meeting.wait(step.n_threads);
            for (int64_t r = 0; r < n_rows; r++)
                step.normalize(l.mlp_norm, x + r * m.d_model, normed + r * m.d_model, m.d_model, m.is_rms);
            step.multiply(l.up, normed, up, inner, n_rows);
            if (l.gate.weight) step.multiply(l.gate, normed, gate, inner, n_rows);
            step.activate(l, up, gate, inner, active);
            meeting.wait(step.n_threads);
            step.multiply(l.down, active, delta, narrow, n_rows);
            step.add(x, delta, narrow);
            meeting.wait(step.n_threads);
        }
        for (int64_t r = 0; r < n_logits; r++)
            step.normalize(m.norm, x + logit_rows[r] * m.d_model, normed + r * m.d_model, m.d_model, m.is_rms);
        step.multiply(m.head, normed, logits, logit_stride, n_logits);
    }
}
