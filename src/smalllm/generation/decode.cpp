// The forward pass of `model/gpt.py` for some tokens at a time, on CPUs, written to read every weight once.
//
// Called by `native.py`. Activations are FP32; weights are FP32, BF16 or int8 with a scale per output, laid out for
// vectors (`products.h`) or for the matrix unit (`tiles.h`). Keys are stored in blocks of 16 positions,
// [positions / 16][K][16], so that one vector holds one number of 16 keys; values [positions][K].
//
// The arithmetic of a row is the same whatever other rows are computed with it: results do not depend on the batch.
#include <omp.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "model.h"
#include "products.h"
#include "tiles.h"

namespace {

struct Step {
    const Model &m;
    int thread, n_threads;
    int64_t n_rows;
    const int64_t *slots, *positions;
    float *packed;

    // A thread's part of n outputs, whole blocks; of every product and what follows from it without waiting, the same.
    Share outputs(int64_t n) const {
        const int64_t size = m.tiles ? TILE_OUTPUTS : LANES;
        const Share blocks = share((n + size - 1) / size, thread, n_threads);
        return {blocks.first * size, std::min(blocks.last * size, n)};
    }

    template <class W>
    void multiply_with(const Matrix &w, const float *x, float *y, int64_t ys, int64_t rows) const {
        const Share part = outputs(w.n_out);
        if constexpr (sizeof(W) < sizeof(float))
            if (m.tiles) {
                char *tiles = reinterpret_cast<char *>(packed + m.n_rows_max);
                pack_tiles<W>(w, x, rows, tiles, packed);
                multiply_tiles<W>(w, {part.first / TILE_OUTPUTS, part.last / TILE_OUTPUTS}, tiles, packed, y, ys, rows);
                return;
            }
        pack_rows(w, x, rows, packed);
        multiply_rows<W>(w, {part.first / LANES, part.last / LANES}, packed, y, ys, rows);
    }

    void multiply(const Matrix &w, const float *x, float *y, int64_t ys, int64_t rows) const {
        if (m.kind == FP32) multiply_with<float>(w, x, y, ys, rows);
        if (m.kind == BF16) multiply_with<uint16_t>(w, x, y, ys, rows);
        if (m.kind == INT8) multiply_with<int8_t>(w, x, y, ys, rows);
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
    void score(const C *keys, const C *soon, const float *q, float scale, float *scores) const {
        Vec sums[4] = {};
        int64_t i = 0;
        for (; i + 4 <= m.d_head; i += 4) {
            fetch<4>(soon + i * LANES);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sums[j] += load(keys + (i + j) * LANES) * q[i + j];
        }
        for (; i < m.d_head; i++) sums[0] += load(keys + i * LANES) * q[i];
        store(scores, ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale);
    }

    template <class C, int BLOCKS>
    void mix(const C *values, const C *soon, const float *scores, int64_t n, float share_of_all, float *y) const {
        Vec sums[BLOCKS] = {};
        for (int64_t t = 0; t < n; t++) {
            fetch<BLOCKS>(soon + t * m.k_stride);
#pragma GCC unroll 4
            for (int b = 0; b < BLOCKS; b++) sums[b] += load(values + t * m.k_stride + b * LANES) * scores[t];
        }
        for (int b = 0; b < BLOCKS; b++) store(y + b * LANES, sums[b] * share_of_all);
    }

    // The exponentials of n scores less the largest, and their sum; up to whole vectors is room.
    float soften(float *scores, int64_t n) const {
        const int64_t n_whole = (n + LANES - 1) / LANES * LANES;
        std::fill(scores + n, scores + n_whole, scores[0]);
        Vec largest = load(scores), sums = {};
        for (int64_t t = LANES; t < n; t += LANES) {
            const Vec some = load(scores + t);
            largest = some > largest ? some : largest;
        }
        float most = largest[0], sum = 0;
        for (int i = 1; i < LANES; i++) most = std::max(most, largest[i]);
        for (int64_t t = 0; t < n; t += LANES) store(scores + t, exp_of(load(scores + t) - most));
        std::fill(scores + n, scores + n_whole, 0.0f);
        for (int64_t t = 0; t < n; t += LANES) sums += load(scores + t);
        for (int i = 0; i < LANES; i++) sum += sums[i];
        return sum;
    }

    // Keys and values of a head lie together, those of the next elsewhere: while keys are used, the values are fetched,
    // and while these are used, the next keys.
    template <class C>
    void attend(int64_t layer, Share units, const float *qkv, int64_t stride, float *y, float *scores) const {
        const int64_t n_group = m.n_heads / m.n_kv_heads, heads = m.n_heads * m.d_head;
        const float scale = 1.0f / std::sqrt(static_cast<float>(m.d_head));
        for (int64_t u = units.first; u < units.last; u++) {
            const int64_t row = u / m.n_kv_heads, g = u % m.n_kv_heads, n = positions[row] + 1;
            const int64_t then = std::min(u + 1, units.last - 1);
            const C *keys = cached<C>(m.keys, layer, slots[row], g);
            const C *values = cached<C>(m.values, layer, slots[row], g);
            const C *next = cached<C>(m.keys, layer, slots[then / m.n_kv_heads], then % m.n_kv_heads);
            for (int64_t h = g * n_group; h < (g + 1) * n_group; h++) {
                const float *q = qkv + row * stride + h * m.d_head;
                for (int64_t t = 0; t < n; t += LANES)
                    score(keys + t * m.k_stride, values + t * m.k_stride, q, scale, scores + t);
                const float of_all = 1.0f / soften(scores, n);
                float *mixed = scores + m.n_positions;  // whole vectors, of which the head's numbers are taken
                int64_t i = 0;
                for (; i + 4 * LANES <= m.k_stride; i += 4 * LANES)
                    mix<C, 4>(values + i, next + i, scores, n, of_all, mixed + i);
                for (; i < m.k_stride; i += LANES) mix<C, 1>(values + i, next + i, scores, n, of_all, mixed + i);
                std::memcpy(y + row * heads + h * m.d_head, mixed, m.d_head * sizeof(float));
            }
        }
    }

    // Inner activations; of the last whole vector only those that there are.
    void activate(const Layer &l, Share part, const float *up, const float *gate, int64_t stride, float *y) const {
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t i = part.first; i < part.last; i += LANES) {
                const Vec x = load(up + r * stride + i);
                Vec made;
                if (l.gate.weight) {
                    const Vec g = load(gate + r * stride + i);
                    made = x * g / (1.0f + exp_of(-g));
                } else {
                    const Vec inner = 0.7978845608f * (x + 0.044715f * x * x * x);
                    made = x / (1.0f + exp_of(-2.0f * inner));
                }
                std::memcpy(y + r * m.d_ff + i, &made, std::min<int64_t>(LANES, part.last - i) * sizeof(float));
            }
    }

    void add(float *x, const float *y, int64_t ys) const {
        const Share part = outputs(m.d_model);
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t i = part.first; i < part.last; i++) x[r * m.d_model + i] += y[r * ys + i];
    }
};

// Where threads wait for each other. OpenMP's own barrier spins for a whole time slice, in which, on a busy machine,
// the thread that is waited for cannot run: this one soon lets others run.
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

}  // namespace

// Whether matrices may be given as tiles.
extern "C" int64_t has_tiles() { return may_use_tiles(); }

// Floats of `Model.scratch`.
extern "C" int64_t scratch_floats(const Model *m) {
    const int64_t wide = (m->n_heads + 2 * m->n_kv_heads) * m->d_head + TILE_OUTPUTS, inner = m->d_ff + TILE_OUTPUTS;
    const int64_t shared = 2 * m->d_model + TILE_OUTPUTS + wide + m->n_heads * m->d_head + 2 * inner + m->d_ff;
    return m->n_rows_max * shared + m->n_threads * floats_of_a_thread(*m);
}

// One product, y [n_rows, stride] = W x + b, as `forward` does it: for tests. `packed` as `packed_floats` says.
extern "C" void multiply(const Matrix *w, int64_t kind, int64_t tiles, int64_t n_rows, const float *x, float *y,
                         int64_t stride, float *packed) {
    Model m{};
    m.kind = kind, m.tiles = tiles, m.n_rows_max = (n_rows + LANES - 1) / LANES * LANES;
    if (tiles) begin_tiles();
    Step{m, 0, 1, n_rows, nullptr, nullptr, packed}.multiply(*w, x, y, stride, n_rows);
    if (tiles) end_tiles();
}

// Read rows of (slot, position, token), the positions of a slot in order; then logits [n_logits, stride] of some rows.
extern "C" void forward(const Model *model, int64_t n_rows, const int64_t *ids, const int64_t *slots,
                        const int64_t *positions, int64_t has_prompts, int64_t n_logits, const int64_t *logit_rows,
                        float *logits, int64_t logit_stride) {
    const Model &m = *model;
    const int64_t wide = (m.n_heads + 2 * m.n_kv_heads) * m.d_head + TILE_OUTPUTS, inner = m.d_ff + TILE_OUTPUTS;
    const int64_t heads = m.n_heads * m.d_head, narrow = m.d_model + TILE_OUTPUTS;
    float *x = m.scratch, *qkv = x + m.n_rows_max * m.d_model, *mixed = qkv + m.n_rows_max * wide;
    float *up = mixed + m.n_rows_max * heads, *gate = up + m.n_rows_max * inner, *delta = gate + m.n_rows_max * inner;
    float *active = delta + m.n_rows_max * narrow, *own = active + m.n_rows_max * m.d_ff;
    const int64_t own_floats = floats_of_a_thread(m);
    Meeting meeting;
#pragma omp parallel num_threads(m.n_threads)
    {
        float *normed = own + omp_get_thread_num() * own_floats;  // each thread computes all of it, for itself
        float *packed = normed + m.n_rows_max * m.d_model, *scores = packed + packed_floats(m);
        const Step step{m, omp_get_thread_num(), omp_get_num_threads(), n_rows, slots, positions, packed};
        if (m.tiles) begin_tiles();
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
            if (m.cache_kind == FP32) step.attend<float>(layer, units, qkv, wide, mixed, scores);
            if (m.cache_kind == BF16) step.attend<uint16_t>(layer, units, qkv, wide, mixed, scores);
            meeting.wait(step.n_threads);
            step.multiply(l.out, mixed, delta, narrow, n_rows);
            step.add(x, delta, narrow);
            meeting.wait(step.n_threads);
            for (int64_t r = 0; r < n_rows; r++)
                step.normalize(l.mlp_norm, x + r * m.d_model, normed + r * m.d_model, m.d_model, m.is_rms);
            step.multiply(l.up, normed, up, inner, n_rows);
            if (l.gate.weight) step.multiply(l.gate, normed, gate, inner, n_rows);
            step.activate(l, step.outputs(m.d_ff), up, gate, inner, active);
            meeting.wait(step.n_threads);
            step.multiply(l.down, active, delta, narrow, n_rows);
            step.add(x, delta, narrow);
            meeting.wait(step.n_threads);
        }
        for (int64_t r = 0; r < n_logits; r++)
            step.normalize(m.norm, x + logit_rows[r] * m.d_model, normed + r * m.d_model, m.d_model, m.is_rms);
        step.multiply(m.head, normed, logits, logit_stride, n_logits);
        if (m.tiles) end_tiles();
    }
}
